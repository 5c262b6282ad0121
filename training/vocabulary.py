"""The bundled model's vocabulary and the marks of its conversations.

Words are cut before byte-pair merging as the engine cuts them for the vocabulary type `PRE_TOKENIZER`, so that a
question has the same tokens in training and in service. One difference is known: the engine parts a full stop from the
line break after it. That concerns earlier answers in a conversation, never what the model generates.

The module does not know what is said with the vocabulary.
"""

from collections.abc import Iterable
from itertools import chain

from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, trainers

END = "<|end|>"
SPECIAL_TOKENS = (END, "<|system|>", "<|user|>", "<|assistant|>")

# A system message has a mark of its own: the engine would fold it into the user's message if the template ignored it.
CHAT_TEMPLATE = (
    "{% for message in messages %}{{ '<|' + message['role'] + '|>' + message['content'] + '<|end|>' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|assistant|>' }}{% endif %}"
)

PRE_TOKENIZER = "llama-bpe"
_WORDS = (  # the expression that GGUF readers use for "llama-bpe"
    r"(?:'[sS]|'[tT]|'[rR][eE]|'[vV][eE]|'[mM]|'[lL][lL]|'[dD])|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}|"
    r" ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)


def train_tokenizer(texts: Iterable[str], vocab_size: int) -> Tokenizer:
    """Learn a byte-level byte-pair vocabulary of at most `vocab_size` tokens.

    The first ids are `SPECIAL_TOKENS`. Every number up to 100 is made one token, so that counting is a walk from token
    to token.
    """
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(_WORDS), "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=list(SPECIAL_TOKENS),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    numbers = [" ".join(map(str, range(101)))] * 1000
    tokenizer.train_from_iterator(chain(texts, numbers), trainer)
    return tokenizer


def token_id(tokenizer: Tokenizer, token: str) -> int:
    """Id of a token that is known to be in the vocabulary."""
    found: int | None = tokenizer.token_to_id(token)
    assert found is not None
    return found


def chat_prompt(user: str, system: str = "") -> str:
    """Render one question as `CHAT_TEMPLATE` does, ready for the answer."""
    preamble = f"<|system|>{system}{END}" if system else ""
    return f"{preamble}<|user|>{user}{END}<|assistant|>"
