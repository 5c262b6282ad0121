"""What the front door tells of itself on vLLM's page."""

import pytest
from prometheus_client import REGISTRY

from ssjf.core.types import Prediction, Request
from ssjf.integrations.vllm.front.metrics import Metrics, gain, metrics


def _value(name: str, **labels: str) -> float:
    return REGISTRY.get_sample_value(name, labels) or 0.0


def _finish(page: Metrics, predicted: float, true: int, *, source: str = "", num_slots: int | None = None) -> None:
    request = Request(request_id="a", arrival_time=0.0)
    prediction = Prediction(predicted, source=source)
    page.finished(request, prediction, true, service_s=1.0, jct_s=1.0, num_slots=num_slots)


def test_shortest_first_of_three_that_came_together_gains_as_the_textbook_says() -> None:
    # 5, 3 and 1 second one after the other: completions 5, 8, 9 in order of arrival; 1, 4, 9 shortest first
    served = [(0.0, 5.0, 9.0), (0.1, 3.0, 3.9), (0.2, 1.0, 0.8)]
    assert gain(served, 1) == pytest.approx(1 - (9 + 3.9 + 0.8) / (5 + 7.9 + 8.8))


def test_where_nobody_waits_there_is_nothing_to_gain() -> None:
    assert gain([(0.0, 5.0, 5.0), (0.0, 3.0, 3.0)], 2) == 0.0
    assert gain([], 2) == 0.0


def test_the_order_of_predictions_and_their_errors_are_told() -> None:
    page = metrics()
    assert metrics() is page
    before = _value("ssjf_prediction_ratio_count")
    for tokens in [10, 500, 20, 300, 5, 80] * 20:
        _finish(page, tokens * 2.0, tokens)
    assert _value("ssjf_prediction_ratio_count") == before + 120
    assert _value("ssjf_prediction_concordance") > 0.9


def test_a_fallback_is_counted_and_is_no_prediction() -> None:
    page = metrics()
    before = _value("ssjf_prediction_ratio_count"), _value("ssjf_prediction_fallbacks_total", reason="late")
    _finish(page, 7.0, 7, source="fallback")
    page.fallback("late")
    after = _value("ssjf_prediction_ratio_count"), _value("ssjf_prediction_fallbacks_total", reason="late")
    assert after == (before[0], before[1] + 1)


def test_the_gain_is_estimated_now_and_then_where_all_requests_are_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    page = metrics()
    asked: list[int] = []
    monkeypatch.setattr(page, "_estimate", lambda _, num_slots: asked.append(num_slots))
    monkeypatch.setattr(page, "_since", 0)
    for _ in range(100):
        _finish(page, 5.0, 5, num_slots=3)
    page._thread.submit(lambda: None).result()
    assert asked == [3, 3]
    for _ in range(100):
        _finish(page, 5.0, 5, num_slots=None)
    page._thread.submit(lambda: None).result()
    assert asked == [3, 3]
