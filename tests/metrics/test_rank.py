"""Kendall's tau-b agrees with scipy and with its definition."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from ssjf.metrics.rank import kendall_tau_b, spearman_rho


@given(st.lists(st.tuples(st.integers(0, 6), st.floats(0, 5)), min_size=2, max_size=60))
def test_it_agrees_with_scipy_where_there_are_ties(pairs: list[tuple[int, float]]) -> None:
    x, y = [float(a) for a, _ in pairs], [b for _, b in pairs]
    own = kendall_tau_b(x, y)
    if len(set(x)) == 1 or len(set(y)) == 1:
        assert own is None
    else:
        assert own == pytest.approx(stats.kendalltau(x, y).statistic, abs=1e-12)


def test_the_same_order_is_one_and_the_reverse_minus_one() -> None:
    assert kendall_tau_b([1, 2, 3], [10, 20, 30]) == 1
    assert kendall_tau_b([1, 2, 3], [3, 2, 1]) == -1


def test_too_few_values_have_no_order() -> None:
    assert kendall_tau_b([], []) is None
    assert kendall_tau_b([1], [2]) is None


def test_lists_of_different_lengths_are_refused() -> None:
    with pytest.raises(ValueError, match="same length"):
        kendall_tau_b([1, 2], [1])


@given(st.lists(st.tuples(st.integers(0, 6), st.floats(0, 5)), min_size=2, max_size=60))
def test_spearmans_rho_agrees_with_scipy(pairs: list[tuple[int, float]]) -> None:
    x, y = [float(a) for a, _ in pairs], [b for _, b in pairs]
    own = spearman_rho(x, y)
    if len(set(x)) == 1 or len(set(y)) == 1:
        assert own is None
    else:
        assert own == pytest.approx(stats.spearmanr(x, y).statistic, abs=1e-9)
