"""How good predictions are: as an order, as numbers and as distributions.

Pure functions: this module does not know who predicted.
"""

import math
from bisect import bisect_left, bisect_right, insort
from collections import Counter
from collections.abc import Sequence
from itertools import groupby

from ssjf.core.types import Prediction


def kendall_tau_b(first: Sequence[float], second: Sequence[float]) -> float | None:
    """Kendall's rank correlation with ties, tau-b (Kendall, 1945); None where one side is all ties.

    1 means the same order, 0 no relation, -1 the reverse.
    """
    total = len(first) * (len(first) - 1) // 2
    untied = math.sqrt((total - _tied_pairs(first)) * (total - _tied_pairs(second)))
    if untied == 0:
        return None
    balance = 0  # concordant less discordant pairs
    seen: list[float] = []  # second values of all pairs with a smaller first value
    for _, group in groupby(sorted(zip(first, second, strict=True)), key=lambda pair: pair[0]):
        values = [value for _, value in group]
        balance += sum(bisect_left(seen, value) - (len(seen) - bisect_right(seen, value)) for value in values)
        for value in values:
            insort(seen, value)
    return balance / untied


def _tied_pairs(values: Sequence[float]) -> int:
    return sum(count * (count - 1) // 2 for count in Counter(values).values())


def evaluate(predictions: Sequence[Prediction], num_output_tokens: Sequence[int]) -> dict[str, float | None]:
    """Compare predictions with the truth, at least one of each.

    Returns:
        ``n``; ``tau_b`` of the point predictions; ``mae`` and ``median_mae``, the mean absolute error in tokens of the
        point prediction and of the median where there is one; ``log_mae``, of log(1 + tokens) by the median where
        there is one; and ``coverage_L`` for each quantile level L: the share of truths at or below that quantile.
    """
    points = [prediction.num_output_tokens for prediction in predictions]
    quantiles = [dict(prediction.quantiles) for prediction in predictions]
    medians = [levels.get(0.5, point) for levels, point in zip(quantiles, points, strict=True)]
    n = len(num_output_tokens)
    metrics: dict[str, float | None] = {
        "n": n,
        "tau_b": kendall_tau_b(points, num_output_tokens),
        "mae": sum(abs(p - t) for p, t in zip(points, num_output_tokens, strict=True)) / n,
        "median_mae": sum(abs(p - t) for p, t in zip(medians, num_output_tokens, strict=True)) / n,
        "log_mae": sum(abs(math.log1p(p) - math.log1p(t)) for p, t in zip(medians, num_output_tokens, strict=True)) / n,
    }
    for level in quantiles[0]:
        covered = sum(truth <= levels[level] for levels, truth in zip(quantiles, num_output_tokens, strict=True))
        metrics[f"coverage_{level:g}"] = covered / n
    return metrics
