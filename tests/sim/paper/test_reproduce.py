"""The two ways side by side on small inputs, and the table of the paper on synthetic lengths."""

import math
import random

import pytest

from ssjf.errors import DataError
from ssjf.sim.paper.reproduce import (
    ALL_ROUNDS,
    LATENCY_POLICY,
    Cell,
    Experiment,
    Row,
    paper_experiments,
    reproduce,
    serve_clean,
    steady_state,
)
from ssjf.sim.paper.rules import JOBS_PER_RUN, Setting, Streams
from ssjf.workload.predictions import Predictions

ONE = Setting(1, continuous=True)
SETTINGS = [ONE, Setting(4, continuous=False), Setting(4, continuous=True)]
EDGES = (42, 141, 294, 503)  # the paper's class thresholds, in tokens


def make_predictions(count: int = 400, *, latency_s: float | None = None, rounds: int | None = None) -> Predictions:
    """Lengths over the paper's range, with classes that are right three times out of five."""
    rng = random.Random(0)
    lengths = [round(min(511, max(2, rng.lognormvariate(4.8, 1)))) for _ in range(count)]
    classes = [sum(length >= edge for edge in EDGES) if rng.random() < 0.6 else rng.randrange(5) for length in lengths]
    return Predictions(
        tuple(lengths),
        tuple(classes),
        None if latency_s is None else (latency_s,) * count,
        None if rounds is None else tuple(row % rounds for row in range(count)),
    )


def run(predictions: Predictions, experiments: list[Experiment] | None = None, runs: int = 2) -> dict[Cell, Row]:
    rows = reproduce(
        predictions,
        experiments or paper_experiments({})[:1],
        SETTINGS,
        runs=runs,
        on_progress=lambda _done, _total: None,
    )
    return {row.cell: row for row in rows}


def mean_cell(setting: str, rules: str, policy: str, *, experiment: str = "poisson", group: str = ALL_ROUNDS) -> Cell:
    return Cell(group, experiment, setting, None, rules, policy)


def test_the_same_call_gives_the_same_rows() -> None:
    assert run(make_predictions()) == run(make_predictions())


def test_without_batching_fcfs_is_the_same_under_both_rules() -> None:
    # foresight and idling need a batch; a single FCFS server has no choices
    rows = run(make_predictions(), paper_experiments({}))
    for experiment in ("poisson", "gamma-rates", "gamma-cv"):
        paper, clean = (rows[mean_cell("none", rules, "fcfs", experiment=experiment)] for rules in ("paper", "clean"))
        assert paper.figures.mean_jct_s == pytest.approx(clean.figures.mean_jct_s, rel=1e-12)


def test_capacity_without_batching_is_the_same_for_every_policy() -> None:
    rows = run(make_predictions())
    for policy in ("sjf", "ssjf"):
        row = rows[mean_cell("none", "clean", policy)]
        assert row.capacity_ratio == pytest.approx(1, abs=1e-9)
        assert row.drain_ratio > 1.5, "what the artefact calls throughput"


def test_only_paper_rules_drop_jobs() -> None:
    # ever longer gaps: the last job comes to an empty queue
    rows = run(make_predictions(), [sweep for sweep in paper_experiments({}) if sweep.name == "gamma-cv"])
    dropped = {
        (cell.rules, cell.policy): row.figures.dropped
        for cell, row in rows.items()
        if cell.setting == "none" and cell.point is None
    }
    assert dropped["paper", "ssjf"] > 0.9
    assert dropped["paper", "fcfs"] == dropped["clean", "fcfs"] == dropped["clean", "ssjf"] == 0


def test_knowing_better_gains_more() -> None:
    rows = run(make_predictions())
    for rules in ("paper", "clean"):
        for setting in SETTINGS:
            gains = [rows[mean_cell(str(setting), rules, policy)].gain for policy in ("fcfs", "ssjf", "sjf")]
            assert gains == sorted(gains)
            assert gains[0] == 0


def test_the_mean_over_a_sweep_is_the_mean_of_its_points() -> None:
    rows = run(make_predictions())
    points = [
        row.figures.mean_jct_s
        for cell, row in rows.items()
        if cell[2:] == ("none", cell.point, "clean", "ssjf") and cell.point is not None
    ]
    assert len(points) == 10
    assert rows[mean_cell("none", "clean", "ssjf")].figures.mean_jct_s == pytest.approx(math.fsum(points) / 10)


def test_predictor_latency_is_part_of_the_jct() -> None:
    # one job at a time: each pays its prediction in full and nothing else changes
    alone = Experiment("alone", "", (1,), lambda streams, _: [100 * second for second in streams.gamma(1, cv=0.01)])
    rows = run(make_predictions(latency_s=0.25), [alone])
    without = rows[mean_cell("none", "clean", "ssjf", experiment="alone")].figures.mean_jct_s
    within = rows[mean_cell("none", "clean", LATENCY_POLICY, experiment="alone")].figures.mean_jct_s
    assert within == pytest.approx(without + 0.25)


def test_without_latencies_in_the_file_there_is_no_such_row() -> None:
    assert LATENCY_POLICY not in {cell.policy for cell in run(make_predictions())}


def test_each_round_of_conversation_that_fills_a_run_has_rows_of_its_own() -> None:
    predictions = make_predictions(rounds=3)
    short = Predictions(predictions.output_tokens, predictions.class_ids, None, (7, *(predictions.rounds or ())[1:]))
    assert {cell.round for cell in run(short, runs=1)} == {ALL_ROUNDS, "0", "1", "2"}


def test_too_few_predictions_or_arrivals_are_refused() -> None:
    with pytest.raises(DataError, match="50 predictions, but there are only 49"):
        run(make_predictions(49))
    with pytest.raises(DataError, match="azure-conv"):
        paper_experiments({"azure-conv": [0.0] * (JOBS_PER_RUN - 1)})


def test_a_trace_is_swept_over_its_scale() -> None:
    (sweep,) = paper_experiments({"azure-conv": [i * 0.1 for i in range(100)]})[3:]
    assert (sweep.points[0], sweep.points[-1], len(sweep.points)) == (0.5, 500, 10)
    assert sweep.arrivals(Streams(1), 100)[:3] == [0, 1, 2]


def test_clean_rules_serve_out_of_order_arrivals_and_answer_in_the_order_asked() -> None:
    assert serve_clean([5.0, 0.0, 0.0], [1.0, 3.0, 2.0], [1.0, 3.0, 2.0], "ssjf", ONE) == [6.0, 5.0, 2.0]


def test_in_steady_state_throughput_is_that_of_the_arrivals_whatever_the_policy() -> None:
    rows = steady_state(make_predictions(), seeds=3)
    assert {row.cell.point for row in rows} == {0.5, 0.8, 0.9}
    assert all(row.capacity_ratio == pytest.approx(1, abs=0.01) for row in rows)
    by_load = {row.cell.point: row.gain for row in rows if row.cell.policy == "ssjf"}
    assert 0 < by_load[0.5] < by_load[0.8]


def test_progress_is_told_after_each_point() -> None:
    seen: list[tuple[int, int]] = []
    reproduce(make_predictions(), paper_experiments({})[:1], [ONE], runs=1, on_progress=lambda *done: seen.append(done))
    assert seen == [(done, 30) for done in range(1, 31)]
