"""The n-gram predictor: a linear model on hashed n-grams of the prompt, trained offline, online or both.

    log(1 + tokens) ≈ level of the target model + row of the prompt · weights

The weights are shared by all target models; each model has a level and a spread of its own, and one never seen starts
from the average. Offline training (`ssjf.predict.training`) is ridge regression. Online, every finished request is
one step of the same regression with its covariance cut down to the diagonal (a Kalman filter; Dredze, Crammer and
Pereira's confidence-weighted learning, 2008): features seen seldom move much, features seen often hardly. A predictor
trained offline goes on with the certainty that the training data gave it.

The spread is empirical: the latest errors of predictions made before their truth was known. Quantiles are the
prediction plus quantiles of these errors; the point prediction is the *mean* in tokens (Duan's smearing estimate,
1983), because serving by least expected work minimises the mean wait when sizes are only known in distribution
(Rothkopf, 1966). The median is the quantile of level 0.5; within one target model both give the same order.

The module deliberately ignores `Request.max_tokens`: a benchmark that asks for a fixed number of output tokens puts
the truth there.
"""

import math
from collections import deque
from collections.abc import Iterable, Mapping, Sequence
from statistics import NormalDist
from typing import Any

import numpy as np
import numpy.typing as npt

from ssjf.core.types import Prediction, Request
from ssjf.errors import ArtefactError
from ssjf.predict.ngram import features
from ssjf.predict.ngram.linear import Weights

LEVELS = (0.1, 0.25, 0.5, 0.75, 0.9)
"""Of the quantiles in every prediction."""

NUM_ERRORS = 256
"""How many of the latest errors the spread is made of."""

# Before anything was seen: half of all answers between 66 and 340 tokens, a tenth below 31, a tenth above 700.
_PRIOR_LEVEL = math.log1p(150)
_PRIOR_ERRORS = tuple(NormalDist(sigma=1.2).inv_cdf((i + 0.5) / 32) for i in range(32))
_PRIOR_PENALTY = 0.5  # ridge penalty that an untrained predictor's first steps correspond to; 0.3 to 1 rank alike
_PRIOR_WEIGHT = 4  # requests that the level given at first counts for
_SLOWEST_RATE = 0.01  # of a level, so that it follows a model whose answers drift
_MAX_TARGETS = 256  # target models with a level of their own; the rest share the average
_MAX_LOG = 14.0  # 1.2 million tokens: no prediction is beyond


class Target:
    """What is known of one target model: the level of its answers and the errors made lately.

    Args:
        level: mean of log(1 + tokens) for a row whose weighted sum is 0.
        errors: of earlier predictions, in log(1 + tokens), the latest last; at least one.
        num_observed: requests that the level was learned from.
    """

    def __init__(self, level: float, errors: Iterable[float], num_observed: int = 0) -> None:
        self.level = level
        self.errors: deque[float] = deque(errors, maxlen=NUM_ERRORS)
        self.num_observed = num_observed
        self._measure_spread()

    def heir(self) -> "Target":
        """A target that starts from here, its spread made of fewer errors, so that its own soon outweigh them."""
        few = np.quantile(np.array(self.errors), (np.arange(len(_PRIOR_ERRORS)) + 0.5) / len(_PRIOR_ERRORS))
        return Target(self.level, few.tolist())

    def observe(self, error: float) -> None:
        """Learn the error, truth minus prediction, of one more request."""
        self.num_observed += 1
        self.level += error * max(1 / (self.num_observed + _PRIOR_WEIGHT), _SLOWEST_RATE)
        self.errors.append(error)
        self._measure_spread()

    def prediction(self, score: float, source: str) -> Prediction:
        """From the weighted sum of a prompt's row."""
        base = math.exp(min(max(self.level + score, 0.0), _MAX_LOG))
        quantiles = tuple((level, max(base * factor - 1, 1.0)) for level, factor in self._factors)
        return Prediction(max(base * self._mean_factor - 1, 1.0), quantiles, source)

    def _measure_spread(self) -> None:
        factors = np.exp(np.sort(np.array(self.errors)))
        self._mean_factor = float(factors.mean())
        self._factors = [(level, float(factors[int(level * len(factors))])) for level in LEVELS]


class NgramPredictor:
    """Predicts output lengths from hashed n-grams of the prompt; learns online from zero if nothing was given.

    Not safe for use from several threads at once: the host that owns it takes turns.

    Args:
        weights: of the hashed features and counts.
        variances: how unsure each weight is, relative to the noise of log(1 + tokens).
        average: what holds for a target model that is not known.
        targets: by name of the target model.
    """

    family = "ngram"

    def __init__(
        self,
        weights: Weights | None = None,
        variances: Weights | None = None,
        average: Target | None = None,
        targets: Mapping[str, Target] | None = None,
    ) -> None:
        untrained = np.full(features.TABLE_SIZE, 1 / _PRIOR_PENALTY, np.float32)
        self._weights = weights or Weights.zeros()
        self._variances = variances or Weights(untrained, np.full(features.NUM_COUNTS, 1 / _PRIOR_PENALTY))
        self._average = average or Target(_PRIOR_LEVEL, _PRIOR_ERRORS)
        self._targets = dict(targets or {})
        self._source = f"{self.family}@{features.FORMAT}"

    @property
    def target_models(self) -> tuple[str, ...]:
        """Names of the target models that have a level of their own."""
        return tuple(self._targets)

    def predict(self, requests: Sequence[Request]) -> list[Prediction]:
        """One prediction for each request; it depends on neither the other requests nor their order."""
        if not requests:
            return []
        scores = self._weights.apply(features.featurize([request.prompt for request in requests])).tolist()
        find, average, source = self._targets.get, self._average, self._source
        return [
            find(request.model, average).prediction(score, source)
            for request, score in zip(requests, scores, strict=True)
        ]

    def observe(self, request: Request, num_output_tokens: int) -> None:
        """Learn from one finished request. Cost: about that of a prediction."""
        rows = features.featurize([request.prompt])
        score = float(self._weights.apply(rows)[0])
        truth = math.log1p(max(num_output_tokens, 0))
        target = self._target(request.model)
        error = truth - min(max(target.level + score, 0.0), _MAX_LOG)
        target.observe(error)
        if target is not self._average:
            self._average.observe(truth - (self._average.level + score))
        self._step(rows, error)

    def _target(self, model: str) -> Target:
        if model and model not in self._targets and len(self._targets) < _MAX_TARGETS:
            self._targets[model] = self._average.heir()
        return self._targets.get(model, self._average)

    def _step(self, rows: features.Rows, error: float) -> None:
        """Move the weights towards the truth, each by its share of the uncertainty, and grow surer of them.

        One row's hash table places can be hit by both of its parts, hence the two halves one after the other.
        """
        middle = int(rows.starts[1])
        parts = [(rows.indices[:middle], rows.values[0]), (rows.indices[middle:], rows.values[1])]
        variances = self._variances
        gains = [variances.table.take(indices) * np.float32(value) for indices, value in parts]
        counts = rows.counts[0]
        count_gains = variances.counts * counts
        noise = 1.0
        total = noise + float(count_gains @ counts)
        total += sum(float(gain.sum()) * float(value) for gain, (_, value) in zip(gains, parts, strict=True))
        for gain, (indices, _) in zip(gains, parts, strict=True):
            self._weights.table[indices] += gain * np.float32(error / total)
            variances.table[indices] -= gain * gain / np.float32(total)
        self._weights.counts[:] += count_gains * (error / total)
        variances.counts[:] -= count_gains * count_gains / total

    def state(self) -> tuple[dict[str, npt.NDArray[Any]], dict[str, Any]]:
        """Everything learned, as arrays and as JSON: what `restore` takes."""
        known = {"": self._average, **self._targets}
        arrays: dict[str, npt.NDArray[Any]] = {
            "weights_table": self._weights.table,
            "weights_counts": self._weights.counts,
            "variances_table": self._variances.table,
            "variances_counts": self._variances.counts,
            "levels": np.array([target.level for target in known.values()]),
            "num_observed": np.array([target.num_observed for target in known.values()]),
            "errors": np.concatenate([np.array(target.errors) for target in known.values()]),
            "num_errors": np.array([len(target.errors) for target in known.values()]),
        }
        return arrays, {"features": features.FORMAT, "target_models": list(self._targets)}

    def learned(self) -> tuple[dict[str, npt.NDArray[Any]], dict[str, Any]]:
        """What finished requests and training have taught: all of it; what `resume` takes."""
        return self.state()

    def resume(self, arrays: Mapping[str, npt.NDArray[Any]], state: Mapping[str, Any]) -> None:
        """Go on from where `learned` was called.

        Raises:
            ArtefactError: it is of another version, or parts are missing or of the wrong shape.
        """
        self.__dict__.update(type(self).restore(arrays, state).__dict__)

    @classmethod
    def restore(cls, arrays: Mapping[str, npt.NDArray[Any]], state: Mapping[str, Any]) -> "NgramPredictor":
        """The predictor that `state` described.

        Raises:
            ArtefactError: it is of another version, or parts are missing or of the wrong shape.
        """
        if state.get("features") != features.FORMAT:
            found = state.get("features")
            raise ArtefactError(f"has features of format {found!r}, not {features.FORMAT}: train it anew")
        names = ["", *state.get("target_models", [])]
        shapes: dict[str, tuple[int, ...]] = {
            **dict.fromkeys(("weights_table", "variances_table"), (features.TABLE_SIZE,)),
            **dict.fromkeys(("weights_counts", "variances_counts"), (features.NUM_COUNTS,)),
            **dict.fromkeys(("levels", "num_observed", "num_errors"), (len(names),)),
        }
        for name, shape in shapes.items():
            if name not in arrays or arrays[name].shape != shape or not np.isfinite(arrays[name]).all():
                raise ArtefactError(f"has no {name} of shape {shape}")
        num_errors, errors = arrays["num_errors"], arrays.get("errors", np.zeros(0))
        if num_errors.min() < 1 or num_errors.sum() != len(errors) or not np.isfinite(errors).all():
            raise ArtefactError("has no errors to take the spread from")
        pieces = np.split(errors, np.cumsum(num_errors)[:-1])
        targets = {
            name: Target(float(level), piece.tolist(), int(num))
            for name, level, piece, num in zip(names, arrays["levels"], pieces, arrays["num_observed"], strict=True)
        }
        return cls(
            Weights(arrays["weights_table"].astype(np.float32), arrays["weights_counts"].astype(np.float64)),
            Weights(arrays["variances_table"].astype(np.float32), arrays["variances_counts"].astype(np.float64)),
            targets.pop(""),
            targets,
        )
