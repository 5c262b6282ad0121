"""The laboratory: cells are fair, depend on nothing else, and are compared on the same jobs."""

import pickle
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pytest

from ssjf.core.policies import FCFS, SSJF
from ssjf.core.types import Job
from ssjf.errors import SSJFError
from ssjf.metrics.summary import gain, oracle_share
from ssjf.sim import compare
from ssjf.sim.compare import OWN, Case, Cell, Generated, Grid, Laboratory, Recorded
from ssjf.sim.host import LinearHost, StepHost, Trace, simulate
from ssjf.sim.steps.cost import EngineLimits, StepCostModel
from ssjf.workload import arrivals
from ssjf.workload.arrivals import Poisson
from ssjf.workload.generated.lengths import Constant, Exponential

CASE = Case(slots=2, load=0.9, arrivals="poisson")
OWN_CASE = replace(CASE, arrivals=OWN)
TIMES = [0.0, 1.0, 1.5, 7.0, 7.5, 9.0, 30.0, 31.0]
TOKENS = [80, 10, 200, 40, 5, 60, 150, 20]
ROWS = Trace(index=range(8), arrival_s=TIMES, input_tokens=[1] * 8, output_tokens=TOKENS, tenant=list("abababab"))
GUESSES = [float(tokens // 2) for tokens in TOKENS]


def laboratory(jobs: int = 8, **changes: Any) -> Laboratory:
    hosts = {(slots, seed): LinearHost(slots=slots) for slots in (1, 2) for seed in range(3)}
    settings: dict[str, Any] = {
        "source": Recorded(rows=ROWS, predicted={"column": replace(ROWS, predicted_tokens=GUESSES)}),
        "jobs": jobs,
        "processes": {"poisson": Poisson(1.0), OWN: arrivals.Trace(TIMES)},
        "hosts": hosts,
        "oracle_hosts": hosts,
    }
    return Laboratory(**settings | changes)


def cell(policy: str = "ssjf", predictor: str | None = "column", case: Case = CASE, seed: int = 0) -> Cell:
    return Cell(policy=policy, predictor=predictor, case=case, seed=seed)


def asked(trace: Trace) -> list[tuple[Any, ...]]:
    return list(zip(trace.arrival_s, trace.input_tokens, trace.output_tokens, trace.tenant, strict=True))


def test_all_policies_and_predictors_of_a_case_and_seed_are_asked_the_same_at_the_same_times() -> None:
    cells = [cell(), cell("auto"), cell("fcfs", None), cell("ssjf", "lognormal:0.5"), cell("ssjf", "reversed")]
    traces = [laboratory().trace(one) for one in cells]
    assert all(asked(trace) == asked(traces[0]) for trace in traces)
    assert traces[0].predicted_tokens == traces[1].predicted_tokens
    assert traces[2].predicted_tokens is None
    assert asked(laboratory().trace(cell(seed=1))) != asked(traces[0])


def test_a_sample_keeps_each_row_together_and_repeats_none_unless_it_must() -> None:
    trace = laboratory().trace(cell())
    rows = [TOKENS.index(tokens) for tokens in trace.output_tokens]
    assert sorted(rows) == list(range(8))
    assert rows != list(range(8))
    assert trace.tenant == [ROWS.tenant[row] for row in rows]
    assert trace.predicted_tokens == [GUESSES[row] for row in rows]
    assert len(laboratory(jobs=50).trace(cell())) == 50


@pytest.mark.parametrize("load", [0.5, 0.95])
@pytest.mark.parametrize("slots", [1, 2])
def test_the_arrival_rate_is_the_load_times_what_the_slots_can_serve(slots: int, load: float) -> None:
    trace = laboratory(jobs=5000).trace(cell(case=Case(slots=slots, load=load, arrivals="poisson")))
    mean_service_s = 0.1 + 0.02 * np.mean(trace.output_tokens)
    assert 5000 / trace.arrival_s[-1] * mean_service_s / slots == pytest.approx(load, rel=0.05)


def test_at_another_load_the_same_jobs_come_in_the_same_rhythm() -> None:
    slow, fast = (laboratory().trace(cell(case=replace(CASE, load=load))) for load in (0.4, 0.8))
    assert slow.output_tokens == fast.output_tokens
    assert slow.arrival_s == pytest.approx([2 * instant for instant in fast.arrival_s])


def test_own_arrivals_keep_the_order_of_the_rows_and_the_proportions_of_the_gaps() -> None:
    trace = laboratory(jobs=6).trace(cell(case=OWN_CASE, seed=2))
    assert trace.output_tokens == TOKENS[:6]
    assert np.diff(trace.arrival_s) / trace.arrival_s[-1] == pytest.approx(np.diff(TIMES[:6]) / TIMES[5])
    mean_service_s = 0.1 + 0.02 * np.mean(TOKENS[:6])
    assert 6 / trace.arrival_s[-1] * mean_service_s / 2 == pytest.approx(0.9)
    assert len(laboratory(jobs=100).trace(cell(case=OWN_CASE))) == 8


def test_generated_lengths_are_new_for_each_seed() -> None:
    source = Generated(outputs=Exponential(100), inputs=Constant(7))
    drawn = [laboratory(source=source, jobs=40).trace(cell(predictor=None, seed=seed)) for seed in (0, 0, 1)]
    assert drawn[0] == drawn[1]
    assert sorted(drawn[0].output_tokens) != sorted(drawn[2].output_tokens)
    assert drawn[0].input_tokens == [7] * 40


def test_a_row_is_what_the_simulator_gives_compared_with_fcfs_and_the_oracle_on_the_same_jobs() -> None:
    lab = laboratory(jobs=300)
    grid = Grid(cases=[CASE], policies=["ssjf"], untold=frozenset(), predictors=["column"], seeds=1)
    (row,) = grid.rows({one: lab.run(one) for one in grid.cells()})
    trace, host = lab.trace(cell()), LinearHost(slots=2)
    fcfs, ssjf = (simulate(trace, policy, host, label="") for policy in (FCFS(), SSJF()))
    oracle = simulate(replace(trace, predicted_tokens=None), SSJF(), host, label="")
    assert row["mean_jct_s"] == ssjf.jct_s.mean()
    assert row["gain"] == pytest.approx(gain(ssjf, fcfs))
    assert row["oracle_share"] == pytest.approx(oracle_share(ssjf, fcfs, oracle))
    for name, level in (("p90", 90), ("p99", 99), ("max", 100)):
        ratio = np.percentile(ssjf.jct_s, level) / np.percentile(fcfs.jct_s, level)
        assert row[f"{name}_vs_fcfs"] == pytest.approx(ratio)
    assert [row[key] for key in ("slots", "load", "arrivals", "predictor")] == [2, 0.9, "poisson", "column"]


def test_the_share_is_none_where_the_oracle_gains_nothing() -> None:
    source = Generated(outputs=Constant(50), inputs=Constant(1))
    lab = laboratory(source=source, jobs=30)
    grid = Grid(cases=[CASE], policies=["fcfs"], untold=frozenset(["fcfs"]), predictors=[], seeds=1)
    (row,) = grid.rows({one: lab.run(one) for one in grid.cells()})
    assert (row["gain"], row["oracle_share"], row["max_vs_fcfs"]) == (0, None, 1)


def test_a_grid_has_every_cell_once_and_the_references_whether_or_not_they_are_shown() -> None:
    cases = [CASE, replace(CASE, load=0.5)]
    grid = Grid(
        cases=cases, policies=["ssjf", "sjf"], untold=frozenset(["sjf"]), predictors=["column", "random"], seeds=2
    )
    cells = grid.cells()
    assert len(cells) == len(set(cells)) == 2 * 2 * (2 + 2)  # cases × seeds × (ssjf twice told, fcfs, sjf)
    summary = {"mean_jct_s": 1.0, "p90_jct_s": 1.0, "p99_jct_s": 1.0, "max_jct_s": 1.0}
    rows = grid.rows({one: {**summary, "policy": one.policy, "seed": one.seed} for one in cells})
    assert [(row["load"], row["policy"], row["predictor"], row["seed"]) for row in rows] == [
        (load, policy, predictor, seed)
        for load in (0.9, 0.5)
        for policy, predictor in (("ssjf", "column"), ("ssjf", "random"), ("sjf", None))
        for seed in (0, 1)
    ]


def test_a_bound_on_waiting_holds_for_the_oracle_that_is_named_but_not_for_the_one_all_are_measured_by() -> None:
    bounded = {key: replace(host, max_wait_s=0.0) for key, host in laboratory().hosts.items()}
    lab = laboratory(jobs=200, hosts=bounded)
    grid = Grid(
        cases=[CASE],
        policies=["ssjf", "sjf"],
        untold=frozenset(["sjf"]),
        predictors=["column"],
        seeds=1,
        is_bounded=True,
    )
    found = {one: lab.run(one) for one in grid.cells()}
    free = Grid(cases=[CASE], policies=["sjf"], untold=frozenset(["sjf"]), predictors=[], seeds=1)
    (unbounded,) = free.rows({one: laboratory(jobs=200).run(one) for one in free.cells()})
    fcfs = found[cell("fcfs", None)]
    for row in grid.rows(found):
        assert (row["mean_jct_s"], row["gain"], row["oracle_share"]) == (fcfs["mean_jct_s"], 0, 0)
    reference = found[replace(cell("sjf", None), is_free=True)]
    assert reference["mean_jct_s"] == unbounded["mean_jct_s"] < fcfs["mean_jct_s"]


def test_where_nothing_is_drawn_there_is_one_seed() -> None:
    cases, told = [OWN_CASE, CASE], ["column", "lognormal:0.5"]
    grid = Grid(cases=cases, policies=["fcfs", "ssjf"], untold=frozenset(["fcfs"]), predictors=told, seeds=3)
    lab = laboratory(jobs=50)
    rows = grid.rows({one: lab.run(one) for one in grid.cells()})
    seeds: dict[tuple[str, str | None], list[int]] = {}
    for row in rows:
        seeds.setdefault((row["arrivals"], row["predictor"]), []).append(row["seed"])
    assert seeds.pop((OWN, None)) == seeds.pop((OWN, "column")) == [0]
    assert set(map(tuple, seeds.values())) == {(0, 1, 2)}


def test_load_on_an_engine_is_measured_on_the_engine_once_for_a_sample(monkeypatch: pytest.MonkeyPatch) -> None:
    host = StepHost(
        slots=2,
        cost=StepCostModel(base_s=0.01, per_prefill_token_s=0, per_decode_token_s=0, per_kv_token_s=0),
        limits=EngineLimits(num_kv_blocks=10_000),
        context_tokens=100,
    )
    measured = []
    saturated = StepHost.saturated_requests_per_s

    def counting(self: StepHost, prompts: list[int], outputs: list[int]) -> float:
        measured.append(len(outputs))
        return saturated(self, prompts, outputs)

    monkeypatch.setattr(StepHost, "saturated_requests_per_s", counting)
    evenly = {"poisson": arrivals.Uniform(1.0)}
    lab = laboratory(jobs=400, hosts={(2, 0): host}, oracle_hosts={(2, 0): host}, processes=evenly)
    trace = lab.trace(cell())
    assert lab.trace(cell("auto", "random", replace(CASE, load=0.5))).output_tokens == trace.output_tokens
    assert measured == [400]
    # two sequences get a token each every 10 ms
    assert 400 / trace.arrival_s[-1] / (200 / np.mean(trace.output_tokens)) == pytest.approx(0.9, rel=0.02)
    assert lab.run(cell())["mean_ttft_s"] > 0


def test_a_description_tells_apart_whatever_changes_the_result() -> None:
    lab = laboratory()
    tight = {key: replace(host, max_wait_s=1.0) for key, host in lab.hosts.items()}
    other_rows = Recorded(rows=replace(ROWS, output_tokens=[*TOKENS[:-1], 21]), predicted={})
    other_guesses = Recorded(rows=ROWS, predicted={"column": replace(ROWS, predicted_tokens=[9.0] * 8)})
    descriptions = [
        lab.description(cell()),
        lab.description(cell("auto")),
        lab.description(cell(predictor="random")),
        lab.description(cell(seed=1)),
        *(lab.description(cell(case=case)) for case in (replace(CASE, slots=1), replace(CASE, load=0.8), OWN_CASE)),
        laboratory(jobs=7).description(cell()),
        laboratory(hosts=tight).description(cell()),
        laboratory(source=other_rows).description(cell()),
        laboratory(source=other_guesses).description(cell()),
        laboratory(processes={"poisson": arrivals.Gamma(1.0, 2.0)}).description(cell()),
    ]
    assert len({repr(description) for description in descriptions}) == len(descriptions)
    assert lab.description(cell()) == laboratory().description(cell())
    assert laboratory(source=other_guesses).description(cell("fcfs", None)) == lab.description(cell("fcfs", None))


def test_a_laboratory_can_be_sent_to_another_process() -> None:
    sent = pickle.loads(pickle.dumps(laboratory()))
    assert sent.run(cell()) == laboratory().run(cell())


@dataclass
class Broken:
    static = True

    def key(self, job: Job, now: float) -> float:
        raise ZeroDivisionError("oh")


def test_a_policy_that_fails_is_named_with_the_case(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(compare, "make_policy", lambda _: Broken())
    with pytest.raises(SSJFError, match=r"policy 'mine' failed \(2 slots, load 0.9, poisson, seed 0\).*oh"):
        laboratory().run(cell("mine"))
