"""From a network's outputs to predictions in tokens, with quantiles.

    value       a scaled length: what is left of validation lengths makes the spread
    rank        a score that only orders: isotonic regression on validation data gives it tokens, then the same
    class       probabilities of classes: a mixture of the lengths that the classes have in the training data
    quantile    scaled quantiles, each moved so that the right share of validation lengths lies below

The point prediction is the mean in tokens, as everywhere (see `ssjf.predict.ngram.predictor`). All state is JSON. This
module does not know who made the outputs.
"""

from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from ssjf.core.types import Prediction
from ssjf.errors import ArtefactError, DataError
from ssjf.predict.ngram.predictor import LEVELS
from ssjf.predict.proxy.formulations import Float64, Scale, Targets

_NUM_ERRORS = 256  # that a spread is kept as
_NUM_POINTS = 32  # that stand for the lengths of a class
_MAX_LOG = 14.0  # 1.2 million tokens: no prediction is beyond
_TEMPERATURES = np.geomspace(0.25, 8, 41)

# Share of the distribution that each quantile in LEVELS stands for when the mean is taken.
_SHARES = np.diff([0.0, *((a + b) / 2 for a, b in pairwise(LEVELS)), 1.0])


class Decoder(Protocol):
    """Reads outputs of shape (n, `num_outputs`)."""

    num_outputs: int

    def scores(self, outputs: npt.ArrayLike) -> Float64:
        """Expected tokens: what policies will order by; shape (n,)."""
        ...

    def predictions(self, outputs: npt.ArrayLike, source: str) -> list[Prediction]:
        """One for each row."""
        ...

    def to_json(self) -> dict[str, Any]:
        """What `decoder_from` takes."""
        ...


class ScoreDecoder:
    """One number a row, mapped to log(1 + tokens): by a scale, or along knots between isotonic blocks.

    Args:
        errors: truth minus prediction of validation lengths, in log(1 + tokens); at least one.
        scale: of a regression, or
        knots: (scores, log(1 + tokens)), both increasing.
    """

    num_outputs = 1

    def __init__(
        self,
        errors: Sequence[float],
        *,
        scale: Scale | None = None,
        knots: tuple[list[float], list[float]] | None = None,
    ) -> None:
        if knots is not None and (len(knots[0]) != len(knots[1]) or any((np.diff(part) < 0).any() for part in knots)):
            raise ArtefactError("has knots that are no increasing function")
        self._errors, self._scale, self._knots = [float(error) for error in errors], scale, knots
        factors = np.exp(_finite(errors))
        self._mean = float(factors.mean())
        self._factors = np.quantile(factors, LEVELS)

    @classmethod
    def fit(cls, targets: Targets, outputs: Float64, num_output_tokens: npt.ArrayLike) -> "ScoreDecoder":
        """Learn the spread, and the map where outputs only order, from validation data."""
        truth, scores = np.log1p(np.asarray(num_output_tokens, np.float64)), outputs[:, 0]
        if targets.formulation.decoder == "value":
            fitted = cls([0.0], scale=targets.scale)
        else:
            fitted = cls([0.0], knots=isotonic(scores, truth))
        errors = np.sort(truth - fitted._log_tokens(outputs))
        if len(errors) > _NUM_ERRORS:
            errors = np.quantile(errors, (np.arange(_NUM_ERRORS) + 0.5) / _NUM_ERRORS)
        return cls(errors.tolist(), scale=fitted._scale, knots=fitted._knots)

    def _log_tokens(self, outputs: npt.ArrayLike) -> Float64:
        scores = np.asarray(outputs, np.float64)[:, 0]
        if self._scale is not None:
            return self._scale.log_tokens(scores)
        assert self._knots is not None
        return np.interp(scores, *self._knots)

    def _bases(self, outputs: npt.ArrayLike) -> Float64:
        bases: Float64 = np.exp(np.clip(self._log_tokens(outputs), 0.0, _MAX_LOG))
        return bases

    def scores(self, outputs: npt.ArrayLike) -> Float64:
        """Expected tokens."""
        return np.maximum(self._bases(outputs) * self._mean - 1, 1.0)

    def predictions(self, outputs: npt.ArrayLike, source: str) -> list[Prediction]:
        """One for each row."""
        return _predictions(self.scores(outputs), self._bases(outputs)[:, None] * self._factors - 1, source)

    def to_json(self) -> dict[str, Any]:
        """What `decoder_from` takes."""
        scale = self._scale and {"unit": self._scale.unit, "centre": self._scale.centre, "spread": self._scale.spread}
        return {"kind": "score", "errors": self._errors, "scale": scale, "knots": self._knots}


class ClassDecoder:
    """Logits of classes, each a range of lengths.

    Args:
        points: for each class some lengths that stand for those in the training data; shape (classes, points).
        priors: log of the classes' shares there: weighting the loss by class took them out of the logits.
        temperature: what logits are divided by; more than 1 where training was too sure.
    """

    def __init__(self, points: npt.ArrayLike, priors: npt.ArrayLike, temperature: float) -> None:
        self._points, self._priors, self._temperature = _finite(points), _finite(priors), temperature
        self.num_outputs = len(self._points)
        if self._points.ndim != 2 or self._priors.shape != (self.num_outputs,) or not temperature > 0:
            raise ArtefactError("has classes that do not fit together")

    @classmethod
    def fit(cls, targets: Targets, outputs: Float64, num_output_tokens: npt.ArrayLike) -> "ClassDecoder":
        """Learn from training data what classes are, and from validation data how sure outputs may be."""
        by_class = targets.by_class()
        levels = (np.arange(_NUM_POINTS) + 0.5) / _NUM_POINTS
        points = np.array([np.quantile(lengths, levels) for lengths in by_class])
        # the points' mean is the class's mean, which a long tail would take from evenly spread quantiles
        points *= np.array([lengths.mean() / max(p.mean(), 1e-9) for lengths, p in zip(by_class, points, strict=True)])[
            :, None
        ]
        priors = np.log([len(lengths) / sum(map(len, by_class)) for lengths in by_class])
        truth = targets.classes(num_output_tokens)

        def surprise(temperature: float) -> float:
            chances = cls(points, priors, temperature).probabilities(outputs)
            return -float(np.log(np.maximum(chances[np.arange(len(truth)), truth], 1e-12)).mean())

        return cls(points, priors, float(min(_TEMPERATURES, key=surprise)))

    def probabilities(self, outputs: npt.ArrayLike) -> Float64:
        """Of the classes; shape (n, classes)."""
        logits = np.asarray(outputs, np.float64) / self._temperature + self._priors
        chances: Float64 = np.exp(logits - logits.max(axis=1, keepdims=True))
        chances /= chances.sum(axis=1, keepdims=True)
        return chances

    def scores(self, outputs: npt.ArrayLike) -> Float64:
        """Expected tokens: the classes' conditional means, weighted by their probabilities."""
        means: Float64 = self.probabilities(outputs) @ self._points.mean(axis=1)
        return np.maximum(means, 1.0)

    def predictions(self, outputs: npt.ArrayLike, source: str) -> list[Prediction]:
        """One for each row."""
        per_class = self._points.shape[1]
        order = np.argsort(self._points.ravel(), kind="stable")
        weights = np.repeat(self.probabilities(outputs) / per_class, per_class, axis=1)[:, order]
        places = [np.searchsorted(row, LEVELS) for row in np.cumsum(weights, axis=1)]
        quantiles = self._points.ravel()[order][np.minimum(places, len(order) - 1)]
        return _predictions(self.scores(outputs), quantiles, source)

    def to_json(self) -> dict[str, Any]:
        """What `decoder_from` takes."""
        return {
            "kind": "class",
            "points": self._points.tolist(),
            "priors": self._priors.tolist(),
            "temperature": self._temperature,
        }


class QuantileDecoder:
    """One output for each level of `LEVELS`.

    Args:
        scale: of the outputs.
        shifts: for each level, added in log(1 + tokens).
        factor: what the mean taken from the quantiles is multiplied by, for the tail beyond the last of them.
    """

    num_outputs = len(LEVELS)

    def __init__(self, scale: Scale, shifts: Sequence[float], factor: float) -> None:
        self._scale, self._shifts, self._factor = scale, _finite(shifts), float(_finite([factor])[0])
        if self._shifts.shape != (self.num_outputs,):
            raise ArtefactError("has quantiles of other levels")

    @classmethod
    def fit(cls, targets: Targets, outputs: Float64, num_output_tokens: npt.ArrayLike) -> "QuantileDecoder":
        """Learn the shifts and the factor from validation data."""
        tokens = np.asarray(num_output_tokens, np.float64)
        raw = cls(targets.scale, [0.0] * len(LEVELS), 1.0)
        rest = np.log1p(tokens)[:, None] - raw._log_quantiles(outputs)
        shifts = [float(np.quantile(column, level)) for column, level in zip(rest.T, LEVELS, strict=True)]
        shifted = cls(targets.scale, shifts, 1.0)
        return cls(targets.scale, shifts, float(tokens.mean() / shifted.scores(outputs).mean()))

    def _log_quantiles(self, outputs: npt.ArrayLike) -> Float64:
        # sorted before and after, for nothing else keeps quantiles from crossing
        ordered = np.sort(self._scale.log_tokens(outputs), axis=1) + self._shifts
        return np.sort(np.clip(ordered, 0.0, _MAX_LOG), axis=1)

    def scores(self, outputs: npt.ArrayLike) -> Float64:
        """Expected tokens."""
        means: Float64 = np.expm1(self._log_quantiles(outputs)) @ _SHARES
        return np.maximum(means * self._factor, 1.0)

    def predictions(self, outputs: npt.ArrayLike, source: str) -> list[Prediction]:
        """One for each row."""
        return _predictions(self.scores(outputs), np.expm1(self._log_quantiles(outputs)), source)

    def to_json(self) -> dict[str, Any]:
        """What `decoder_from` takes."""
        scale = {"unit": self._scale.unit, "centre": self._scale.centre, "spread": self._scale.spread}
        return {"kind": "quantile", "scale": scale, "shifts": self._shifts.tolist(), "factor": self._factor}


def fit_decoder(targets: Targets, outputs: npt.ArrayLike, num_output_tokens: npt.ArrayLike) -> Decoder:
    """The decoder of a formulation, from outputs for validation data and their true lengths.

    Raises:
        DataError: the outputs are no finite numbers.
    """
    rows = finite(outputs)
    kinds: dict[str, type[ClassDecoder | QuantileDecoder | ScoreDecoder]] = {
        "class": ClassDecoder,
        "quantile": QuantileDecoder,
    }
    return kinds.get(targets.formulation.decoder, ScoreDecoder).fit(targets, rows, num_output_tokens)


def finite(outputs: npt.ArrayLike) -> Float64:
    """Outputs as an array.

    Raises:
        DataError: they are no finite numbers.
    """
    rows = np.asarray(outputs, np.float64)
    if not np.isfinite(rows).all():
        raise DataError("training went astray (outputs are not finite); give a lower --learning-rate")
    return rows


def decoder_from(state: Mapping[str, Any]) -> Decoder:
    """The decoder that `to_json` described.

    Raises:
        ArtefactError: numbers are missing, not finite or do not fit together.
        KeyError, TypeError: parts are missing or something else.
    """
    if state["kind"] == "class":
        return ClassDecoder(state["points"], state["priors"], state["temperature"])
    scale = state["scale"] and Scale(**state["scale"])
    if state["kind"] == "quantile":
        return QuantileDecoder(scale, state["shifts"], state["factor"])
    knots = state["knots"] and (_finite(state["knots"][0]).tolist(), _finite(state["knots"][1]).tolist())
    if not (scale or knots):
        raise ArtefactError("has no map from scores to tokens")
    return ScoreDecoder(state["errors"], scale=scale, knots=knots)


def isotonic(scores: Float64, values: Float64) -> tuple[list[float], list[float]]:
    """Knots of the increasing step function nearest to the values: centre and height of each step.

    Pool adjacent violators (Ayer et al., 1955); interpolating between centres keeps the order of scores within a step.

    Args:
        scores: shape (n,), in any order.
        values: shape (n,).
    """
    distinct, which, counts = np.unique(scores, return_inverse=True, return_counts=True)
    blocks: list[list[float]] = []  # sum of values, sum of scores, count
    for block in zip(np.bincount(which, values), distinct * counts, counts, strict=True):
        blocks.append([float(number) for number in block])
        while len(blocks) > 1 and blocks[-2][0] / blocks[-2][2] >= blocks[-1][0] / blocks[-1][2]:
            last = blocks.pop()
            blocks[-1] = [a + b for a, b in zip(blocks[-1], last, strict=True)]
    return [block[1] / block[2] for block in blocks], [block[0] / block[2] for block in blocks]


def _finite(numbers: npt.ArrayLike) -> Float64:
    array = np.asarray(numbers, np.float64)
    if array.size == 0 or not np.isfinite(array).all():
        raise ArtefactError("has numbers that are missing or not finite")
    return array


def _predictions(means: Float64, quantiles: Float64, source: str) -> list[Prediction]:
    return [
        Prediction(mean, tuple(zip(LEVELS, row, strict=True)), source)
        for mean, row in zip(means.tolist(), np.maximum(quantiles, 1.0).tolist(), strict=True)
    ]
