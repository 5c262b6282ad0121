"""Summaries against figures worked out by hand or by slow, obviously right code."""

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from ssjf.metrics.summary import (
    gain,
    interval95,
    oracle_share,
    summarize,
    tokens_per_second_while_waiting,
    write_summary,
)
from ssjf.metrics.table import JobTable

SCHEMA = [
    *("n", "failed", "mean_jct_s", "p50_jct_s", "p90_jct_s", "p99_jct_s", "max_jct_s", "mean_wait_s", "mean_slowdown"),
    *("mean_ttft_s", "p99_ttft_s", "mean_tpot_s", "output_tokens_per_s", "gain", "oracle_share", "short", "long"),
]


def run(*jobs: tuple[float, float, float, int], policy: str = "fcfs", **columns: Any) -> JobTable:
    """A run of jobs (arrival, start, finish, output tokens); the first token comes half a second after the start."""
    arrival, start, finish, tokens = (np.array(column, dtype=float) for column in zip(*jobs, strict=True))
    given: dict[str, Any] = {
        "index": np.arange(len(jobs)),
        "arrival_s": arrival,
        "start_s": start,
        "first_token_s": start + 0.5,
        "finish_s": finish,
        "input_tokens": np.ones(len(jobs), dtype=np.int64),
        "output_tokens": tokens.astype(np.int64),
        "predicted_tokens": tokens,
        "status": ["completed"] * len(jobs),
    }
    return JobTable(policy=policy, seed=0, **(given | columns))


# one server; all come at 0, ten seconds of work, then two, then two
FCFS = run((0, 0, 10, 100), (0, 10, 12, 20), (0, 12, 14, 20))
SSJF = run((0, 4, 14, 100), (0, 0, 2, 20), (0, 2, 4, 20), policy="ssjf")
MIXED = run((0, 2, 12, 100), (0, 0, 2, 20), (0, 12, 14, 20), policy="mixed")


def test_the_measures_are_what_their_names_say() -> None:
    summary = summarize(FCFS, fcfs=FCFS, oracle=SSJF, alone_s=np.array([10.0, 2.0, 2.0]))
    assert {"policy", *SCHEMA} <= summary.keys()
    assert (summary["policy"], summary["n"], summary["failed"]) == ("fcfs", 3, 0)
    assert summary["mean_jct_s"] == pytest.approx(12)
    assert summary["p50_jct_s"] == pytest.approx(12)
    assert summary["p90_jct_s"] == pytest.approx(13.6)  # linear between 12 and 14
    assert summary["max_jct_s"] == pytest.approx(14)
    assert summary["mean_wait_s"] == pytest.approx(22 / 3)
    assert summary["mean_slowdown"] == pytest.approx((1 + 6 + 7) / 3)
    assert summary["mean_ttft_s"] == pytest.approx(22 / 3 + 0.5)
    assert summary["mean_tpot_s"] == pytest.approx((9.5 / 99 + 1.5 / 19 + 1.5 / 19) / 3)
    assert summary["gain"] == 0
    assert summary["oracle_share"] == 0


def test_gain_and_share_of_the_oracles_gain_compare_mean_jct() -> None:
    # mean JCT: FCFS 12, SSJF 20/3, MIXED 28/3
    assert gain(SSJF, FCFS) == pytest.approx(1 - (20 / 3) / 12)
    assert oracle_share(SSJF, FCFS, SSJF) == pytest.approx(1)
    assert oracle_share(MIXED, FCFS, SSJF) == pytest.approx((12 - 28 / 3) / (12 - 20 / 3))


def test_runs_are_compared_on_the_jobs_that_all_of_them_completed_whatever_their_order() -> None:
    backwards = run(
        *((0, 2, 4, 20), (0, 0, 2, 20), (0, 4, 99, 100)),
        policy="ssjf",
        index=np.array([2, 1, 0]),
        status=["completed", "completed", "failed"],
    )
    assert gain(backwards, FCFS) == pytest.approx(1 - 3 / 13)
    assert oracle_share(SSJF, FCFS, backwards) == pytest.approx(1)


def test_without_references_or_a_difference_there_is_no_comparison() -> None:
    summary = summarize(SSJF)
    assert (summary["gain"], summary["oracle_share"], summary["mean_slowdown"]) == (None, None, None)
    assert oracle_share(SSJF, FCFS, FCFS) is None
    assert oracle_share(MIXED, SSJF, FCFS) is None
    assert gain(run((0, 0, 1, 5), index=np.array([7])), FCFS) is None


def test_short_and_long_are_strictly_below_and_above_the_median() -> None:
    table = run((0, 0, 1, 10), (0, 0, 2, 20), (0, 0, 3, 20), (0, 0, 5, 30), (0, 0, 7, 40))
    summary = summarize(table)
    assert (summary["short"]["n"], summary["short"]["mean_jct_s"]) == (1, 1)
    assert (summary["long"]["n"], summary["long"]["mean_jct_s"]) == (2, 6)
    by_service = summarize(table, alone_s=np.array([5.0, 4.0, 3.0, 2.0, 1.0]))
    assert by_service["short"]["mean_jct_s"] == 6
    alike = summarize(run((0, 0, 1, 10), (0, 0, 2, 10)))
    assert (alike["short"]["n"], alike["short"]["mean_jct_s"], alike["long"]["mean_jct_s"]) == (0, None, None)


def test_failed_jobs_are_counted_and_left_out() -> None:
    nan = math.nan
    table = run((0, 0, 2, 10), (0, nan, nan, 0), (1, 2, 4, 30), status=["completed", "rejected", "completed"])
    summary = summarize(table)
    assert (summary["n"], summary["failed"], summary["mean_jct_s"]) == (3, 1, 2.5)


def test_a_run_without_any_answer_has_no_measures_but_a_count() -> None:
    nan = math.nan
    summary = summarize(run((0, nan, nan, 0), status=["failed"]))
    assert (summary["n"], summary["failed"]) == (1, 1)
    assert all(summary[name] is None for name in SCHEMA if name not in {"n", "failed", "short", "long"})


def test_what_the_host_could_not_see_is_null() -> None:
    unknown = np.full(2, math.nan)
    summary = summarize(run((0, 0, 1, 1), (0, 1, 2, 1), start_s=unknown, first_token_s=unknown))
    absent = ("mean_wait_s", "mean_ttft_s", "p99_ttft_s", "mean_tpot_s", "output_tokens_per_s")
    assert [summary[name] for name in absent] == [None] * 5
    assert summary["mean_jct_s"] == 1.5


def test_throughput_counts_only_while_somebody_waits() -> None:
    # two jobs wait until 10 and 12; the 20 tokens that come after 12 do not count
    assert tokens_per_second_while_waiting(FCFS) == pytest.approx(120 / 12)
    # the long job is served last, alone: nobody waits while it runs
    assert tokens_per_second_while_waiting(SSJF) == pytest.approx(40 / 4)


def test_a_job_at_the_edge_counts_by_its_share() -> None:
    # somebody waits from 1 to 2, while a job of 40 tokens runs from 0 to 4
    table = run((0, 0, 4, 40), (1, 2, 6, 8))
    assert tokens_per_second_while_waiting(table) == pytest.approx(10)


def test_where_nobody_waits_there_is_no_throughput() -> None:
    assert tokens_per_second_while_waiting(run((0, 0, 1, 5), (5, 5.0005, 6, 5))) is None


whole = st.integers(0, 30)


@given(st.lists(st.tuples(whole, whole, st.integers(1, 9), st.integers(0, 50)), min_size=1, max_size=12))
def test_throughput_agrees_with_counting_second_by_second(jobs: list[tuple[int, int, int, int]]) -> None:
    table = run(*((arrival, arrival + wait, arrival + wait + service, n) for arrival, wait, service, n in jobs))
    seconds = tokens = 0.0
    for second in range(100):
        if any(arrival <= second < arrival + wait for arrival, wait, _, _ in jobs):
            seconds += 1
            tokens += sum(n / s for a, w, s, n in jobs if a + w <= second < a + w + s)
    found = tokens_per_second_while_waiting(table)
    assert (found is None) == (seconds == 0)
    assert found is None or found == pytest.approx(tokens / seconds, abs=1e-9)


@pytest.mark.parametrize("count", [2, 3, 5, 10, 31, 200])
def test_intervals_are_students(count: int) -> None:
    values = np.random.default_rng(count).normal(3, 2, count).tolist()
    mean, half = interval95(values)
    low, high = stats.t.interval(0.95, count - 1, loc=np.mean(values), scale=stats.sem(values))
    assert half is not None
    assert (mean - half, mean + half) == pytest.approx((low, high), rel=1e-6)


def test_one_value_has_no_interval() -> None:
    assert interval95([4.0]) == (4.0, None)


def test_summary_json_is_strict_json_with_nulls(tmp_path: Path) -> None:
    summaries = [summarize(table, fcfs=FCFS) for table in (FCFS, SSJF)]
    write_summary(tmp_path / "summary.json", summaries)
    text = (tmp_path / "summary.json").read_text()
    assert json.loads(text, parse_constant=pytest.fail) == summaries
    assert [entry.name for entry in tmp_path.iterdir()] == ["summary.json"]
