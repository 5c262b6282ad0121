"""Ridge regression on hashed rows, by conjugate gradients.

    minimise  Σ (target − intercept − row · weights)² + penalty · |weights|²      (the intercept is not penalised)

This module does not know what the rows and targets mean.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from ssjf.predict.ngram.features import NUM_COUNTS, TABLE_SIZE, Float64, Rows


@dataclass(frozen=True, slots=True)
class Weights:
    """The weights of a linear model; its intercept is somebody else's business.

    Attributes:
        table: weight per place of the hash table; shape (TABLE_SIZE,).
        counts: weight per scaled count; shape (NUM_COUNTS,).
    """

    table: npt.NDArray[np.float32]
    counts: Float64

    @classmethod
    def zeros(cls) -> "Weights":
        """The model that gives every row 0."""
        return cls(np.zeros(TABLE_SIZE, np.float32), np.zeros(NUM_COUNTS))

    def apply(self, rows: Rows) -> Float64:
        """The weighted sum of each row; shape (n,). A row's sum does not depend on the rows beside it, to the bit."""
        # no matrix product for the counts: BLAS sums in another order for another number of rows
        sums: Float64 = rows.dot(self.table) + np.add.reduce(rows.counts * self.counts, axis=1)
        return sums


class RidgeProblem:
    """Ridge regression for one matrix and one vector of targets, solved for one penalty after another.

    Solved in its dual form, with one unknown per row instead of one per feature. Each solution starts from the last
    one, so a path from large penalties to small ones costs little more than its hardest point.

    Args:
        rows: n prompts.
        targets: shape (n,).
    """

    def __init__(self, rows: Rows, targets: Float64) -> None:
        self._rows = rows
        self._lengths = rows.lengths()
        self._centred = targets - targets.mean()
        self._dual = np.zeros(len(rows))

    def solve(self, penalty: float, *, tolerance: float = 3e-3, max_iterations: int = 60) -> Weights:
        """The minimiser, to a residual of `tolerance` times that of the zero model.

        One iteration reads every feature twice. The default tolerance is far below what ranking can notice.
        """
        rows = self._rows

        def matrix(dual: Float64) -> Float64:
            table, counts = self._transpose(dual)
            values = rows.dot(table) + rows.counts @ counts
            regularised: Float64 = values - values.mean() + penalty * dual
            return regularised

        self._dual = _conjugate_gradients(
            matrix, self._centred, start=self._dual, tolerance=tolerance, max_iterations=max_iterations
        )
        table, counts = self._transpose(self._dual)
        return Weights(table.astype(np.float32), counts)

    def variances(self, penalty: float) -> Weights:
        """How unsure each weight still is, relative to the noise: the inverse diagonal of the normal equations."""
        rows = self._rows
        squares = np.bincount(rows.indices, np.repeat(rows.values**2, self._lengths), minlength=TABLE_SIZE)
        counts = (rows.counts**2).sum(axis=0)
        return Weights((1 / (penalty + squares)).astype(np.float32), 1 / (penalty + counts))

    def _transpose(self, dual: Float64) -> tuple[Float64, Float64]:
        """The centred rows, transposed, times one number per row: centring leaves the intercept unpenalised."""
        dual = dual - dual.mean()
        contributions = np.repeat(np.repeat(dual, 2) * self._rows.values, self._lengths)
        # the stub says integers, which is true without weights only
        table = np.bincount(self._rows.indices, contributions, minlength=TABLE_SIZE).astype(np.float64, copy=False)
        return table, dual @ self._rows.counts


def _conjugate_gradients(
    matrix: Callable[[Float64], Float64], right: Float64, *, start: Float64, tolerance: float, max_iterations: int
) -> Float64:
    """Solve ``matrix(x) = right`` for a symmetric positive definite matrix (Hestenes and Stiefel, 1952)."""
    solution = start.copy()
    residual = right - matrix(solution)
    direction = residual.copy()
    size = float(residual @ residual)
    enough = tolerance**2 * float(right @ right)
    for _ in range(max_iterations):
        if size <= enough:
            break
        image = matrix(direction)
        step = size / float(direction @ image)
        solution += step * direction
        residual -= step * image
        size, last = float(residual @ residual), size
        direction = residual + (size / last) * direction
    return solution
