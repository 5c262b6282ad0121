"""How many seconds a request keeps a slot busy, as a linear function of its lengths."""

from dataclasses import dataclass


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
