"""The simulator against a slow and obvious reference, bit for bit.

The reference shares nothing with the core: no heap, no tickets, no scheduler. At every instant at which something can
happen it looks at every job, and it writes each order out again in its own words.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ssjf.core.places.batching import Batching, Continuous, Dynamic, Static
from ssjf.core.policies import FCFS, HRRN, PSJF, SRPT, SSJF, AgedSSJF
from ssjf.core.service import LinearServiceModel
from ssjf.core.types import Policy
from ssjf.sim.host import LinearHost, Trace, simulate

BASE, PER_INPUT, PER_OUTPUT = 0.1, 0.003, 0.02


@dataclass
class Slow:
    """One job of the reference."""

    row: int
    arrival: float
    service: float
    predicted: float
    start: float = math.nan
    finish: float = math.nan


Order = Callable[[Slow, float], float]
ORDERS: dict[str, tuple[Policy, Order]] = {
    "fcfs": (FCFS(), lambda j, _: j.arrival),
    "ssjf": (SSJF(), lambda j, _: j.predicted),
    "aged": (AgedSSJF(rate=0.3), lambda j, _: j.predicted + 0.3 * j.arrival),
    "hrrn": (HRRN(), lambda j, now: -(now - j.arrival) / max(j.predicted, 1e-9)),
}
BATCHINGS = ("none", "continuous", "static", "dynamic")
WAIT = 2.0


def reference(jobs: list[Slow], order: Order, kind: str, slots: int, max_wait: float | None) -> None:
    """Fill in start and finish."""
    waiting = list(jobs)
    running: list[Slow] = []
    now = -math.inf
    while waiting or running:
        instants = [j.finish for j in running] + [j.arrival for j in waiting if j.arrival > now]
        here = [j for j in waiting if j.arrival <= now]
        if kind == "dynamic" and here and not running:
            instants.append(min(j.arrival for j in here) + WAIT)
        now = min(instants)
        running = [j for j in running if j.finish > now]
        here = [j for j in waiting if j.arrival <= now]
        if kind in ("none", "continuous"):
            room = slots - len(running)
        elif running:
            room = 0
        elif kind == "static":
            room = slots
        else:
            full = len(here) >= slots
            overdue = bool(here) and now >= min(j.arrival for j in here) + WAIT
            room = slots if full or overdue else 0
        batch = []
        while room > len(batch) and here:
            oldest = min(here, key=lambda j: (j.arrival, j.row))
            if max_wait is not None and now - oldest.arrival >= max_wait:
                chosen = oldest
            else:
                chosen = min(here, key=lambda j: (order(j, now), j.arrival, j.row))
            here.remove(chosen)
            waiting.remove(chosen)
            batch.append(chosen)
        longest = max((j.service for j in batch), default=0.0)
        for j in batch:
            j.start = now
            j.finish = now + (longest if kind in ("static", "dynamic") else j.service)
        running += batch


def preemptive_reference(jobs: list[Slow], *, by_remaining: bool) -> None:
    """One server; at every arrival or end, whoever has the smallest key runs; attained service is kept."""
    attained = {j.row: 0.0 for j in jobs}
    began: dict[int, tuple[float, float]] = {}
    unfinished = list(jobs)
    current: Slow | None = None
    now = -math.inf
    while unfinished:
        later = [j.arrival for j in unfinished if j.arrival > now]
        ends = [began[current.row][0] + (current.service - began[current.row][1])] if current else []
        now = min(later + ends)
        if current:
            at, before = began[current.row]
            attained[current.row] = before + (now - at)
            if ends[0] == now:
                current.finish = now
                unfinished.remove(current)
                current = None
        here = [j for j in unfinished if j.arrival <= now]
        if not here:
            continue

        def key(j: Slow) -> tuple[float, float, int]:
            return (j.predicted - attained[j.row] if by_remaining else j.predicted, j.arrival, j.row)

        best = min(here, key=key)
        if best is not current:
            if math.isnan(best.start):
                best.start = now
            began[best.row] = (now, attained[best.row])
            current = best


# ties in time, bursts, equal sizes; rows in any order
rows = st.lists(
    st.tuples(
        st.sampled_from([0.0, 0.0, 1.0, 1.0, 2.5, 7.0, 0.1, 33.3]),
        st.integers(0, 40),
        st.sampled_from([0, 1, 5, 5, 50, 400]),
        st.sampled_from([0.0, 1.0, 5.0, 49.5, 400.0]),
    ),
    min_size=1,
    max_size=25,
)


def build(workload: list[tuple[float, int, int, float]]) -> tuple[Trace, list[Slow]]:
    trace = Trace(
        index=list(range(len(workload))),
        arrival_s=[w[0] for w in workload],
        input_tokens=[w[1] for w in workload],
        output_tokens=[w[2] for w in workload],
        predicted_tokens=[w[3] for w in workload],
    )
    slow = [
        Slow(row, w[0], BASE + PER_INPUT * w[1] + PER_OUTPUT * w[2], BASE + PER_INPUT * w[1] + PER_OUTPUT * w[3])
        for row, w in enumerate(workload)
    ]
    return trace, slow


def host(batching: Batching, slots: int, max_wait: float | None = None) -> LinearHost:
    return LinearHost(
        slots=slots,
        batching=batching,
        service=LinearServiceModel(BASE, PER_INPUT, PER_OUTPUT),
        max_wait_s=max_wait,
    )


@pytest.mark.parametrize("kind", BATCHINGS)
@pytest.mark.parametrize("name", ORDERS)
@settings(max_examples=60)
@given(workload=rows, slots=st.integers(1, 4), max_wait=st.sampled_from([None, None, 0.0, 5.0]))
def test_every_start_and_finish_equals_the_reference(
    kind: str, name: str, workload: list[tuple[float, int, int, float]], slots: int, max_wait: float | None
) -> None:
    policy, order = ORDERS[name]
    slots = 1 if kind == "none" else slots
    batching = {"static": Static(), "dynamic": Dynamic(WAIT)}.get(kind, Continuous())
    trace, slow = build(workload)
    table = simulate(trace, policy, host(batching, slots, max_wait), label=name)
    reference(slow, order, kind, slots, max_wait)
    assert table.start_s.tolist() == [j.start for j in slow]
    assert table.finish_s.tolist() == [j.finish for j in slow]


@pytest.mark.parametrize(("policy", "by_remaining"), [(PSJF(), False), (SRPT(), True)], ids=["psjf", "srpt"])
@settings(max_examples=100)
@given(workload=rows)
def test_preemption_on_one_server_equals_the_reference(
    policy: Policy, by_remaining: bool, workload: list[tuple[float, int, int, float]]
) -> None:
    trace, slow = build(workload)
    table = simulate(trace, policy, host(Continuous(), 1), label="preemptive")
    preemptive_reference(slow, by_remaining=by_remaining)
    assert table.start_s.tolist() == [j.start for j in slow]
    assert table.finish_s.tolist() == [j.finish for j in slow]


def test_a_single_job_starts_when_it_arrives() -> None:
    trace, _ = build([(33.3, 10, 50, 1.0)])
    table = simulate(trace, SSJF(), host(Continuous(), 1), label="ssjf")
    assert table.start_s.tolist() == [33.3]
    assert table.finish_s.tolist() == [33.3 + (BASE + PER_INPUT * 10 + PER_OUTPUT * 50)]


def test_without_predictions_the_policy_knows_the_truth() -> None:
    trace, _ = build([(0.0, 0, 50, 1.0), (0.0, 0, 5, 400.0)])
    oracle = Trace(
        index=trace.index,
        arrival_s=trace.arrival_s,
        input_tokens=trace.input_tokens,
        output_tokens=trace.output_tokens,
    )
    assert simulate(oracle, SSJF(), host(Continuous(), 1), label="sjf").start_s.argmin() == 1
    assert simulate(trace, SSJF(), host(Continuous(), 1), label="ssjf").start_s.argmin() == 0
