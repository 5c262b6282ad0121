"""What the encoder sees of a request: token ids of its text, and a few numbers beside them.

Needs neither tokenizers nor torch by itself: the tokenizer is given. This module does not know what is predicted.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from ssjf.openai import rendered_turns

TRUNCATIONS = ("tail", "head-tail")
"""What is kept of a long text: its last tokens, or a quarter of the room for the first and the rest for the last."""

NUM_HISTORY_FEATURES = 3
"""Of the earlier answers of a conversation; see `history`."""

# No token of an ordinary vocabulary is longer on average; what is cut off before tokenizing would be cut off after it.
_CHARACTERS_PER_TOKEN = 16
_CHARACTERS_PER_ANSWER_TOKEN = 4  # of English text under common vocabularies


class Tokenizer(Protocol):
    """The part of `tokenizers.Tokenizer` that is used."""

    def encode(self, sequence: str, *, add_special_tokens: bool = True) -> Any:
        """An encoding, whose `ids` are the token ids."""
        ...


@dataclass(frozen=True, slots=True)
class Encoder:
    """Turns text into token ids, framed as the tokenizer's model wants them.

    Attributes:
        tokenizer: without truncation and padding of its own.
        max_length: of a row, in tokens, special ones included.
        truncation: one of `TRUNCATIONS`.
        prefix: special ids before the text, such as [CLS].
        suffix: special ids after it, such as [SEP].
    """

    tokenizer: Tokenizer
    max_length: int
    truncation: str
    prefix: tuple[int, ...]
    suffix: tuple[int, ...]

    @classmethod
    def around(cls, tokenizer: Tokenizer, *, max_length: int, truncation: str) -> "Encoder":
        """Learns from the tokenizer itself what it puts around a text."""
        bare = tokenizer.encode("a", add_special_tokens=False).ids
        framed = tokenizer.encode("a").ids
        start = next(i for i in range(len(framed)) if framed[i : i + len(bare)] == bare)
        return cls(tokenizer, max_length, truncation, tuple(framed[:start]), tuple(framed[start + len(bare) :]))

    def ids(self, text: str) -> list[int]:
        """The row of a text: at least one id, at most `max_length`. Any string has one."""
        room = self.max_length - len(self.prefix) - len(self.suffix)
        head = room // 4 if self.truncation == "head-tail" else 0
        limit = self.max_length * _CHARACTERS_PER_TOKEN
        if len(text) > 2 * limit:  # a megabyte need not be tokenized to be cut to 512 tokens
            text = text[:limit] + text[-limit:] if head else text[-limit:]
        # a lone surrogate has no UTF-8 form, which the tokenizer insists on
        text = text.encode("utf-8", "replace").decode()
        tokens = self.tokenizer.encode(text, add_special_tokens=False).ids
        if len(tokens) > room:
            tokens = tokens[:head] + tokens[len(tokens) - (room - head) :]
        return [*self.prefix, *tokens, *self.suffix] or [0]


def history(prompt: str) -> list[float]:
    """What the earlier answers of a conversation were like: their mean and last length (log scale), and their number.

    All zero for a first turn. Lengths are estimated from the text, when training and when serving alike.
    """
    answers = [
        math.log1p(len(text) / _CHARACTERS_PER_ANSWER_TOKEN)
        for role, text in rendered_turns(prompt)
        if role == "assistant"
    ]
    if not answers:
        return [0.0] * NUM_HISTORY_FEATURES
    # divided so that ordinary values are near 1, as the pooled features are
    return [sum(answers) / len(answers) / 5, answers[-1] / 5, math.log1p(len(answers))]


def side_features(prompt: str, model: str, target_models: Sequence[str]) -> npt.NDArray[np.float32]:
    """Numbers beside the pooled features: one-hot of the target models, then `history`.

    A model that is not among the target models is their average: as the first layer is linear, so is what it gets.
    No models at all are no columns.
    """
    average = 0.0 if model in target_models else 1 / max(len(target_models), 1)
    one_hot = [float(model == known) or average for known in target_models]
    return np.array([*one_hot, *history(prompt)], np.float32)
