"""What the stages learn of target models, and how a score becomes tokens.

A length is first seen as a *score*: its place among all lengths of its target model, as a standard normal deviate, so
that models of different length and spread can be learned together and outliers do no harm. Beside the score stand
yes-no questions, whether it is above a few of the model's quantiles: of a model whose answers fall into two heaps, they
tell more than the mean. Score and questions are the *views* of a target model (`NUM_VIEWS`).

The name "" stands for the average model, which serves whoever is not known. This module does not know prompts.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import NormalDist
from typing import Any

import numpy as np
import numpy.typing as npt

from ssjf.core.types import Prediction
from ssjf.errors import ArtefactError
from ssjf.predict.ngram.features import Float64

LEVELS = (0.1, 0.25, 0.5, 0.75, 0.9)
"""Of the quantiles in every prediction."""

VIEW_LEVELS = (0.15, 0.35, 0.5, 0.65, 0.85)
NUM_VIEWS = 1 + len(VIEW_LEVELS)
NUM_TRAITS = 3

NUM_KNOTS = 16
_MIN_PER_KNOT = 40  # samples that the quantiles at a knot are taken from
_TIE = 1e-3  # by this much of the score the logarithm of a prediction still grows where a curve is flat
_MAX_SHRINKAGE = 0.75
_WIDENING = 1.25  # an unfamiliar prompt's quantiles lie this much farther apart than those of all lengths


def scores_of(truth: Float64) -> Float64:
    """Normal scores of one model's lengths (mid-ranks of ties), with standard deviation 1 unless all are alike."""
    ordered = np.sort(truth)
    ranks = np.searchsorted(ordered, truth, "left") + np.searchsorted(ordered, truth, "right")
    normal = np.vectorize(NormalDist().inv_cdf, otypes=[np.float64])
    scores: Float64 = normal(ranks / (2 * len(truth)))
    return scores / (scores.std() or 1.0)


def views_of(truth: Float64) -> Float64:
    """The views of one model's lengths; shape (n, NUM_VIEWS)."""
    above = truth[:, None] > np.quantile(truth, VIEW_LEVELS)
    return np.hstack([scores_of(truth)[:, None], 2.0 * above])


def traits_of(truth: Float64) -> Float64:
    """What tells one target model from another; shape (NUM_TRAITS,)."""
    logs = np.log1p(truth)
    return np.array([logs.mean(), logs.std(), np.median(logs)])


@dataclass(frozen=True, slots=True)
class Curves:
    """Turns scores of one target model into predictions.

    Attributes:
        knots: increasing scores; shape (NUM_KNOTS,).
        logs: log(1 + tokens) of the mean and of the quantiles at each knot; shape (1 + len(LEVELS), NUM_KNOTS).
        overall: the same of all lengths of the model; shape (1 + len(LEVELS),).
    """

    knots: Float64
    logs: Float64
    overall: Float64

    @classmethod
    def measure(cls, scores: Float64, ranks: Float64, truth: Float64) -> "Curves":
        """From scores that were predicted without knowing the truth.

        Args:
            scores: predicted; shape (n,).
            ranks: where the truths were among all lengths of their model, between 0 and 1; shape (n,).
            truth: lengths of the model that is described, which may be others; shape (m,).
        """
        order = np.argsort(scores, kind="stable")
        pieces = np.array_split(order, min(NUM_KNOTS, max(1, len(order) // _MIN_PER_KNOT)))
        knots = np.array([scores[piece].mean() for piece in pieces])
        logs = np.array([_summary(np.quantile(truth, ranks[piece])) for piece in pieces]).T
        # the nearest increasing curve would be isotonic regression; the mean of its two bounds is as good
        increasing = np.maximum.accumulate(logs, axis=1)
        decreasing = np.minimum.accumulate(logs[:, ::-1], axis=1)[:, ::-1]
        short = NUM_KNOTS - len(knots)
        return cls(
            np.pad(knots, (0, short), "edge"),
            np.pad((increasing + decreasing) / 2, ((0, 0), (0, short)), "edge"),
            _summary(truth),
        )

    def prediction(self, score: float, unfamiliarity: float, source: str) -> Prediction:
        """In tokens. An unfamiliar prompt (1) gets nearly the model's mean and wide quantiles; a familiar one is 0."""
        mean, *quantiles = (float(np.interp(score, self.knots, curve)) for curve in self.logs)
        overall, *wide = self.overall.tolist()
        middle = wide[LEVELS.index(0.5)]
        mean += _MAX_SHRINKAGE * unfamiliarity * (overall - mean) + _TIE * score
        pairs = tuple(
            (level, _tokens(q + unfamiliarity * (middle + _WIDENING * (w - middle) - q)))
            for level, q, w in zip(LEVELS, quantiles, wide, strict=True)
        )
        return Prediction(_tokens(mean), pairs, source)


def _summary(truth: Float64) -> Float64:
    """log(1 + tokens) of the mean and the quantiles."""
    return np.log1p([truth.mean(), *np.quantile(truth, LEVELS)])


def _tokens(log: float) -> float:
    # lengths are whole, and many may be alike: an error in the last digit would put a quantile below all of them
    return max(round(math.expm1(log), 6), 1.0)


@dataclass(frozen=True, slots=True)
class TargetModels:
    """The known target models, the average model "" first.

    Attributes:
        names: of the models; M of them.
        traits: shape (M, NUM_TRAITS).
        loadings: turns K components into views: components · loadings + offsets; shape (M, K, NUM_VIEWS).
        offsets: shape (M, NUM_VIEWS).
        curves: of each model.
    """

    names: tuple[str, ...]
    traits: Float64
    loadings: Float64
    offsets: Float64
    curves: tuple[Curves, ...]

    def places(self, models: Sequence[str]) -> npt.NDArray[np.int64]:
        """Where each model is among the names; unknown ones are the average model."""
        known = {name: place for place, name in enumerate(self.names)}
        return np.array([known.get(model, 0) for model in models], np.int64)

    def rows(self, described: Float64, components: Float64, places: npt.NDArray[np.int64]) -> Float64:
        """The features for trees: of the prompt, the model's own views, the average model's, and the model's traits."""
        own = np.add.reduce(components[:, :, None] * self.loadings[places], axis=1) + self.offsets[places]
        average = np.add.reduce(components[:, :, None] * self.loadings[0], axis=1) + self.offsets[0]
        return np.hstack([described, own, average, self.traits[places]])

    def arrays(self) -> dict[str, npt.NDArray[Any]]:
        """What `restore` takes, beside the names."""
        return {
            "target_traits": self.traits,
            "target_loadings": self.loadings,
            "target_offsets": self.offsets,
            "curve_knots": np.array([curves.knots for curves in self.curves]),
            "curve_logs": np.array([curves.logs for curves in self.curves]),
            "curve_overall": np.array([curves.overall for curves in self.curves]),
        }

    @classmethod
    def restore(
        cls, arrays: Mapping[str, npt.NDArray[Any]], names: Sequence[str], *, num_components: int
    ) -> "TargetModels":
        """The models that `arrays` described.

        Raises:
            ArtefactError: parts are of the wrong shape or not finite.
        """
        num, num_curves = len(names), 1 + len(LEVELS)
        shapes = {
            "target_traits": (num, NUM_TRAITS),
            "target_loadings": (num, num_components, NUM_VIEWS),
            "target_offsets": (num, NUM_VIEWS),
            "curve_knots": (num, NUM_KNOTS),
            "curve_logs": (num, num_curves, NUM_KNOTS),
            "curve_overall": (num, num_curves),
        }
        for name, shape in shapes.items():
            if arrays[name].shape != shape or not np.isfinite(arrays[name]).all():
                raise ArtefactError(f"has no {name} of shape {shape}")
        traits, loadings, offsets, knots, logs, overall = (arrays[name] for name in shapes)
        curves = tuple(Curves(*parts) for parts in zip(knots, logs, overall, strict=True))
        return cls(tuple(names), traits, loadings, offsets, curves)
