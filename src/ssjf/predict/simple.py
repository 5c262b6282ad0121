"""Predictors that do not look at the prompt: the truth, and one number for everybody."""

from collections.abc import Mapping, Sequence

from ssjf.core.types import Prediction, Request


class Oracle:
    """Knows the true lengths, because somebody recorded them: the bound that no predictor can pass.

    Args:
        num_output_tokens: true length by request id.
    """

    def __init__(self, num_output_tokens: Mapping[str, float]) -> None:
        self._truth = dict(num_output_tokens)

    def predict(self, requests: Sequence[Request]) -> list[Prediction]:
        """The true lengths.

        Raises:
            KeyError: a request that was never recorded.
        """
        return [Prediction(float(self._truth[request.request_id]), source="oracle") for request in requests]

    def observe(self, request: Request, num_output_tokens: int) -> None:
        """There is nothing left to learn."""


class Constant:
    """The same length for every request, so that policies order by what else they know.

    Args:
        num_output_tokens: what to answer.
    """

    def __init__(self, num_output_tokens: float = 256.0) -> None:
        self._prediction = Prediction(float(num_output_tokens), source="constant")

    def predict(self, requests: Sequence[Request]) -> list[Prediction]:
        """One and the same prediction for each request."""
        return [self._prediction] * len(requests)

    def observe(self, request: Request, num_output_tokens: int) -> None:
        """A constant learns nothing."""
