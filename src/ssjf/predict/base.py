"""The seam to every predictor of output lengths.

This module does not know how any prediction is made, nor who asks for it.
"""

from collections.abc import Sequence
from typing import Protocol

from ssjf.core.types import Prediction, Request


class Predictor(Protocol):
    """Guesses how many tokens the answer to a request will have, and may learn from the truth."""

    def predict(self, requests: Sequence[Request]) -> list[Prediction]:
        """One prediction for each request, in order. May raise: the caller falls back and goes on."""
        ...

    def observe(self, request: Request, num_output_tokens: int) -> None:
        """Learn the true length of a finished request; may do nothing."""
        ...
