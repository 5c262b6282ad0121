"""Training of the family `trees`: linear models first, boosted trees on what they say of prompts they have not seen.

Every prompt is in one of `_NUM_FOLDS` folds. The linear models that describe a prompt to the trees were fitted without
its fold (stacking; Wolpert, 1992), and so were the trees whose scores the curves of each target model are measured on;
what is kept in the end is fitted on everything. Prompts answered by several target models count once for each, so a
model profits from what is known of the others.

Needs LightGBM and with it scipy (the extra `train`). Deterministic for a seed. This module reads no files.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from ssjf.errors import ConfigError, DataError
from ssjf.predict.ngram import features
from ssjf.predict.ngram.features import Float64, opening
from ssjf.predict.training import Progress, Sample
from ssjf.predict.trees import prompt
from ssjf.predict.trees.forest import Forest
from ssjf.predict.trees.linear import LinearModels, Scaler
from ssjf.predict.trees.predictor import Range, TreesPredictor
from ssjf.predict.trees.targets import NUM_VIEWS, Curves, TargetModels, traits_of, views_of

if TYPE_CHECKING:
    import lightgbm

_MAX_PROMPTS = 30_000  # some 3 GB while training, at 100 words each
_NUM_FOLDS = 5
_MAX_COMPONENTS = 8  # 4 to 16 and all 90 of 15 models rank alike
_PENALTY = 0.5  # of the linear models; 0.3 to 1 rank alike
_TOLERANCE, _MAX_ITERATIONS = 3e-3, 60  # far below what ranking can notice
_TINY = 1e-300  # instead of 0 in a denominator, where an output is the same for all prompts
_ROUNDS = (25, 50, 100, 150, 200, 300, 400, 500)
_FEW = 200  # samples below which a target model's curves borrow their shape from all models

Int64 = npt.NDArray[np.int64]


def fit(
    samples: Sequence[Sample], *, seed: int = 0, progress: Progress = lambda _: None
) -> tuple[TreesPredictor, dict[str, Any]]:
    """Fit on all the samples.

    Args:
        samples: of two distinct prompts at least.
        seed: of folds and trees.
        progress: told in a few words what happens next.

    Returns:
        The predictor, and the settings that were chosen.

    Raises:
        ConfigError: what training needs is not installed.
        DataError: there are no two prompts.
    """
    _require_lightgbm()
    progress(f"reading {len(samples)} samples")
    table = _Table(samples, seed)
    if table.num_folds < 2:
        raise DataError("a single prompt with a length is too few to learn from")
    described = prompt.describe(table.prompts)
    rows = features.featurize(table.prompts)
    scaler = Scaler.measure(described)
    outputs, loadings, offsets = _components(table)
    progress(f"fitting {outputs.shape[1]} linear models in {table.num_folds} folds")
    components, linear = _fit_linear(rows, scaler, scaler.dense(rows, described), outputs, table)

    traits = np.array([traits_of(table.truth[table.of_model(name)]) for name in table.names])
    targets = TargetModels(
        names=("", *(name for name in table.names if name)),
        traits=table.with_average(traits),
        loadings=table.with_average(loadings),
        offsets=table.with_average(offsets),
        curves=(),
    )
    grove = _Grove(table, targets, described, components, seed)
    rounds, scores = grove.cross_validate(progress)
    progress(f"growing {rounds} trees on everything")
    forest = grove.grow(rounds)
    targets = TargetModels(
        targets.names, targets.traits, targets.loadings, targets.offsets, _measure_curves(table, targets, scores)
    )
    predictor = TreesPredictor(linear, forest, targets, Range.measure(described))
    settings = {"family": predictor.family, "seed": seed, "rounds": rounds, "prompts": len(table.prompts)}
    return predictor, settings


def _require_lightgbm() -> None:
    try:
        import lightgbm  # noqa: F401, PLC0415
        import scipy.sparse  # noqa: F401, PLC0415
    except (ImportError, OSError) as error:  # OSError: the system lacks libgomp
        raise ConfigError(f"training trees needs LightGBM: pip install 'ssjf[trees]' ({error})") from None


class _Table:
    """Samples by prompt and target model.

    Attributes:
        prompts: distinct ones; N of them.
        fold: of each prompt; shape (N,).
        row: prompt of each sample; shape (n,).
        truth: length of each sample; shape (n,).
        names: of the target models that occur, sorted; M of them.
        model: place in `names` of each sample; shape (n,).
        views: mean of each prompt's samples by each model, the average model's where there are none; shape
            (N, M, NUM_VIEWS).
        has: whether there are any; shape (N, M).
    """

    def __init__(self, samples: Sequence[Sample], seed: int) -> None:
        rng = np.random.default_rng(seed)
        distinct = sorted({sample.prompt for sample in samples})
        kept = rng.permutation(len(distinct))[:_MAX_PROMPTS]
        self.prompts = [distinct[i] for i in kept]
        place = {text: i for i, text in enumerate(self.prompts)}
        used = [sample for sample in samples if sample.prompt in place]
        self.row = np.array([place[sample.prompt] for sample in used])
        self.truth = np.array([sample.num_output_tokens for sample in used], dtype=np.float64)
        self.names = sorted({sample.model for sample in used})
        self.model = np.array([self.names.index(sample.model) for sample in used])

        # conversations that begin alike stay together
        openings = [opening(text) for text in self.prompts]
        shuffled = rng.permutation(len(set(openings)))
        self.num_folds = min(_NUM_FOLDS, len(shuffled))
        fold = dict(zip(sorted(set(openings)), (shuffled % self.num_folds).tolist(), strict=True))
        self.fold = np.array([fold[text] for text in openings])

        self.views = np.zeros((len(self.prompts), len(self.names), NUM_VIEWS))
        count = np.zeros((len(self.prompts), len(self.names)))
        for name in self.names:
            mine = self.of_model(name)
            np.add.at(self.views, (self.row[mine], self.model[mine]), views_of(self.truth[mine]))
            np.add.at(count, (self.row[mine], self.model[mine]), 1)
        self.has = count > 0
        self.views /= np.maximum(count, 1)[:, :, None]
        average = self.views.sum(axis=1) / self.has.sum(axis=1)[:, None]
        self.views = np.where(self.has[:, :, None], self.views, average[:, None])

    def of_model(self, name: str) -> npt.NDArray[np.bool_]:
        """Which samples are of this model; a mask."""
        mask: npt.NDArray[np.bool_] = self.model == self.names.index(name)
        return mask

    def with_average(self, by_model: Float64) -> Float64:
        """Something of each model, for the average model and for those with a name."""
        named = [place for place, name in enumerate(self.names) if name]
        return np.concatenate([by_model.mean(axis=0, keepdims=True), by_model[named]])


def _components(table: _Table) -> tuple[Float64, Float64, Float64]:
    """The principal components of all models' views: what is common to many models is learned once.

    Returns:
        Component values, shape (N, K), and the loadings (M, K, NUM_VIEWS) and offsets (M, NUM_VIEWS) that turn them
        back into views.
    """
    flat = table.views.reshape(len(table.prompts), -1)
    offsets = flat.mean(axis=0)
    variances, axes = np.linalg.eigh(np.cov(flat.T, bias=True))
    largest = np.argsort(variances)[::-1][: min(_MAX_COMPONENTS, flat.shape[1])]
    axes = axes[:, largest]
    loadings = axes.T.reshape(len(largest), len(table.names), NUM_VIEWS).transpose(1, 0, 2)
    return (flat - offsets) @ axes, loadings, offsets.reshape(len(table.names), NUM_VIEWS)


def _fit_linear(
    rows: features.Rows, scaler: Scaler, dense: Float64, outputs: Float64, table: _Table
) -> tuple[Float64, LinearModels]:
    """The outputs as predicted from other folds, and the models fitted on everything."""
    import scipy.sparse as sp  # noqa: PLC0415

    lengths = rows.lengths()
    # both hashed parts of a prompt share the table: a place hit by both adds up
    by_prompt = lengths.reshape(-1, 2).sum(axis=1)
    hashed = sp.csr_array(
        (np.repeat(rows.values, lengths), rows.indices, np.concatenate([[0], np.cumsum(by_prompt)])),
        shape=(len(rows), features.TABLE_SIZE),
    )
    matrix = sp.hstack([hashed, sp.csr_array(dense)], format="csr", dtype=np.float32)
    predicted = np.empty_like(outputs)
    for fold in range(table.num_folds):
        inside = table.fold == fold
        weights, intercepts = _ridge(matrix[~inside], outputs[~inside])
        predicted[inside] = matrix[inside] @ weights + intercepts
    weights, intercepts = _ridge(matrix, outputs)
    split = features.TABLE_SIZE
    linear = LinearModels(scaler, weights[:split].astype(np.float16), weights[split:], intercepts)
    return predicted, linear


def _ridge(matrix: Any, outputs: Float64) -> tuple[Float64, Float64]:
    """Weights and intercepts, which are not penalised, of one ridge regression per column of the outputs.

    Solved in the dual form, with one unknown per prompt instead of one per feature, by conjugate gradients for all
    columns at once: reading the matrix is what costs.
    """
    transposed = matrix.T.tocsr()

    def apply(duals: Float64) -> Float64:
        values = matrix @ (transposed @ (duals - duals.mean(axis=0)).astype(np.float32))
        regularised: Float64 = values - values.mean(axis=0) + _PENALTY * duals
        return regularised

    means = outputs.mean(axis=0)
    residual = outputs - means
    duals, direction = np.zeros_like(residual), residual.copy()
    size = (residual**2).sum(axis=0)
    enough = _TOLERANCE**2 * size
    for _ in range(_MAX_ITERATIONS):
        if (size <= enough).all():
            break
        image = apply(direction)
        step = size / np.maximum((direction * image).sum(axis=0), _TINY)
        duals += step * direction
        residual -= step * image
        size, last = (residual**2).sum(axis=0), size
        direction = residual + size / np.maximum(last, _TINY) * direction
    weights = transposed @ (duals - duals.mean(axis=0))
    return weights, means - (matrix @ weights).mean(axis=0)


@dataclass(frozen=True, slots=True)
class _Scores:
    """Predicted without knowing the prompt's fold; shape (N, M), and (N,) as the average model."""

    by_model: Float64
    average: Float64


class _Grove:
    """Grows trees on one row per prompt and target model that answered it, and one per prompt for the average model."""

    def __init__(
        self, table: _Table, targets: TargetModels, described: Float64, components: Float64, seed: int
    ) -> None:
        self._table = table
        self._seed = seed
        row, model = np.nonzero(table.has)
        self._row, self._model = row, model
        every = np.arange(len(table.prompts))
        places = targets.places(table.names)
        # with one model, it is the average
        also = every if len(table.names) > 1 else every[:0]
        self._prompt = np.concatenate([row, also])
        place = np.concatenate([places[model], np.zeros(len(also), np.int64)])
        self._features = targets.rows(described[self._prompt], components[self._prompt], place)
        average = (table.views[:, :, 0] * table.has).sum(axis=1) / table.has.sum(axis=1)
        self._wanted = np.concatenate([table.views[row, model, 0], average[also]])

    def grow(self, rounds: int) -> Forest:
        """As many trees, on everything."""
        booster = self._train(np.ones(len(self._prompt), bool), rounds)
        return Forest.from_nodes([tree["tree_structure"] for tree in booster.dump_model()["tree_info"]])

    def cross_validate(self, progress: Progress) -> tuple[int, _Scores]:
        """How many trees are best, and their scores in folds that they were not grown on."""
        scores = {rounds: np.zeros(len(self._prompt)) for rounds in _ROUNDS}
        for fold in range(self._table.num_folds):
            progress(f"growing trees, fold {fold + 1} of {self._table.num_folds}")
            inside = self._table.fold[self._prompt] == fold
            booster = self._train(~inside, max(_ROUNDS))
            for rounds in _ROUNDS:
                predicted = booster.predict(self._features[inside], num_iteration=rounds)
                scores[rounds][inside] = np.asarray(predicted, dtype=np.float64)
        best = min(_ROUNDS, key=lambda rounds: float(np.mean((scores[rounds] - self._wanted) ** 2)))
        num = len(self._row)
        by_model = np.zeros(self._table.has.shape)
        by_model[self._row, self._model] = scores[best][:num]
        average = scores[best][num:] if len(self._table.names) > 1 else by_model[:, 0]
        return best, _Scores(by_model, average)

    def _train(self, chosen: npt.NDArray[np.bool_], rounds: int) -> "lightgbm.Booster":
        import lightgbm  # noqa: PLC0415

        # several answers to a prompt are not several prompts: what limits a tree is how many of those there are
        num = len(np.unique(self._prompt[chosen]))
        answers = int(chosen.sum()) / num
        settings = {
            "objective": "regression",
            "learning_rate": 0.05 if num > 4000 else 0.03,
            "num_leaves": int(np.clip(num // 100, 4, 15 if answers < 2 else 31)),
            "max_depth": 7,
            "min_data_in_leaf": int(np.clip(num // 40, 3, 20) * answers),
            "feature_fraction": 0.4,
            "bagging_fraction": 0.7 if num >= 10 else 1.0,
            "bagging_freq": 1,
            "lambda_l2": 5.0,
            "seed": self._seed,
            "deterministic": True,
            "force_row_wise": True,
            "num_threads": 1,
            "verbosity": -1,
        }
        return lightgbm.train(settings, lightgbm.Dataset(self._features[chosen], self._wanted[chosen]), rounds)


def _measure_curves(table: _Table, targets: TargetModels, scores: _Scores) -> tuple[Curves, ...]:
    own_scores = scores.by_model[table.row, table.model]
    own_ranks = np.zeros(len(table.truth))
    for name in table.names:
        mine = table.of_model(name)
        own_ranks[mine] = _ranks(table.truth[mine])
    curves = [Curves.measure(scores.average[table.row], _ranks(table.truth), table.truth)]
    for name in targets.names[1:]:
        mine = table.of_model(name)
        shape = mine if mine.sum() >= _FEW else np.ones(len(mine), bool)
        curves.append(Curves.measure(own_scores[shape], own_ranks[shape], table.truth[mine]))
    return tuple(curves)


def _ranks(truth: Float64) -> Float64:
    """Where each length is among them all, between 0 and 1: the level of a quantile that gives it back."""
    ordered = np.sort(truth)
    middle = (np.searchsorted(ordered, truth, "left") + np.searchsorted(ordered, truth, "right") - 1) / 2
    ranks: Float64 = middle / max(len(truth) - 1, 1)
    return ranks
