"""The laboratory: cells, resuming, and that nothing depends on how the work is split."""

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest

from ssjf.cli.scenario import linear_host, make_policies, run_policy, untimed_trace, with_predictions
from ssjf.core.types import Policy
from ssjf.metrics.table import JobTable
from ssjf.sim import compare
from ssjf.sim.compare import Case, Laboratory, drawn, run, run_cell
from ssjf.sim.host import Host, Trace
from ssjf.workload.arrivals import Poisson
from ssjf.workload.generated.lengths import generate, parse_lengths
from ssjf.workload.items import WorkItem

CASE = Case(slots=1, load=0.9, arrivals="poisson", predictor="lognormal:0.5")


def make_host(_items: Sequence[WorkItem], slots: int) -> Host:
    return linear_host(
        slots=slots, base_seconds=0.1, seconds_per_token=0.02, seconds_per_input_token=0.0, max_wait_s=None
    )


def make_trace(items: Sequence[WorkItem], case: Case, host: Host, seed: int) -> Trace:
    trace = untimed_trace(items)
    rate = case.load * host.saturated_requests_per_s(trace.input_tokens, trace.output_tokens)
    times = Poisson(rate).times(len(items), seed).tolist()
    return with_predictions(replace(trace, arrival_s=times, index=range(len(items))), items, case.predictor, seed)


def serve(trace: Trace, spec: str, policy: Policy, host: Host, seed: int) -> JobTable:
    return run_policy(trace, spec, policy, host, seed=seed)


def laboratory(policies: str = "fcfs,ssjf,sjf", jobs: int = 300) -> Laboratory:
    items = generate(500, outputs=parse_lengths("paper"), inputs=parse_lengths("constant:1"), seed=0)
    return Laboratory(
        items=items,
        jobs=jobs,
        policies=make_policies(policies),
        host=make_host,
        trace=make_trace,
        serve=serve,
        fingerprint="test",
    )


def test_all_policies_of_a_cell_serve_the_same_jobs_and_are_measured_against_fcfs() -> None:
    fcfs, ssjf, sjf = run_cell(laboratory(), CASE, seed=3)
    assert [row["policy"] for row in (fcfs, ssjf, sjf)] == ["fcfs", "ssjf", "sjf"]
    assert (fcfs["gain"], fcfs["oracle_share"], fcfs["p99_vs_fcfs"]) == (0.0, 0.0, 1.0)
    assert sjf["oracle_share"] == 1.0
    assert 0 < ssjf["gain"] < sjf["gain"]
    assert ssjf["max_vs_fcfs"] == ssjf["max_jct_s"] / fcfs["max_jct_s"]
    assert (ssjf["slots"], ssjf["load"], ssjf["arrivals"], ssjf["predictor"]) == (1, 0.9, "poisson", "lognormal:0.5")


def test_a_sample_repeats_no_item_unless_it_must_and_is_the_same_for_a_seed() -> None:
    items = laboratory().items
    assert len({item.index for item in drawn(items, 500, 0)}) == 500
    assert len(drawn(items, 800, 0)) == 800
    assert drawn(items, 100, 1) == drawn(items, 100, 1) != drawn(items, 100, 2)


def test_a_second_run_computes_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    known: list[bool] = []
    first = run(laboratory(), [CASE], 2, folder=tmp_path, workers=1, on_cell=known.append)

    def never(*_: object) -> None:
        raise AssertionError

    monkeypatch.setattr(compare, "run_cell", never)
    second = run(laboratory(), [CASE], 2, folder=tmp_path, workers=1, on_cell=known.append)
    assert second == first
    assert known == [False, False, True, True]


@pytest.mark.parametrize("change", ["jobs", "policies", "items"])
def test_cells_of_other_settings_are_not_taken_for_these(tmp_path: Path, change: str) -> None:
    run(laboratory(), [CASE], 1, folder=tmp_path, workers=1, on_cell=lambda _: None)
    other = (
        laboratory(jobs=250)
        if change == "jobs"
        else laboratory("fcfs,aged-ssjf" if change == "policies" else "fcfs,ssjf,sjf")
    )
    if change == "items":
        other = replace(other, items=other.items[1:])
    known: list[bool] = []
    run(other, [CASE], 1, folder=tmp_path, workers=1, on_cell=known.append)
    assert known == [False]


@pytest.mark.parametrize("damage", ["", "{", "[]", '"x"'])
def test_a_damaged_cell_is_computed_anew(tmp_path: Path, damage: str) -> None:
    first = run(laboratory(), [CASE], 1, folder=tmp_path, workers=1, on_cell=lambda _: None)
    (cell,) = tmp_path.iterdir()
    cell.write_text(damage)
    assert run(laboratory(), [CASE], 1, folder=tmp_path, workers=1, on_cell=lambda _: None) == first
    assert json.loads(cell.read_text()) == first


def test_several_processes_find_the_same(tmp_path: Path) -> None:
    cases = [CASE, replace(CASE, load=0.5)]
    alone = run(laboratory(), cases, 2, folder=tmp_path / "a", workers=1, on_cell=lambda _: None)
    together = run(laboratory(), cases, 2, folder=tmp_path / "b", workers=2, on_cell=lambda _: None)
    assert together == alone
    assert [(row["load"], row["seed"]) for row in alone[::3]] == [(0.9, 0), (0.9, 1), (0.5, 0), (0.5, 1)]
