"""Online correction: what finished requests teach about any predictor, whether that one learns itself or is frozen.

For each target model a ridge regression in log(1 + tokens) stacks, on what was predicted *before* the truth was known,

    the base predictor,  an n-gram model that learns online from zero,  a description of the prompt,
    what the request asks for beside it: tools, thinking, a thinking budget, JSON, a cap (`ssjf.openai.OPTIONS`)

so that bias, scale and the worth of the base are learned together: a base that ranks no better than chance loses its
say. Two experts are fitted, on a long and on a short past, and share the prediction by how well they did lately: after
a drift, such as a target model exchanged behind the same name, the short one takes over and the long one is forgotten.
Quantiles are the prediction plus quantiles of the latest errors, which were all made before their truth was known.

A target model never seen starts from what was learned of all.

Not safe for use from several threads at once: the host that owns it takes turns.
"""

import math
from collections import deque
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from ssjf.core.types import Prediction, Request
from ssjf.errors import ArtefactError
from ssjf.openai import OPTIONS
from ssjf.plugins import PREDICTORS, find
from ssjf.predict.base import Predictor
from ssjf.predict.ngram.predictor import LEVELS, NgramPredictor
from ssjf.predict.trees import prompt

Float32 = npt.NDArray[np.float32]
Float64 = npt.NDArray[np.float64]

FORMAT = 1
_FIRST = 2  # columns before the description: base, n-gram model
_OPTIONS_AT = _FIRST + len(prompt.NAMES)
_NUM_COLUMNS = _OPTIONS_AT + 2 * len(OPTIONS)  # whether each option is there, and its logarithm
_LONG, _SHORT = 1000, 120  # finished requests that the two experts go by
_REFIT_EVERY = 20  # of them; before that, whenever their number has grown by a quarter
# Requests that must speak against the prior for a column of standard deviation 1 to be believed half: chosen by the
# errors on each request when it is left out.
_PENALTIES = (30.0, 100.0, 300.0, 1000.0, 3000.0, 10_000.0)
_TEMPERATURE = 25  # finished requests over which the experts are compared
_NUM_ERRORS = 256
_FEW_ERRORS = 24  # below this, the errors of all target models stand in
_PRIOR_ERROR = 1.0  # standard deviation of log(1 + tokens), before anything was seen
_MAX_TARGETS = 64
_MAX_LOG = 14.0


class OnlinePredictor:
    """Any predictor, corrected by what finished requests teach.

    Args:
        base: what is corrected; an n-gram model that knows nothing if None.
    """

    family = "online"

    def __init__(self, base: Predictor | None = None) -> None:
        self._base: Predictor = NgramPredictor() if base is None else base
        self._knows = base is not None  # whether the base is worth anything before something was learned
        # a base that learns n-grams by itself needs no second one
        self._ngrams = self._base if isinstance(self._base, NgramPredictor) else NgramPredictor()
        self._average = _Target(_prior(knows=self._knows))
        self._targets: dict[str, _Target] = {}
        self._source = f"{self.family}@{FORMAT}"

    @property
    def target_models(self) -> tuple[str, ...]:
        """Names of the target models that it has learned about."""
        return tuple(self._targets)

    def predict(self, requests: Sequence[Request]) -> list[Prediction]:
        """One prediction for each request."""
        if not requests:
            return []
        rows, bases = self._rows(requests)
        found = []
        for request, row, base in zip(requests, rows, bases, strict=True):
            target = self._targets.get(request.model, self._average)
            if not target.num_observed and self._knows:
                found.append(base)
            else:
                found.append(target.prediction(row, self._average, self._source))
        return found

    def observe(self, request: Request, num_output_tokens: int) -> None:
        """Learn from one finished request. Costs about as much as a prediction."""
        rows, _ = self._rows([request])
        truth = math.log1p(max(num_output_tokens, 0))
        target = self._target(request.model)
        if target is not None:
            target.observe(rows[0], truth, prior=self._average.coefficients())
        self._average.observe(rows[0], truth, prior=_prior(knows=self._knows))
        self._base.observe(request, num_output_tokens)
        if self._ngrams is not self._base:
            self._ngrams.observe(request, num_output_tokens)

    def _rows(self, requests: Sequence[Request]) -> tuple[Float64, list[Prediction]]:
        """Columns of each request, and what the base said."""
        bases = list(self._base.predict(requests))
        ngrams = bases if self._ngrams is self._base else self._ngrams.predict(requests)
        rows = np.empty((len(requests), _NUM_COLUMNS))
        for column, predictions in enumerate((bases, ngrams)):
            rows[:, column] = [math.log1p(prediction.num_output_tokens) for prediction in predictions]
        rows[:, _FIRST:_OPTIONS_AT] = prompt.describe([request.prompt for request in requests])
        rows[:, _OPTIONS_AT:] = [_described_options(request) for request in requests]
        return rows, bases

    def _target(self, model: str) -> "_Target | None":
        if not model:
            return None
        if model not in self._targets and len(self._targets) < _MAX_TARGETS:
            self._targets[model] = _Target(self._average.coefficients())
        return self._targets.get(model)

    # --- state ------------------------------------------------------------------------------------------------------
    def learned(self) -> tuple[dict[str, npt.NDArray[Any]], dict[str, Any]]:
        """What finished requests have taught, without the base where that is frozen: what `resume` takes."""
        arrays: dict[str, npt.NDArray[Any]] = {}
        for place, target in enumerate((self._average, *self._targets.values())):
            arrays |= {f"target{place}_{name}": array for name, array in target.arrays().items()}
        ngram_arrays, ngram_state = self._ngrams.state()
        arrays |= {f"ngrams_{name}": array for name, array in ngram_arrays.items()}
        state = {
            "format": FORMAT,
            "columns": _NUM_COLUMNS,
            "prompt": prompt.FORMAT,
            "target_models": list(self._targets),
            "ngrams": ngram_state,
        }
        return arrays, state

    def resume(self, arrays: Mapping[str, npt.NDArray[Any]], state: Mapping[str, Any]) -> None:
        """Go on from where `learned` was called, with a base like the one of then.

        Raises:
            ArtefactError: it is of another version, or parts are missing or of the wrong shape.
        """
        if (state.get("format"), state.get("columns"), state.get("prompt")) != (FORMAT, _NUM_COLUMNS, prompt.FORMAT):
            raise ArtefactError(f"was learned in format {state.get('format')!r}, which this version does not read")
        models = [str(model) for model in state["target_models"]]
        ngrams = NgramPredictor.restore(_without_prefix(arrays, "ngrams_"), state["ngrams"])
        average, *targets = (
            _Target.restore(_without_prefix(arrays, f"target{place}_")) for place in range(len(models) + 1)
        )
        self._average, self._targets = average, dict(zip(models, targets, strict=True))
        if self._ngrams is self._base:
            self._base = ngrams
        self._ngrams = ngrams

    def state(self) -> tuple[dict[str, npt.NDArray[Any]], dict[str, Any]]:
        """Everything, the base included: what `restore` takes.

        Raises:
            ArtefactError: the base cannot be written down.
        """
        arrays, learned = self.learned()
        if self._ngrams is self._base:
            return arrays, {"learned": learned, "base": None, "knows": self._knows}
        if not hasattr(self._base, "state"):
            raise ArtefactError(f"the predictor {type(self._base).__name__} cannot be saved")
        base_arrays, base_state = self._base.state()
        arrays |= {f"base_{name}": array for name, array in base_arrays.items()}
        base = {"family": getattr(self._base, "family", ""), "state": base_state}
        return arrays, {"learned": learned, "base": base, "knows": self._knows}

    @classmethod
    def restore(cls, arrays: Mapping[str, npt.NDArray[Any]], state: Mapping[str, Any]) -> "OnlinePredictor":
        """The predictor that `state` described.

        Raises:
            ArtefactError: it is of another version, or parts are missing or of the wrong shape.
        """
        base = None
        if state["base"] is not None:
            family = find(PREDICTORS, str(state["base"]["family"]))
            base = family.restore(_without_prefix(arrays, "base_"), state["base"]["state"])
        elif state["knows"]:
            base = NgramPredictor()
        predictor = cls(base)
        predictor.resume(arrays, state["learned"])
        return predictor


def corrected(predictor: Predictor) -> Predictor:
    """The predictor itself, or, if it says that it is frozen, with a layer that learns from finished requests."""
    return OnlinePredictor(predictor) if getattr(predictor, "frozen", False) else predictor


class _Target:
    """What is known of one target model.

    Args:
        prior: coefficients to start from.
    """

    def __init__(self, prior: "_Coefficients") -> None:
        self._rows: deque[Float32] = deque(maxlen=_LONG)
        self._truths: deque[float] = deque(maxlen=_LONG)
        self._errors: deque[float] = deque(maxlen=_NUM_ERRORS)  # of the shared prediction, the latest last
        self._losses = np.zeros(2)  # of the long and the short expert, fading
        self._experts = [prior, prior]
        self._fitted_at = 0
        self.num_observed = 0

    def coefficients(self) -> "_Coefficients":
        """What a heir starts from: the expert that did better lately."""
        return self._experts[int(np.argmin(self._losses))]

    def score(self, row: Float64) -> float:
        """The expected log(1 + tokens)."""
        says = np.array([expert.apply(row) for expert in self._experts])
        return float(self._shares() @ says)

    def prediction(self, row: Float64, average: "_Target", source: str) -> Prediction:
        """In tokens."""
        errors = self._errors if len(self._errors) >= _FEW_ERRORS else average._errors  # noqa: SLF001 - same class
        spread = np.sort(np.array(errors)) if len(errors) >= _FEW_ERRORS else _PRIOR_ERRORS
        logs = np.clip(self.score(row) + spread, 0.0, _MAX_LOG)
        tokens = np.maximum(np.expm1(logs), 1.0)
        quantiles = tuple((level, float(tokens[int(level * len(tokens))])) for level in LEVELS)
        # the mean of what the errors make of it, cut at neither end: a clipped mean would tie long answers
        mean = math.exp(min(self.score(row), _MAX_LOG)) * float(np.exp(np.clip(spread, -3, 3)).mean()) - 1
        return Prediction(max(mean, 1.0), quantiles, source)

    def observe(self, row: Float64, truth: float, *, prior: "_Coefficients") -> None:
        """Learn one more truth."""
        errors = np.array([truth - expert.apply(row) for expert in self._experts])
        self._errors.append(truth - self.score(row))
        self._losses += (errors**2 - self._losses) / min(self.num_observed + 1, _TEMPERATURE)
        self._rows.append(row.astype(np.float32))
        self._truths.append(truth)
        self.num_observed += 1
        if self.num_observed - self._fitted_at >= min(_REFIT_EVERY, 1 + self._fitted_at // 4):
            self._fit(prior)

    def _fit(self, prior: "_Coefficients") -> None:
        self._fitted_at = self.num_observed
        rows, truths = np.array(self._rows, np.float64), np.array(self._truths)
        self._experts = [prior.fitted(rows, truths), prior.fitted(rows[-_SHORT:], truths[-_SHORT:])]
        long, short = self._losses
        if len(rows) > 2 * _SHORT and short < 0.8 * long:  # what was long ago misleads: it is forgotten
            for past in (self._rows, self._truths):
                for _ in range(len(past) - _SHORT):
                    past.popleft()

    def _shares(self) -> Float64:
        """How much each expert counts: by the likelihood of its latest errors."""
        scale = max(float(self._losses.min()), 1e-6)
        weights = np.exp(-0.5 * _TEMPERATURE * (self._losses - self._losses.min()) / scale)
        shares: Float64 = weights / weights.sum()
        return shares

    def arrays(self) -> dict[str, npt.NDArray[Any]]:
        """What `restore` takes."""
        return {
            "rows": np.array(self._rows, np.float32).reshape(-1, _NUM_COLUMNS),
            "truths": np.array(self._truths),
            "errors": np.array(self._errors),
            "losses": self._losses,
            "counts": np.array([self.num_observed, self._fitted_at]),
            "experts": np.array([expert.array() for expert in self._experts]),
        }

    @classmethod
    def restore(cls, arrays: Mapping[str, npt.NDArray[Any]]) -> "_Target":
        """The target that `arrays` described.

        Raises:
            ArtefactError: parts are missing, of the wrong shape or not finite.
        """
        try:
            rows, truths, errors, losses, counts, experts = (
                arrays[name] for name in ("rows", "truths", "errors", "losses", "counts", "experts")
            )
        except KeyError as error:
            raise ArtefactError(f"has no {error}") from None
        fits = (
            rows.shape == (len(truths), _NUM_COLUMNS)
            and losses.shape == counts.shape == (2,)
            and experts.shape == (2, 3, _NUM_COLUMNS + 1)
            and all(np.isfinite(array).all() for array in (rows, truths, errors, losses, experts))
        )
        if not fits:
            raise ArtefactError("has learned rows of the wrong shape")
        target = cls(_prior(knows=False))
        target._rows.extend(np.array(row, np.float32) for row in rows)
        target._truths.extend(truths.tolist())
        target._errors.extend(errors.tolist())
        target._losses = np.array(losses, np.float64)
        target.num_observed, target._fitted_at = (int(count) for count in counts)
        target._experts = [_Coefficients.from_array(expert) for expert in experts]
        return target


class _Coefficients:
    """A linear function of a row: level + Σ slope · (value − centre).

    Args:
        level: at the centre.
        slopes: shape (columns,).
        centre: shape (columns,).
        reach: farthest distances from the centre that count; shape (columns,).
    """

    def __init__(self, level: float, slopes: Float64, centre: Float64, reach: Float64) -> None:
        self.level = level
        self.slopes = slopes
        self.centre = centre
        self.reach = reach

    def apply(self, row: Float64) -> float:
        """The function's value; what lies far outside of what was seen counts no more than its border."""
        away = np.clip(row - self.centre, -self.reach, self.reach)
        return min(max(self.level + float(away @ self.slopes), 0.0), _MAX_LOG)

    def fitted(self, rows: Float64, truths: Float64) -> "_Coefficients":
        """Ridge regression that is drawn towards these coefficients."""
        centre, deviation = rows.mean(axis=0), rows.std(axis=0)
        known = deviation > _STILL
        scaled = np.where(known, (rows - centre) / np.where(known, deviation, 1.0), 0.0)
        prior = np.clip(rows - self.centre, -self.reach, self.reach) @ self.slopes + self.level
        rest = truths - prior
        level = rest.sum() / (len(rows) + 1)
        slopes = _ridge(scaled, rest - level)
        slopes = np.where(known, slopes / np.where(known, deviation, 1.0), 0.0) + self.slopes
        # the two predictions reach as far as they like: they are lengths already
        reach = np.where(np.arange(_NUM_COLUMNS) < _FIRST, _MAX_LOG, 4 * deviation)
        start = float(np.clip(centre - self.centre, -self.reach, self.reach) @ self.slopes + self.level)
        return _Coefficients(start + level, slopes, centre, reach)

    def array(self) -> Float64:
        """Shape (3, columns + 1)."""
        padded = [
            np.append(part, last) for part, last in ((self.slopes, self.level), (self.centre, 0), (self.reach, 0))
        ]
        return np.array(padded)

    @classmethod
    def from_array(cls, array: Float64) -> "_Coefficients":
        """What `array` described."""
        slopes, centre, reach = (np.array(part[:-1], np.float64) for part in array)
        return cls(float(array[0, -1]), slopes, centre, reach)


def _described_options(request: Request) -> list[float]:
    given = dict(request.options)
    return [value for name in OPTIONS for value in (float(name in given), math.log1p(given.get(name, 0.0)))]


def _ridge(rows: Float64, truths: Float64) -> Float64:
    """Slopes by the penalty that predicts each of n rows best from the others; exact, by the hat matrix's diagonal."""
    sizes, axes = np.linalg.eigh(rows.T @ rows)
    turned = rows @ axes
    aims = turned.T @ truths
    best_loss, best = math.inf, np.zeros(rows.shape[1])
    for penalty in _PENALTIES:
        shrunk = aims / (sizes + penalty)
        leverage = (turned**2) @ (1 / (sizes + penalty)) + 1 / len(rows)
        left_out = (truths - turned @ shrunk) / np.maximum(1 - leverage, 0.05)
        loss = float(left_out @ left_out)
        if loss < best_loss:
            best_loss, best = loss, axes @ shrunk
    return best


_STILL = 1e-6  # of a column that has not moved
_PRIOR_ERRORS = np.sort(np.random.default_rng(0).normal(0, _PRIOR_ERROR, 64))


def _prior(*, knows: bool) -> _Coefficients:
    """Before anything was seen: what the base says, if it may know something, else what the n-gram model says."""
    slopes = np.zeros(_NUM_COLUMNS)
    slopes[0 if knows else 1] = 1.0
    return _Coefficients(0.0, slopes, np.zeros(_NUM_COLUMNS), np.full(_NUM_COLUMNS, 1e9))


def _without_prefix(arrays: Mapping[str, npt.NDArray[Any]], prefix: str) -> dict[str, npt.NDArray[Any]]:
    return {name.removeprefix(prefix): array for name, array in arrays.items() if name.startswith(prefix)}
