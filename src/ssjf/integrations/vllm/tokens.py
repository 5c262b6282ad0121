"""Predicting from token ids, fast enough for an engine's step loop.

Inside the engine there is no text any more. The n-gram predictor does not mind: token ids written as words are words to
it, and it learns online what they mean. It starts from nothing with every engine.

This module does not know which tokenizer the ids are from.
"""

import logging
from collections import deque
from collections.abc import Sequence

from ssjf.core.types import Prediction, Request
from ssjf.predict.base import Predictor
from ssjf.predict.ngram.predictor import NgramPredictor

_log = logging.getLogger(__name__)
_KEPT = 128  # tokens from the head and as many from the tail of a longer prompt: a prediction stays near 0.1 ms
_FALLBACK = Prediction(256.0, source="fallback")
_MAX_LESSONS = 1000  # that wait to be learned; when many finish at once the oldest are dropped


def as_words(token_ids: Sequence[int]) -> str:
    """A prompt's token ids as a text that predictors of text can read; long ones by their head and tail."""
    ids = token_ids if len(token_ids) <= 2 * _KEPT else [*token_ids[:_KEPT], *token_ids[-_KEPT:]]
    return " ".join(map(str, ids))


class TokenPredictor:
    """Predicts output lengths from prompts that `as_words` wrote, and learns a little at a time. Never raises.

    Args:
        predictor: who does the work.
    """

    def __init__(self, predictor: Predictor | None = None) -> None:
        self._predictor = predictor or NgramPredictor()
        self._complained = False
        self._lessons: deque[tuple[Request, int]] = deque(maxlen=_MAX_LESSONS)

    def predict(self, request: Request) -> Prediction:
        """One prediction, in about 0.1 ms."""
        try:
            return self._predictor.predict([request])[0]
        except Exception:  # noqa: BLE001 - the engine would stop with it
            self._complain()
            return _FALLBACK

    def observe(self, request: Request, num_output_tokens: int) -> None:
        """Have a finished request learned when there is time."""
        self._lessons.append((request, num_output_tokens))

    def learn(self, limit: int) -> None:
        """Take that time: up to so many lessons, about 0.2 ms each."""
        for _ in range(min(limit, len(self._lessons))):
            try:
                self._predictor.observe(*self._lessons.popleft())
            except Exception:  # noqa: BLE001 - likewise
                self._complain()

    def _complain(self) -> None:
        if not self._complained:
            self._complained = True
            _log.exception("the predictor failed; requests go on without")
