"""A tiny Llama with random weights and a vocabulary trained here: all that a real engine needs to run."""

from pathlib import Path

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

_TEXT = [
    "Shortest job first serves the request that will be done soonest, and the mean completion time is least.",
    "The length of an answer is not known before it is given, but the question tells a good deal about it.",
    "Name a colour. Write a story of a lighthouse keeper and the sea. Explain how a compiler works, step by step.",
]
_CHAT = "{% for m in messages %}{{ m['role'] }}: {{ m['content'] }}\n{% endfor %}assistant:"


def write_tiny_model(folder: Path, *, hidden_size: int = 64, num_layers: int = 2) -> Path:
    """Weights, configuration and tokenizer in a folder; the same ones every time.

    Args:
        folder: made if it does not exist.
        hidden_size: a multiple of 32.
        num_layers: with more and wider ones a step takes longer.
    """
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=512, special_tokens=["<s>", "</s>"], initial_alphabet=pre_tokenizers.ByteLevel.alphabet()
    )
    tokenizer.train_from_iterator(_TEXT, trainer)
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, bos_token="<s>", eos_token="</s>")
    fast.chat_template = _CHAT
    fast.save_pretrained(folder)
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=len(fast),
        hidden_size=hidden_size,
        intermediate_size=2 * hidden_size,
        num_hidden_layers=num_layers,
        num_attention_heads=hidden_size // 32,
        num_key_value_heads=hidden_size // 32,
        max_position_embeddings=1024,
        bos_token_id=0,
        eos_token_id=1,
        initializer_range=0.3,  # far apart logits: rounding must not decide between two tokens
    )
    LlamaForCausalLM(config).save_pretrained(folder)
    return folder
