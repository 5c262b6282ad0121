"""Pictures show the numbers they are given, whatever the size of the run, and leave no trace behind."""

import re
import sys
from dataclasses import replace
from pathlib import Path
from xml.etree import ElementTree as ET

import numpy as np
import pytest
from matplotlib import rcParams
from matplotlib.figure import Figure

from ssjf.errors import ConfigError
from ssjf.metrics.summary import summarize
from ssjf.metrics.table import JobTable
from ssjf.report import figures
from ssjf.report.style import colour_of
from tests.report.conftest import make_run

Runs = dict[str, JobTable]


def texts(figure: Figure) -> str:
    return " | ".join(re.findall(r"<text[^>]*>([^<]*)</text>", figures.svg(figure)))


def all_figures(runs: Runs) -> list[Figure]:
    table = runs["ssjf"]
    return [
        figures.completion_times(runs),
        figures.mean_and_tail([summarize(run) for run in runs.values()]),
        figures.who_waited(runs),
        figures.predicted_against_actual(table.predicted_tokens, table.output_tokens),
    ]


def test_each_curve_is_the_share_of_requests_answered_by_a_time(runs: Runs) -> None:
    (axes,) = figures.completion_times(runs).axes
    for line, table in zip(axes.get_lines(), runs.values(), strict=True):
        seconds, share = line.get_data()
        for second in (2.0, 5.0, 9.0):
            shown = max((s for t, s in zip(seconds, share, strict=True) if t <= second), default=0.0)
            assert shown == pytest.approx(np.mean(table.jct_s <= second))


def test_bars_tell_the_change_against_the_first_row() -> None:
    rows = [
        {"policy": "fcfs", "mean_jct_s": 10.0, "p99_jct_s": 20.0, "max_jct_s": 200.0},
        {"policy": "ssjf", "mean_jct_s": 6.0, "p99_jct_s": 25.0, "max_jct_s": 200.0},
    ]
    shown = texts(figures.mean_and_tail(rows, {"ssjf": "shortest first"}))
    for text in ("fcfs", "shortest first", "10.0 s", "6.00 s", "−40 %", "+25 %", "200 s"):
        assert text in shown


def test_waiting_ends_where_service_begins(runs: Runs) -> None:
    table = runs["fcfs"]
    panel = figures.who_waited({"fcfs": table}).axes[0]
    lines = sorted(tuple(map(tuple, segment)) for bars in panel.collections for segment in bars.get_segments())
    expected = [
        ((begin, row), (end, row))
        for row in range(40)
        for begin, end in (
            (table.arrival_s[row], table.start_s[row]),
            (table.start_s[row], table.finish_s[row]),
        )
    ]
    assert lines == sorted(expected)
    assert "requests by arrival" in texts(figures.who_waited({"fcfs": table}))


def test_the_first_to_arrive_is_on_top_in_every_panel(runs: Runs) -> None:
    for number in (1, 2, 3, 4):
        shown = {f"{position}": runs["fcfs"] for position in range(number)}
        panels = [axes for axes in figures.who_waited(shown).axes if axes.get_visible()]
        assert len(panels) == number
        assert all(axes.yaxis_inverted() for axes in panels)


def test_predictions_are_rated_by_kendalls_tau() -> None:
    assert "τ-b = 1.00" in texts(figures.predicted_against_actual([3, 10, 40], [1, 2, 3]))
    assert "τ-b" not in texts(figures.predicted_against_actual([5, 5], [1, 2]))


def test_a_large_run_makes_no_heavy_picture() -> None:
    table = make_run("fcfs", 100_000)
    pictures = [
        figures.completion_times({"fcfs": table}),
        figures.who_waited({"fcfs": table}),
        figures.predicted_against_actual(table.predicted_tokens, table.output_tokens),
    ]
    assert max(len(figures.svg(picture)) for picture in pictures) < 300_000
    assert "every 910th request" in texts(pictures[1])


def test_a_run_without_answers_still_draws(runs: Runs) -> None:
    nothing = replace(runs["fcfs"], status=["failed"] * 40)
    for figure in all_figures({"fcfs": nothing, "ssjf": nothing}):
        figures.svg(figure)
    figures.svg(figures.predicted_against_actual([], []))


def test_a_host_that_cannot_see_the_start_shows_no_wait(runs: Runs) -> None:
    unseen = replace(runs["fcfs"], start_s=np.full(40, np.nan))
    assert "on average" not in texts(figures.who_waited({"fcfs": unseen}))


def test_a_policy_keeps_its_colour_with_constants_and_in_every_place() -> None:
    assert colour_of("aged-ssjf:rate=0.1", 3) == colour_of("aged-ssjf")
    assert colour_of("mine", 0) != colour_of("mine", 1)


def test_pictures_for_a_page_are_well_formed_small_elements_that_share_no_names(runs: Runs) -> None:
    pictures = [figures.svg(figure) for figure in all_figures(runs)]
    names: list[str] = []
    for picture in pictures:
        root = ET.fromstring(picture)
        own = [element.attrib["id"] for element in root.iter() if "id" in element.attrib]
        used = re.findall(r'(?:href="#|url\(#)([^")]+)', picture)
        assert set(used) <= set(own)
        assert "width" not in root.attrib
        assert "<script" not in picture
        names += own
    assert len(names) == len(set(names))


def test_text_and_lines_take_the_pages_colours(runs: Runs) -> None:
    for figure in all_figures(runs):
        picture = figures.svg(figure)
        assert "var(--ink)" in picture
        assert not re.search(r"<text[^>]*fill: #", picture)
        assert "fill: #ffffff" not in picture


def test_the_same_run_gives_the_same_picture(runs: Runs) -> None:
    assert [figures.svg(f) for f in all_figures(runs)] == [figures.svg(f) for f in all_figures(runs)]


@pytest.mark.parametrize(("name", "begins"), [("p.png", b"\x89PNG"), ("p.svg", b"<?xml")])
def test_pictures_are_saved_by_the_files_ending(tmp_path: Path, runs: Runs, name: str, begins: bytes) -> None:
    figures.save(figures.completion_times(runs), tmp_path / name)
    assert (tmp_path / name).read_bytes().startswith(begins)


def test_drawing_leaves_the_settings_of_matplotlib_alone(runs: Runs, tmp_path: Path) -> None:
    before = dict(rcParams)
    for figure in all_figures(runs):
        figures.save(figure, tmp_path / "p.png")
    assert dict(rcParams) == before


def test_without_matplotlib_the_error_says_what_to_install(runs: Runs, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(ConfigError, match=r"pip install 'ssjf\[plot\]'"):
        figures.completion_times(runs)
