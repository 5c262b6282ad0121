"""Laws of the scheduler, on random workloads."""

from hypothesis import given, settings
from hypothesis import strategies as st

from ssjf.core.places.capacity import Slots
from ssjf.core.policies import FCFS, SSJF, AgedSSJF
from ssjf.core.replay import replay
from ssjf.core.scheduler import Scheduler
from ssjf.core.types import Job, Policy, Request

POLICIES: list[Policy] = [FCFS(), SSJF(), AgedSSJF(rate=0.2)]
GAPS = st.sampled_from([0.0, 0.0, 0.5, 1.0, 3.0])
SIZES = st.sampled_from([0.0, 0.5, 1.0, 2.0, 9.0])

workloads = st.lists(st.tuples(GAPS, SIZES, SIZES), max_size=40)


def build(workload: list[tuple[float, float, float]]) -> list[tuple[Job, float]]:
    now, jobs = 0.0, []
    for index, (gap, predicted, true) in enumerate(workload):
        now += gap
        jobs.append((Job(Request(request_id=str(index), arrival_time=now), predicted), true))
    return jobs


def reference(workload: list[tuple[float, float, float]], policy: Policy, slots: int) -> list[tuple[int, float]]:
    """(index, start) in order of service by a slow and obvious rule: sort whoever is there whenever a slot is free."""
    jobs = build(workload)
    waiting = list(range(len(jobs)))
    free_at = [0.0] * slots
    served = []
    while waiting:
        slot = min(range(slots), key=lambda s: free_at[s])
        now = max(free_at[slot], min(jobs[i][0].request.arrival_time for i in waiting))
        here = [i for i in waiting if jobs[i][0].request.arrival_time <= now]
        best = min(here, key=lambda i: (policy.key(jobs[i][0], now), jobs[i][0].request.arrival_time, i))
        served.append((best, now))
        free_at[slot] = now + jobs[best][1]
        waiting.remove(best)
    return served


@settings(max_examples=300, deadline=None)
@given(workload=workloads, policy=st.sampled_from(POLICIES), slots=st.integers(1, 4))
def test_replay_equals_an_obvious_reference_bit_for_bit(
    workload: list[tuple[float, float, float]], policy: Policy, slots: int
) -> None:
    served = replay(build(workload), Scheduler(policy, Slots(slots)))
    assert [(int(j.request.request_id), j.started_at) for j in served] == reference(workload, policy, slots)


@settings(max_examples=200, deadline=None)
@given(workload=workloads, policy=st.sampled_from(POLICIES), slots=st.integers(1, 3), bound=st.sampled_from([0.0, 4.0]))
def test_nobody_who_waited_beyond_the_bound_is_overtaken_by_a_later_arrival(
    workload: list[tuple[float, float, float]], policy: Policy, slots: int, bound: float
) -> None:
    served = replay(build(workload), Scheduler(policy, Slots(slots), max_wait_s=bound))
    for position, job in enumerate(served):
        assert job.started_at is not None
        for other in served[position + 1 :]:
            waited = job.started_at - other.request.arrival_time
            assert waited < bound or other.request.arrival_time >= job.request.arrival_time


@settings(max_examples=100, deadline=None)
@given(workload=workloads)
def test_on_one_slot_the_order_does_not_change_when_all_the_work_is_done(
    workload: list[tuple[float, float, float]],
) -> None:
    ends = set()
    for policy in POLICIES:
        served = replay(build(workload), Scheduler(policy, Slots(1)))
        ends.add(max((job.finished_at or 0.0 for job in served), default=0.0))
    assert len(ends) == 1
