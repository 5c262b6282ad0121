"""The table of a comparison: who is on which line, and whose line is marked."""

import io
from typing import Any

from rich.console import Console

from ssjf.report.comparison import comparison

LIMITS = {"p90_vs_fcfs": 1.08, "p99_vs_fcfs": 1.05, "max_vs_fcfs": 1.10}


def row(policy: str, gain: float, *, worst: float = 1.0, **others: Any) -> dict[str, Any]:
    return {
        "policy": policy,
        "seed": 0,
        "slots": 1,
        "load": 0.9,
        "arrivals": "poisson",
        "predictor": None if policy in {"fcfs", "sjf"} else "column",
        "mean_jct_s": 10 * (1 - gain),
        "gain": gain,
        "oracle_share": gain / 0.4,
        "p90_vs_fcfs": 0.9,
        "p99_vs_fcfs": 1.04,
        "max_vs_fcfs": worst,
        **others,
    }


def lines(rows: list[dict[str, Any]]) -> list[str]:
    console = Console(file=io.StringIO(), width=120)
    console.print(comparison(rows, LIMITS))
    text: str = console.file.getvalue()  # type: ignore[attr-defined]
    return [" ".join(line.split()) for line in text.splitlines() if line.strip()]


def test_each_policy_has_a_line_in_each_case() -> None:
    shown = lines([row("fcfs", 0.0), row("auto", 0.2), row("auto", 0.1, slots=8, arrivals="onoff")])
    first, second = shown.index("1 slot, load 0.9, poisson"), shown.index("8 slots, load 0.9, onoff")
    assert shown[first + 1 : second] == [
        "fcfs 10.00 0.000 0.000 0.90 1.04 1.00",
        "* auto 8.00 0.200 0.500 0.90 1.04 1.00",
    ]
    assert shown[second + 1] == "* auto 9.00 0.100 0.250 0.90 1.04 1.00"


def test_the_largest_gain_that_keeps_the_limits_is_marked_if_it_does_not_know_the_truth() -> None:
    shown = lines([row("ssjf", 0.35, worst=8.0), row("hrrn", 0.1), row("auto", 0.2, worst=1.1), row("sjf", 0.4)])
    assert [line.split()[1] for line in shown if line.startswith("* ")] == ["auto"]


def test_nothing_is_marked_where_nothing_keeps_the_limits() -> None:
    assert not [line for line in lines([row("ssjf", 0.35, worst=8.0), row("fcfs", 0.0)]) if line.startswith("* ")]


def test_several_seeds_give_intervals() -> None:
    shown = lines([row("auto", gain, seed=seed) for seed, gain in enumerate((0.1, 0.2))])
    # 12.706 standard errors
    assert "* auto 8.50 0.150 ±0.635 0.375 ±1.588 0.90 1.04 1.00" in shown


def test_predictors_have_a_column_where_there_are_several() -> None:
    both = [row("auto", 0.2), row("auto", 0.1, predictor="random")]
    assert "* auto column 8.00 0.200 0.500 0.90 1.04 1.00" in lines(both)
    assert "auto random 9.00 0.100 0.250 0.90 1.04 1.00" in lines(both)
    assert "completion times, predicted by column and random" in lines(both)


def test_a_share_is_a_dash_where_the_oracle_gains_nothing() -> None:
    assert "fcfs 10.00 0.000 – 0.90 1.04 1.00" in lines([row("fcfs", 0.0, oracle_share=None)])


def test_what_no_draw_changes_has_no_interval() -> None:
    shown = lines([row("fcfs", 0.0, seed=0), row("fcfs", 0.0, seed=1)])
    assert "fcfs 10.00 0.000 0.000 0.90 1.04 1.00" in shown
