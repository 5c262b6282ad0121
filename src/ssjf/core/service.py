"""How many seconds a request keeps a slot busy, as a linear function of its lengths: given, or learned."""

from dataclasses import dataclass

from ssjf.core.types import Job


@dataclass(frozen=True, slots=True)
class LinearServiceModel:
    """Service seconds = base + per_input · input tokens + per_output · output tokens.

    The defaults are those of the SSJF paper's simulator (0.1 s + 0.02 s per output token).
    """

    base_s: float = 0.1
    per_input_token_s: float = 0.0
    per_output_token_s: float = 0.02

    def seconds(self, num_input_tokens: float, num_output_tokens: float) -> float:
        """Service seconds of one request on one slot."""
        return self.base_s + self.per_input_token_s * num_input_tokens + self.per_output_token_s * num_output_tokens

    def value(self, job: Job) -> None:
        """Give a job that has a prediction what policies order by: its predicted service and the quantiles of it."""
        prediction, num_input_tokens = job.prediction, job.request.num_prompt_tokens
        assert prediction is not None
        job.predicted_service_s = self.seconds(num_input_tokens, prediction.num_output_tokens)
        job.service_quantiles = tuple(
            (level, self.seconds(num_input_tokens, tokens)) for level, tokens in prediction.quantiles
        )


_PRIOR = LinearServiceModel(base_s=0.0, per_input_token_s=0.0002, per_output_token_s=0.02)
_MEMORY = 200  # finished requests that count, roughly


class MeasuredServiceModel:
    """A linear service model from decayed sums: prefill seconds per input token, decode seconds per output token.

    Until something was served, a prior of 5,000 input and 50 output tokens a second stands in; only the ratio of the
    two matters for the order.
    """

    def __init__(self) -> None:
        self._input_tokens, self._prefill_s = 1.0, _PRIOR.per_input_token_s
        self._output_tokens, self._decode_s = 1.0, _PRIOR.per_output_token_s

    def observe(
        self, *, num_input_tokens: int, num_output_tokens: int, prefill_s: float | None, total_s: float
    ) -> None:
        """Learn from one finished request.

        Args:
            num_input_tokens: length of its prompt.
            num_output_tokens: length of its answer.
            prefill_s: seconds from dispatch to the first token; None when the answer came in one piece.
            total_s: seconds from dispatch to the end.
        """
        fade = 1 - 1 / _MEMORY
        if prefill_s is not None and num_input_tokens > 0:
            self._input_tokens = fade * self._input_tokens + num_input_tokens
            self._prefill_s = fade * self._prefill_s + prefill_s
        decode_s = total_s - (self.model().per_input_token_s * num_input_tokens if prefill_s is None else prefill_s)
        if num_output_tokens > 1 and decode_s > 0:
            self._output_tokens = fade * self._output_tokens + num_output_tokens - 1
            self._decode_s = fade * self._decode_s + decode_s

    def model(self) -> LinearServiceModel:
        """What is known now."""
        return LinearServiceModel(
            base_s=0.0,
            per_input_token_s=self._prefill_s / self._input_tokens,
            per_output_token_s=self._decode_s / self._output_tokens,
        )
