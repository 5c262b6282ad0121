"""Offline training: split, fit, measure; and how the n-gram predictor is fitted.

Deterministic for a seed. This module reads no files and knows no workload format.
"""

from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from ssjf.core.types import Request
from ssjf.errors import DataError
from ssjf.predict.artefact import Saveable
from ssjf.predict.base import Predictor
from ssjf.predict.evaluation import evaluate
from ssjf.predict.ngram import features
from ssjf.predict.ngram.linear import RidgeProblem, Weights
from ssjf.predict.ngram.predictor import NUM_ERRORS, NgramPredictor, Target

MIN_PROMPTS = 20
"""Distinct prompts, or conversations, below which a split says nothing."""

_PENALTIES = (10.0, 3.0, 1.0, 0.3, 0.1, 0.03)
_VALIDATION = 0.125  # share of the prompts that choose the penalty and measure the spread
_MAX_FEATURES = 24_000_000  # about 1 GB while training; some 30,000 prompts of 100 words

Progress = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class Sample:
    """One prompt and how long its answer was; `max_tokens` is the client's cap, 0 for none."""

    prompt: str
    num_output_tokens: int
    model: str = ""
    max_tokens: int = 0
    num_prompt_tokens: int = 0


@dataclass(frozen=True, slots=True)
class Trained:
    """A trained predictor and what its card tells about it.

    Attributes:
        predictor: ready to predict and to go on learning.
        settings: how it was trained.
        split: which samples were used for what.
        metrics: on the held-out samples; see `ssjf.predict.evaluation.evaluate`.
        metrics_by_model: the same for each target model.
        openings: what the conversations began with that it was fitted on.
    """

    predictor: Saveable
    settings: dict[str, Any]
    split: dict[str, Any]
    metrics: dict[str, float | None]
    metrics_by_model: dict[str, dict[str, float | None]]
    openings: frozenset[str]


class Fitter(Protocol):
    """A way to make a predictor from samples, as `fit` is one."""

    def __call__(self, samples: Sequence[Sample], *, seed: int, progress: Progress) -> tuple[Saveable, dict[str, Any]]:
        """The predictor, and the settings that were given or chosen."""
        ...


def train(
    samples: Sequence[Sample],
    fitter: Fitter | None = None,
    *,
    holdout: float = 0.2,
    seed: int = 0,
    progress: Progress = lambda _: None,
) -> Trained:
    """Fit on a part of the prompts and measure on the rest.

    Args:
        samples: prompts and lengths; repeated prompts and several target models are fine.
        fitter: how to fit; the n-gram predictor's way if None.
        holdout: share of the distinct prompts to measure on, between 0 and 1, both excluded.
        seed: of the split.
        progress: told in a few words what happens next.

    Raises:
        DataError: there is too little to learn from.
    """
    num_prompts = len({features.opening(sample.prompt) for sample in samples})
    if num_prompts < MIN_PROMPTS:
        raise DataError(f"{num_prompts} distinct prompts with a length are too few: {MIN_PROMPTS} at least")
    if len({sample.num_output_tokens for sample in samples}) == 1:
        raise DataError("every answer has the same length: nothing to learn (the predictor 'constant' will do)")
    training, held_out = split_by_prompt(samples, share=holdout, seed=seed)
    predictor, settings = (fitter or fit)(training, seed=seed, progress=progress)
    progress(f"measuring on {len(held_out)} held-out samples")
    by_model = defaultdict(list)
    for sample in held_out:
        by_model[sample.model].append(sample)
    return Trained(
        predictor=predictor,
        settings=settings,
        split={"by": "prompt", "seed": seed, "holdout": holdout, "train": len(training), "test": len(held_out)},
        metrics=measure(predictor, held_out),
        metrics_by_model={model: measure(predictor, group) for model, group in sorted(by_model.items()) if model},
        openings=frozenset(features.opening(sample.prompt) for sample in training),
    )


def measure(predictor: Predictor, samples: Sequence[Sample]) -> dict[str, float | None]:
    """The predictor's metrics on some samples, without learning from them."""
    predictions = predictor.predict([as_request(sample) for sample in samples])
    return evaluate(predictions, [sample.num_output_tokens for sample in samples])


def as_request(sample: Sample, request_id: str = "sample") -> Request:
    """What a client would have sent to get this sample's answer."""
    return Request(
        request_id=request_id,
        prompt=sample.prompt,
        num_prompt_tokens=sample.num_prompt_tokens,
        model=sample.model,
        max_tokens=sample.max_tokens,
        arrival_time=0.0,
        options=(("max_tokens", float(sample.max_tokens)),) if sample.max_tokens else (),
    )


def split_by_prompt(samples: Sequence[Sample], *, share: float, seed: int) -> tuple[list[Sample], list[Sample]]:
    """Set aside the samples of a share of the distinct prompts; all samples of a prompt stay together.

    So do the turns of a conversation, and all conversations that begin alike.
    """
    openings = [features.opening(sample.prompt) for sample in samples]
    distinct = sorted(set(openings))
    order = np.random.default_rng(seed).permutation(len(distinct))
    apart = {distinct[i] for i in order[: max(1, round(share * len(distinct)))]}
    pairs = list(zip(samples, openings, strict=True))
    return (
        [sample for sample, its_opening in pairs if its_opening not in apart],
        [sample for sample, its_opening in pairs if its_opening in apart],
    )


def fit(
    samples: Sequence[Sample], *, seed: int = 0, progress: Progress = lambda _: None
) -> tuple[NgramPredictor, dict[str, Any]]:
    """Fit on all the samples. An eighth of the prompts first chooses the penalty and measures the spread.

    Args:
        samples: of two distinct prompts at least.
        seed: of the split.
        progress: told in a few words what happens next.

    Returns:
        The predictor, and the settings that were chosen.
    """
    inner, validation = split_by_prompt(samples, share=_VALIDATION, seed=seed)
    progress(f"choosing the penalty on {len(validation)} of {len(samples)} samples")
    data, checks = _Design(inner, seed), _Design(validation, seed)
    problem = RidgeProblem(data.rows, data.targets)
    best_error, penalty, weights = float("inf"), _PENALTIES[0], Weights.zeros()
    for candidate in _PENALTIES:
        solution = problem.solve(candidate)
        levels = data.levels(solution)
        error = float(np.mean(checks.errors(solution, levels) ** 2))
        progress(f"penalty {candidate:g}: mean squared error of log(1 + tokens) {error:.4f}")
        if error >= best_error:
            break
        best_error, penalty, weights = error, candidate, solution
    levels = data.levels(weights)
    errors = checks.errors(weights, levels)
    average_errors = checks.errors(weights, {"": levels[""]})

    progress("fitting on all of them")
    data = _Design(samples, seed)
    problem = RidgeProblem(data.rows, data.targets)
    weights = problem.solve(penalty)
    levels = data.levels(weights)
    rng = np.random.default_rng(seed)

    def target(model: str, its_errors: features.Float64) -> Target:
        if len(its_errors) == 0:  # none of its prompts was among those set aside
            its_errors = average_errors
        kept = rng.permutation(its_errors)[:NUM_ERRORS].tolist()
        return Target(levels[model], kept, data.num_samples(model))

    targets = {model: target(model, errors[checks.of_model(model)]) for model in levels if model}
    predictor = NgramPredictor(weights, problem.variances(penalty), target("", average_errors), targets)
    settings = {"family": predictor.family, "seed": seed, "penalty": penalty, "prompts": len(data.rows)}
    return predictor, settings


class _Design:
    """Samples as a regression problem: one row per distinct prompt.

    The target of a prompt is the mean, over its samples, of log(1 + tokens) less the mean of the sample's model: what
    is common to the models is learned from all of them, and a level of each is left.
    """

    def __init__(self, samples: Sequence[Sample], seed: int) -> None:
        prompts = sorted({sample.prompt for sample in samples})
        order = np.random.default_rng(seed).permutation(len(prompts))
        parts: list[features.Rows] = []
        kept: dict[str, int] = {}
        num_features = 0
        for start in range(0, len(order), 256):
            if num_features > _MAX_FEATURES:
                break
            batch = [prompts[i] for i in order[start : start + 256]]
            kept.update(zip(batch, range(start, start + len(batch)), strict=True))
            parts.append(features.featurize(batch))
            num_features += len(parts[-1].indices)
        self.rows = features.concatenate(parts)
        used = [sample for sample in samples if sample.prompt in kept]
        self._row = np.array([kept[sample.prompt] for sample in used])
        self._truth = np.log1p([sample.num_output_tokens for sample in used])
        self._model = np.array([sample.model for sample in used], dtype=object)
        centred = self._truth.copy()
        for model in set(self._model):
            centred[self.of_model(model)] -= self._truth[self.of_model(model)].mean()
        self.targets = np.bincount(self._row, centred) / np.bincount(self._row)

    def of_model(self, model: str) -> Any:
        """Which of the used samples are of this model; a mask."""
        return self._model == model

    def num_samples(self, model: str) -> int:
        """How many samples a model's level comes from; "" stands for all of them."""
        return int(self.of_model(model).sum()) if model else len(self._model)

    def levels(self, weights: Weights) -> dict[str, float]:
        """Mean over each model's samples of what the weights leave; under "" over all samples."""
        rest = self._truth - weights.apply(self.rows)[self._row]
        models = sorted(set(self._model) - {""})
        return {"": float(rest.mean()), **{model: float(rest[self.of_model(model)].mean()) for model in models}}

    def errors(self, weights: Weights, levels: dict[str, float]) -> features.Float64:
        """Truth less prediction of each used sample, in log(1 + tokens)."""
        level = np.array([levels.get(model, levels[""]) for model in self._model])
        errors: features.Float64 = self._truth - level - weights.apply(self.rows)[self._row]
        return errors
