"""Pictures of comparisons: what is in them, not how it looks."""

import pytest

from ssjf.report.frontier import frontier, gain_over_load
from ssjf.report.style import svg


def row(policy: str, seed: int, load: float, gain: float, p99: float) -> dict[str, object]:
    return {
        "policy": policy,
        "seed": seed,
        "slots": 1,
        "load": load,
        "arrivals": "poisson",
        "predictor": "column",
        "gain": gain,
        "p90_vs_fcfs": 1.0,
        "p99_vs_fcfs": p99,
        "max_vs_fcfs": 12.0 if policy == "ssjf" else 1.0,
    }


ROWS = [
    row(policy, seed, load, gain + seed / 100, p99)
    for load in (0.5, 0.9)
    for seed in (0, 1)
    for policy, gain, p99 in (("fcfs", 0.0, 1.0), ("auto", 0.2, 1.02), ("ssjf", 0.3, 1.5), ("sjf", 0.4, 1.4))
]


def test_the_frontier_has_a_line_of_panels_for_each_case_and_every_policy_by_name() -> None:
    figure = frontier(ROWS)
    assert len(figure.axes) == 6
    text = svg(figure)
    assert all(name in text for name in ("fcfs", "auto", "ssjf", "sjf", "1 slot, load 0.9, poisson, column"))


def test_a_policy_stands_at_its_mean_gain_and_its_change_of_the_tail() -> None:
    figure = frontier(ROWS)
    p99 = figure.axes[1]
    points = {tuple(map(float, line.get_xydata()[0])) for line in p99.lines if len(line.get_xdata()) == 1}
    assert any(x == pytest.approx(2.0) and y == pytest.approx(0.205) for x, y in points)  # auto


def test_the_gain_over_load_has_a_curve_for_each_policy() -> None:
    figure = gain_over_load(ROWS)
    (axes,) = figure.axes
    curve = next(line for line in axes.lines if line.get_label() == "ssjf")
    assert list(curve.get_xdata()) == [0.5, 0.9]
    assert list(curve.get_ydata()) == pytest.approx([0.305, 0.305])
