"""Write a trained `TinyLlama` and its vocabulary into one GGUF file, in half precision.

The module knows the GGUF names of Llama's tensors and metadata. It does not know how the model was trained.
Source of the format: https://github.com/ggml-org/ggml/blob/master/docs/gguf.md
"""

import json
from pathlib import Path

import gguf
import torch
from tokenizers import Tokenizer
from torch import Tensor
from training.tiny_llama import TinyLlama
from training.vocabulary import CHAT_TEMPLATE, END, PRE_TOKENIZER, SPECIAL_TOKENS, token_id


def _interleaved(weight: Tensor, num_heads: int) -> Tensor:
    """Reorder the rows of a query or key projection for GGUF's rotary convention.

    We turn the pairs (i, i + half) of a head, GGUF's llama architecture means the pairs (2i, 2i + 1).
    """
    rows, columns = weight.shape
    return weight.view(num_heads, 2, rows // num_heads // 2, columns).transpose(1, 2).reshape(rows, columns)


def export_gguf(model: TinyLlama, tokenizer: Tokenizer, path: Path, *, name: str) -> None:
    """Write `model` and `tokenizer` to `path`.

    Args:
        model: The trained model.
        tokenizer: A byte-level BPE tokenizer whose first ids are `SPECIAL_TOKENS`.
        path: The file to write; overwritten if it exists.
        name: The model's name in the metadata.
    """
    config = model.config
    writer = gguf.GGUFWriter(str(path), "llama")
    writer.add_name(name)
    writer.add_license("apache-2.0")
    writer.add_file_type(gguf.LlamaFileType.MOSTLY_F16)
    writer.add_vocab_size(config.vocab_size)
    writer.add_context_length(config.context_length)
    writer.add_embedding_length(config.hidden_size)
    writer.add_block_count(config.num_layers)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.num_heads)
    writer.add_head_count_kv(config.num_heads)
    writer.add_rope_dimension_count(config.head_size)
    writer.add_rope_freq_base(config.rope_theta)
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    _add_vocabulary(writer, tokenizer)
    for tensor_name, tensor in model.state_dict().items():
        if tensor_name.endswith(("attn_q.weight", "attn_k.weight")):
            tensor = _interleaved(tensor, config.num_heads)  # noqa: PLW2901
        # Norms stay in full precision, as in every published F16 file.
        writer.add_tensor(tensor_name, tensor.to(torch.float32 if tensor.dim() == 1 else torch.float16).numpy())
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def _add_vocabulary(writer: gguf.GGUFWriter, tokenizer: Tokenizer) -> None:
    """Add tokens, merges, special ids and the chat template to the metadata."""
    token_ids = tokenizer.get_vocab()
    tokens = sorted(token_ids, key=lambda token: token_ids[token])
    merges = json.loads(tokenizer.to_str())["model"]["merges"]
    end = token_id(tokenizer, END)
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre(PRE_TOKENIZER)
    writer.add_token_list(tokens)
    writer.add_token_types(
        [gguf.TokenType.CONTROL if token in SPECIAL_TOKENS else gguf.TokenType.NORMAL for token in tokens]
    )
    writer.add_token_merges([" ".join(pair) for pair in merges])
    writer.add_bos_token_id(end)
    writer.add_eos_token_id(end)
    writer.add_pad_token_id(end)
    writer.add_add_bos_token(value=False)
    writer.add_chat_template(CHAT_TEMPLATE)
