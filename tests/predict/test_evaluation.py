"""Metrics against scipy's and against figures worked out by hand."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import kendalltau

from ssjf.core.types import Prediction
from ssjf.predict.evaluation import evaluate, kendall_tau_b


@given(st.lists(st.tuples(st.integers(0, 9), st.integers(0, 9)), min_size=2, max_size=60))
def test_tau_b_is_what_scipy_says(pairs: list[tuple[int, int]]) -> None:
    first, second = zip(*pairs, strict=True)
    tau_b = kendall_tau_b(first, second)
    if len(set(first)) == 1 or len(set(second)) == 1:
        assert tau_b is None
    else:
        assert tau_b == pytest.approx(kendalltau(first, second).statistic)


def test_the_metrics_of_three_predictions_by_hand() -> None:
    predictions = [
        Prediction(12.0, ((0.5, 10.0), (0.9, 20.0))),
        Prediction(30.0, ((0.5, 25.0), (0.9, 60.0))),
        Prediction(20.0, ((0.5, 18.0), (0.9, 40.0))),
    ]
    metrics = evaluate(predictions, [10, 24, 50])
    assert metrics["n"] == 3
    assert metrics["mae"] == pytest.approx((2 + 6 + 30) / 3)
    assert metrics["median_mae"] == pytest.approx((0 + 1 + 32) / 3)
    assert metrics["coverage_0.5"] == pytest.approx(2 / 3)
    assert metrics["coverage_0.9"] == pytest.approx(2 / 3)
    assert metrics["tau_b"] == pytest.approx(1 / 3)


def test_a_prediction_without_quantiles_is_its_own_median() -> None:
    metrics = evaluate([Prediction(3.0), Prediction(4.0)], [3, 5])
    assert metrics["mae"] == metrics["median_mae"] == 0.5
    assert not [name for name in metrics if name.startswith("coverage")]
