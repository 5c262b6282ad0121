"""Metrics against their definition and against figures worked out by hand."""

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ssjf.core.types import Prediction
from ssjf.predict.evaluation import evaluate, pair_accuracy


@given(st.lists(st.tuples(st.integers(0, 5), st.integers(0, 5)), min_size=2, max_size=40))
def test_pair_accuracy_is_the_share_of_pairs_in_the_right_order(pairs: list[tuple[int, int]]) -> None:
    scores = [
        0.5 if p == q else float((p < q) == (t < u)) for (p, t), (q, u) in itertools.combinations(pairs, 2) if t != u
    ]
    predicted, truth = zip(*pairs, strict=True)
    accuracy = pair_accuracy(predicted, truth)
    if scores:
        assert accuracy == pytest.approx(sum(scores) / len(scores))
    else:
        assert accuracy is None


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
    assert metrics["rho"] == pytest.approx(1 / 2)
    assert metrics["pair_accuracy"] == pytest.approx(2 / 3)
    assert metrics["rmse"] == pytest.approx(((4 + 36 + 900) / 3) ** 0.5)


def test_a_prediction_without_quantiles_is_its_own_median() -> None:
    metrics = evaluate([Prediction(3.0), Prediction(4.0)], [3, 5])
    assert metrics["mae"] == metrics["median_mae"] == 0.5
    assert not [name for name in metrics if name.startswith("coverage")]
