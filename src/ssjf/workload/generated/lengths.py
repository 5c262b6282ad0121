"""How long prompts and answers are, where no data say so: distributions as values.

None of them knows when requests come. Lengths are whole tokens of at least 1; a seed gives the same ones everywhere.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from ssjf.errors import ConfigError
from ssjf.workload.items import WorkItem

GRAMMAR = "constant:TOKENS | uniform:LOW:HIGH | exponential:MEAN | lognormal:MEAN:CV | paper"

# Vicuna-13B on LMSYS-Chat-1M, answers of more than 1 and fewer than 512 tokens: what the SSJF paper's artefact
# publishes of its 85,482 requests (level, tokens). Straight lines between them have mean 180; the published one is 177.
_PAPER = ((0.0, 2.0), (0.25, 41.0), (0.5, 140.0), (0.75, 294.0), (0.95, 447.0), (0.99, 502.0), (1.0, 511.0))


class Lengths(Protocol):
    """A distribution of lengths."""

    def draw(self, count: int, rng: np.random.Generator) -> NDArray[np.float64]:
        """So many independent lengths, not yet whole."""
        ...


@dataclass(frozen=True, slots=True)
class Constant:
    """All the same."""

    tokens: float

    def draw(self, count: int, rng: np.random.Generator) -> NDArray[np.float64]:
        """The same number again and again."""
        return np.full(count, self.tokens)


@dataclass(frozen=True, slots=True)
class Uniform:
    """Everything from `low` to `high` equally often."""

    low: float
    high: float

    def __post_init__(self) -> None:
        """Reject an empty range."""
        if self.low > self.high:
            raise ConfigError(f"lengths uniform:{self.low:g}:{self.high:g}: the lower end must come first")

    def draw(self, count: int, rng: np.random.Generator) -> NDArray[np.float64]:
        """Uniform numbers."""
        return rng.uniform(self.low, self.high, count)


@dataclass(frozen=True, slots=True)
class Exponential:
    """Memoryless; its coefficient of variation is 1."""

    mean: float

    def draw(self, count: int, rng: np.random.Generator) -> NDArray[np.float64]:
        """Exponential numbers."""
        return rng.exponential(self.mean, count)


@dataclass(frozen=True, slots=True)
class LogNormal:
    """Log-normal, as chat answers roughly are; by its mean and coefficient of variation."""

    mean: float
    cv: float

    def draw(self, count: int, rng: np.random.Generator) -> NDArray[np.float64]:
        """Log-normal numbers."""
        variance = math.log1p(self.cv**2)
        return rng.lognormal(math.log(self.mean) - variance / 2, math.sqrt(variance), count)


@dataclass(frozen=True, slots=True)
class Paper:
    """Answers of the SSJF paper's data, by its published percentiles."""

    def draw(self, count: int, rng: np.random.Generator) -> NDArray[np.float64]:
        """The inverse distribution function of uniform numbers."""
        levels, tokens = zip(*_PAPER, strict=True)
        drawn: NDArray[np.float64] = np.interp(rng.random(count), levels, tokens)
        return drawn


def parse_lengths(spec: str) -> Lengths:
    """A distribution from its text, for example ``lognormal:180:1.1``.

    Raises:
        ConfigError: it does not follow the grammar.
    """
    kind, *arguments = spec.split(":")
    kinds: dict[str, tuple[Callable[..., Lengths], int]] = {
        "constant": (Constant, 1),
        "uniform": (Uniform, 2),
        "exponential": (Exponential, 1),
        "lognormal": (LogNormal, 2),
        "paper": (Paper, 0),
    }
    make, num_arguments = kinds.get(kind, (None, 0))
    try:
        numbers = [float(argument) for argument in arguments]
    except ValueError:
        numbers = [math.nan]
    if make is None or len(numbers) != num_arguments or not all(0 < number <= 1e9 for number in numbers):
        raise ConfigError(f"lengths {spec!r}: expected {GRAMMAR}, with positive numbers")
    return make(*numbers)


def generate(count: int, *, outputs: Lengths, inputs: Lengths, seed: int) -> list[WorkItem]:
    """Requests of such lengths, without arrivals or prompts.

    Inputs and outputs are independent, and of arrivals that are generated from the same seed as well.
    """
    rng = np.random.default_rng([seed, 0x6C656E])
    output_tokens, input_tokens = (
        np.maximum(1, np.rint(lengths.draw(count, rng))).astype(int).tolist() for lengths in (outputs, inputs)
    )
    return [
        WorkItem(index=index, input_tokens=prompt, output_tokens=answer)
        for index, (prompt, answer) in enumerate(zip(input_tokens, output_tokens, strict=True))
    ]
