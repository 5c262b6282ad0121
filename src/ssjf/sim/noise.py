"""Predictions of a known quality, made from the truth: what would a scheduler do with a predictor that is this good?

Each model takes true lengths and a random generator, and gives one prediction in tokens for each.
"""

import math
from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

from ssjf.errors import ConfigError

Floats = NDArray[np.float64]
Noise = Callable[[Floats, np.random.Generator], Floats]

GRAMMAR = "oracle | lognormal:SIGMA | classes:COUNT:ACCURACY | reversed | random | constant | stale:LAG"

_DRAWN = ("lognormal", "classes", "random")  # the others say the same for every seed
_MOST_CLASSES = 1000
_MOST_SIGMA = 20.0


def parse_noise(spec: str) -> Noise | None:
    """A noise model from its text; None when it is not the name of one.

    Raises:
        ConfigError: its numbers are wrong.
    """
    kind, *arguments = spec.split(":")
    makers: dict[str, tuple[int, Callable[..., Noise]]] = {
        "oracle": (0, lambda: lambda true, _: true),
        "lognormal": (1, lognormal),
        "classes": (2, classes),
        "reversed": (0, lambda: reversed_order),
        "random": (0, lambda: lambda true, rng: rng.permutation(true)),
        "constant": (0, lambda: lambda true, _: np.full(len(true), true.mean())),
        "stale": (1, stale),
    }
    if kind not in makers:
        return None
    count, make = makers[kind]
    try:
        numbers = [float(argument) for argument in arguments]
    except ValueError:
        numbers = []
    if len(numbers) != count or len(arguments) != count or not all(0 <= n < math.inf for n in numbers):
        raise ConfigError(f"predictor {spec!r}: expected one of {GRAMMAR}")
    return make(*numbers)


def is_drawn(spec: str | None) -> bool:
    """Whether what a predictor says hangs on the seed."""
    return spec is not None and spec.partition(":")[0] in _DRAWN


def lognormal(sigma: float) -> Noise:
    """The truth times exp(σ·N(0, 1)): the median is right, the spread is σ.

    Raises:
        ConfigError: a σ that leaves nothing of the truth, nor numbers that can be reckoned with.
    """
    if sigma > _MOST_SIGMA:
        raise ConfigError(f"predictor lognormal:SIGMA needs a SIGMA up to {_MOST_SIGMA:g}")
    return lambda true, rng: true * np.exp(sigma * rng.standard_normal(len(true)))


def classes(count: float, accuracy: float) -> Noise:
    """Percentile classes of equal mass; the right one with the given probability, else a neighbour; its mean length.

    Raises:
        ConfigError: fewer than two classes, or a probability above 1.
    """
    if not 2 <= count <= _MOST_CLASSES or count != int(count) or accuracy > 1:
        raise ConfigError(
            f"predictor classes:COUNT:ACCURACY needs a whole COUNT from 2 to {_MOST_CLASSES} and an ACCURACY up to 1"
        )

    def predict(true: Floats, rng: np.random.Generator) -> Floats:
        edges = np.quantile(true, np.arange(1, int(count)) / count)
        label = np.searchsorted(edges, true, side="left")
        step = np.where(rng.random(len(true)) < 0.5, -1, 1)
        wrong = np.where((label + step < 0) | (label + step >= count), label - step, label + step)
        guess = np.where(rng.random(len(true)) < accuracy, label, wrong)
        means = np.array([true[label == k].mean() if (label == k).any() else true.mean() for k in range(int(count))])
        result: Floats = means[guess]
        return result

    return predict


def reversed_order(true: Floats, _: np.random.Generator) -> Floats:
    """The worst ranking there is: the shortest job is given the longest length, and so on."""
    order = np.argsort(true, kind="stable")
    predicted = np.empty_like(true)
    predicted[order] = true[order[::-1]]
    return predicted


def stale(lag: float) -> Noise:
    """Each job is predicted to be as long as the job `lag` rows before it was."""

    def predict(true: Floats, _: np.random.Generator) -> Floats:
        return np.roll(true, int(lag))

    return predict


def predict_all(noise: Noise, output_tokens: Sequence[int], *, seed: int) -> list[float]:
    """Predictions for a whole workload, the same for the same seed."""
    # a stream of its own, so that arrivals and predictions of one seed are independent
    rng = np.random.default_rng([seed, 0x70726564])
    return [float(tokens) for tokens in noise(np.asarray(output_tokens, dtype=np.float64), rng)]
