"""How well one list ranks another."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray


def kendall_tau_b(x: Sequence[float] | NDArray[np.float64], y: Sequence[float] | NDArray[np.float64]) -> float | None:
    """Kendall's τ-b: concordant minus discordant pairs over what ties leave of all pairs (Knight 1966).

    Returns:
        A value from −1 to 1; None where one of the lists is constant or has fewer than two entries.

    Cost: O(n log n).
    """
    a, b = np.asarray(x, dtype=np.float64), np.asarray(y, dtype=np.float64)
    if a.shape != b.shape:
        raise ValueError(f"both lists must have the same length, not {len(a)} and {len(b)}")
    order = np.lexsort((b, a))
    a, b = a[order], b[order]
    pairs = len(a) * (len(a) - 1) // 2
    ties_a, ties_b = _tied_pairs(a), _tied_pairs(np.sort(b))
    ties_both = _tied_pairs(a, b)
    if pairs in (ties_a, ties_b):
        return None
    discordant = _inversions(np.unique(b, return_inverse=True)[1].tolist())
    concordant_minus_discordant = pairs - ties_a - ties_b + ties_both - 2 * discordant
    return float(concordant_minus_discordant / np.sqrt(float(pairs - ties_a) * float(pairs - ties_b)))


def spearman_rho(x: Sequence[float] | NDArray[np.float64], y: Sequence[float] | NDArray[np.float64]) -> float | None:
    """Spearman's ρ: the correlation of ranks, equal values sharing their mean rank.

    Returns:
        A value from −1 to 1; None where one of the lists is constant or has fewer than two entries.
    """
    a, b = _ranks(np.asarray(x, dtype=np.float64)), _ranks(np.asarray(y, dtype=np.float64))
    if a.shape != b.shape:
        raise ValueError(f"both lists must have the same length, not {len(a)} and {len(b)}")
    if len(a) < 2 or not a.std() or not b.std():
        return None
    return float(np.corrcoef(a, b)[0, 1])


def _ranks(values: NDArray[np.float64]) -> NDArray[np.float64]:
    _, place, counts = np.unique(values, return_inverse=True, return_counts=True)
    last = np.cumsum(counts)
    mean_ranks: NDArray[np.float64] = (last - (counts - 1) / 2)[place]
    return mean_ranks


def _tied_pairs(*columns: NDArray[np.float64]) -> int:
    """Pairs of neighbours in sorted order that are equal in every column."""
    if len(columns[0]) < 2:
        return 0
    changes = np.any([column[1:] != column[:-1] for column in columns], axis=0)
    edges = np.flatnonzero(np.concatenate(([True], changes, [True])))
    runs = np.diff(edges)
    return int(np.sum(runs * (runs - 1) // 2))


def _inversions(ranks: list[int]) -> int:
    """Pairs that stand in the wrong order, counted by a Fenwick tree over ranks."""
    tree = [0] * (max(ranks) + 2)
    inversions = 0
    for seen, rank in enumerate(ranks):
        position, not_above = rank + 1, 0
        while position:
            not_above += tree[position]
            position &= position - 1
        inversions += seen - not_above
        position = rank + 1
        while position < len(tree):
            tree[position] += 1
            position += position & -position
    return inversions
