"""How good predictions are: as an order, as numbers and as distributions.

Pure functions: this module does not know who predicted.
"""

import math
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from ssjf.core.types import Prediction
from ssjf.metrics.rank import kendall_tau_b, spearman_rho

_CLASSES = {"2": (50,), "5": (25, 50, 75, 99)}  # borders, in percent of the truths


def evaluate(predictions: Sequence[Prediction], num_output_tokens: Sequence[int]) -> dict[str, float | None]:
    """Compare predictions with the truth, at least one of each.

    Returns:
        ``n``; ``tau_b`` (Kendall's), ``rho`` (Spearman's) and ``pair_accuracy`` (share of pairs of different truth that
        are in the right order, ties counting half) of the point predictions, None where one side is all ties; ``mae``,
        ``rmse`` and ``median_mae``, the errors in tokens of the point prediction and of the median where there is one;
        ``log_mae``, of log(1 + tokens) by the median where there is one; ``coverage_L`` for each quantile level L: the
        share of truths at or below that quantile; and ``accuracy_K`` and ``f1_K`` (unweighted mean over the classes)
        for K = 2 classes, above the truths' median or not, and the SSJF paper's 5, between their percentiles.
    """
    points = np.array([prediction.num_output_tokens for prediction in predictions], dtype=np.float64)
    truth = np.array(num_output_tokens, dtype=np.float64)
    quantiles = [dict(prediction.quantiles) for prediction in predictions]
    medians = np.array([levels.get(0.5, point) for levels, point in zip(quantiles, points.tolist(), strict=True)])
    metrics: dict[str, float | None] = {
        "n": len(truth),
        "tau_b": kendall_tau_b(points, truth),
        "rho": spearman_rho(points, truth),
        "pair_accuracy": pair_accuracy(points.tolist(), truth.tolist()),
        "mae": float(np.mean(np.abs(points - truth))),
        "rmse": math.sqrt(float(np.mean((points - truth) ** 2))),
        "median_mae": float(np.mean(np.abs(medians - truth))),
        "log_mae": float(np.mean(np.abs(np.log1p(medians) - np.log1p(truth)))),
    }
    for level in quantiles[0]:
        metrics[f"coverage_{level:g}"] = float(np.mean([t <= q[level] for q, t in zip(quantiles, truth, strict=True)]))
    for name, percentiles in _CLASSES.items():
        borders = np.unique(np.percentile(truth, percentiles))
        is_class, said = np.searchsorted(borders, truth), np.searchsorted(borders, medians)
        metrics[f"accuracy_{name}"] = float(np.mean(is_class == said))
        metrics[f"f1_{name}"] = _macro_f1(is_class, said)
    return metrics


def _macro_f1(truth: npt.NDArray[np.intp], predicted: npt.NDArray[np.intp]) -> float:
    scores = []
    for label in np.unique(truth):
        hits = int(np.sum((truth == label) & (predicted == label)))
        scores.append(2 * hits / (int(np.sum(truth == label)) + int(np.sum(predicted == label))))
    return float(np.mean(scores))


def pair_accuracy(predicted: Sequence[float], truth: Sequence[float]) -> float | None:
    """Share of the pairs of different truth that predictions put in the right order; a tie counts half.

    None where all truths are equal. It is what pairwise classifiers report.
    """
    true_ties = _tied_pairs(truth)
    pairs = len(truth) * (len(truth) - 1) // 2
    if pairs == true_ties:
        return None
    tau = kendall_tau_b(predicted, truth)
    if tau is None:  # all predictions alike
        return 0.5
    balance = tau * math.sqrt(float(pairs - _tied_pairs(predicted)) * float(pairs - true_ties))
    return 0.5 + balance / (2 * (pairs - true_ties))


def _tied_pairs(values: Sequence[float]) -> int:
    counts = np.unique(np.asarray(values), return_counts=True)[1]
    return int(np.sum(counts * (counts - 1) // 2))
