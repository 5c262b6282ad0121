"""Ridge regression against scikit-learn's, on the same sparse matrix."""

import numpy as np
import pytest
from scipy.sparse import csr_matrix, hstack
from sklearn.linear_model import Ridge

from ssjf.predict.ngram.features import TABLE_SIZE, featurize
from ssjf.predict.ngram.linear import RidgeProblem
from tests.predict.made_up import make_samples


def test_the_path_of_solutions_is_the_exact_one() -> None:
    samples = make_samples(120)
    rows = featurize([sample.prompt for sample in samples])
    targets = np.log1p([sample.num_output_tokens for sample in samples])
    owners = np.repeat(np.arange(len(rows)), rows.lengths()[::2] + rows.lengths()[1::2])
    values = np.repeat(rows.values, rows.lengths())
    matrix = csr_matrix((values, (owners, rows.indices)), shape=(len(rows), TABLE_SIZE))
    matrix = hstack([matrix, csr_matrix(rows.counts)]).tocsr()
    problem = RidgeProblem(rows, targets)
    for penalty in (3.0, 0.3):
        exact = Ridge(alpha=penalty, solver="sag", tol=1e-8, max_iter=10_000, random_state=0).fit(matrix, targets)
        weights = problem.solve(penalty, tolerance=1e-7, max_iterations=500)
        ours = weights.apply(rows)
        assert ours - ours.mean() == pytest.approx(matrix @ exact.coef_ - (matrix @ exact.coef_).mean(), abs=2e-3)


def test_variances_shrink_where_there_was_something_to_see() -> None:
    rows = featurize(["seen again and again"] * 50)
    variances = RidgeProblem(rows, np.zeros(50)).variances(0.5)
    seen = np.zeros(TABLE_SIZE, bool)
    seen[rows.indices] = True
    assert np.all(variances.table[~seen] == 2.0)
    assert np.all(variances.table[seen] < 1.0)


def test_targets_without_variety_give_weights_of_zero() -> None:
    weights = RidgeProblem(featurize(["a", "b", "c"]), np.full(3, 4.0)).solve(1.0)
    assert not weights.table.any()
    assert not weights.counts.any()
