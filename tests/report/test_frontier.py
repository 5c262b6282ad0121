"""Pictures of comparisons show the numbers they are given, and stay legible however many policies there are."""

import itertools
import re
from collections.abc import Iterator
from typing import Any

import pytest
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from ssjf.report.frontier import _spread, frontier, gain_over_load
from ssjf.report.style import svg

LIMITS = {"p90_vs_fcfs": 1.08, "p99_vs_fcfs": 1.05, "max_vs_fcfs": 1.10}
GAINS = {"fcfs": 0.0, "auto": 0.2, "aged-ssjf:rate=0.05": 0.25, "aged-ssjf:rate=0.5": 0.1, "mine": 0.3, "sjf": 0.4}


def row(policy: str, *, seed: int = 0, load: float = 0.9, slots: int = 1, predictor: str = "column") -> dict[str, Any]:
    told = policy not in {"fcfs", "sjf"}
    return {
        "policy": policy,
        "seed": seed,
        "slots": slots,
        "load": load,
        "arrivals": "poisson",
        "predictor": predictor if told else None,
        "gain": load * GAINS.get(policy, 0.15) + seed / 100,
        "p90_vs_fcfs": 1.0,
        "p99_vs_fcfs": 1 + GAINS.get(policy, 0.15) / 2 + seed / 50,
        "max_vs_fcfs": 12.0 if policy == "mine" else 1.0,
    }


ROWS = [row(policy, seed=seed, load=load) for load in (0.5, 0.9) for policy in GAINS for seed in (0, 1)]


def texts(figure: Figure) -> list[str]:
    return re.findall(r"<text[^>]*>([^<]*)</text>", svg(figure))


def points(axes: Axes) -> list[tuple[float, float]]:
    """Single markers in the coordinates of the axes."""
    lines = (line for line in axes.lines if line.get_transform() == axes.transData)
    return [(float(line.get_xdata()[0]), float(line.get_ydata()[0])) for line in lines if len(line.get_xdata()) == 1]


def labels(axes: Axes) -> Iterator[tuple[str, float]]:
    """Names to the right of the axes, with their heights as a share of the axes'."""
    return ((text.get_text(), text.get_position()[1]) for text in axes.texts if text.get_transform() == axes.transAxes)


def test_the_frontier_has_a_line_of_panels_for_each_case() -> None:
    (figure,) = frontier(ROWS, LIMITS)
    assert len(figure.axes) == 2 * 3
    shown = texts(figure)
    for title in ("1 slot, load 0.5, poisson, column", "1 slot, load 0.9, poisson, column"):
        assert title in shown
    assert sum(text == "change of p99 against FCFS, %" for text in shown) == 2


def test_a_policy_stands_at_its_mean_gain_and_its_change_of_the_tail() -> None:
    (figure,) = frontier(ROWS, LIMITS)
    p90, p99, worst = figure.axes[3:]  # at load .9
    auto, mine = 0.9 * 0.2 + 0.005, 0.9 * 0.3 + 0.005
    assert (pytest.approx(0.0), pytest.approx(auto)) in points(p90)
    assert (pytest.approx(11.0), pytest.approx(auto)) in points(p99)
    assert (pytest.approx(1100.0), pytest.approx(mine)) in points(worst)
    assert worst.get_xlim()[1] > 1100


def test_the_corners_of_fcfs_and_of_the_oracle_are_marked() -> None:
    (figure,) = frontier([row(policy) for policy in GAINS], LIMITS)
    marked = {note.get_text(): tuple(map(float, note.xy)) for note in figure.axes[1].texts if hasattr(note, "xy")}
    assert marked == {"FCFS": (0, 0), "oracle": (pytest.approx(20.0), pytest.approx(0.36))}


def test_the_gain_over_load_has_a_curve_and_a_band_for_each_policy() -> None:
    (figure,) = gain_over_load(ROWS)
    (axes,) = figure.axes
    curve = next(line for line in axes.lines if line.get_label() == "auto")
    assert list(curve.get_xdata()) == [0.5, 0.9]
    assert list(curve.get_ydata()) == pytest.approx([0.105, 0.185])
    band = axes.collections[list(GAINS).index("auto")].get_paths()[0].vertices
    half = 12.706 * 0.01 / 2  # Student's t with one degree of freedom, of two values .01 apart
    assert band[:, 1].min() == pytest.approx(0.105 - half, abs=1e-5)
    assert band[:, 1].max() == pytest.approx(0.185 + half, abs=1e-5)


def test_who_is_told_nothing_is_beside_every_predictor() -> None:
    rows = [row(policy, predictor=predictor) for predictor in ("column", "lognormal:0.8") for policy in GAINS]
    (figure,) = gain_over_load(rows)
    assert [dict(labels(axes)).keys() for axes in figure.axes] == [GAINS.keys()] * 2
    (figure,) = frontier(rows, LIMITS)
    assert len(figure.axes) == 2 * 3


def test_a_comparison_of_oracles_alone_is_drawn() -> None:
    rows = [row(policy) for policy in ("fcfs", "sjf")]
    assert len(frontier(rows, LIMITS)[0].axes) == 3
    assert len(gain_over_load(rows)[0].axes) == 1


def test_labels_of_many_policies_of_the_same_gain_do_not_overlap() -> None:
    rows = [row(f"policy-{number}") for number in range(14)]
    for picture in (frontier(rows, LIMITS)[0], gain_over_load(rows)[0]):
        picture.draw_without_rendering()
        boxes = sorted(
            (text.get_window_extent() for text in picture.axes[-1].texts if text.get_text().startswith("policy")),
            key=lambda box: box.y0,
        )
        assert len(boxes) == 14
        assert all(lower.y1 <= upper.y0 + 1 for lower, upper in itertools.pairwise(boxes))


def test_policies_can_be_told_apart_even_where_they_share_a_colour() -> None:
    rows = [row(f"policy-{number}", load=load) for number in range(12) for load in (0.5, 0.9)]
    rows += [row(f"aged-ssjf:rate={rate}", load=load) for rate in (0.05, 0.5) for load in (0.5, 0.9)]
    (axes,) = gain_over_load(rows)[0].axes
    curves = [line for line in axes.lines if not line.get_label().startswith("_")]
    looks = {(line.get_color(), line.get_marker()) for line in curves}
    assert len(looks) == 14
    assert len({(line.get_color(), str(line.get_linestyle()), line._unscaled_dash_pattern) for line in curves}) == 14


def test_many_cases_are_several_pictures() -> None:
    rows = [row(policy, slots=slots) for slots in range(1, 11) for policy in GAINS]
    assert [len(figure.axes) for figure in frontier(rows, LIMITS)] == [18, 12]
    assert [len(figure.axes) for figure in gain_over_load(rows)] == [8, 2]


def test_the_pictures_take_a_pages_colours() -> None:
    for figure in (*frontier(ROWS, LIMITS), *gain_over_load(ROWS)):
        assert "var(--ink)" in svg(figure)
        assert not re.search(r"<text[^>]*fill: #", svg(figure))


def test_labels_stand_where_they_are_wanted_if_they_can() -> None:
    assert _spread([0.1, 0.5, 0.9], 0.2) == pytest.approx([0.1, 0.5, 0.9])
    assert _spread([0.5, 0.5, 0.9], 0.2) == pytest.approx([0.4, 0.6, 0.9])
    assert _spread([0.0, 0.0, 0.05], 0.2) == pytest.approx([0.0, 0.2, 0.4])
    assert _spread([1.0, 1.0], 0.2) == pytest.approx([0.8, 1.0])
