"""The waiting queue against a naive model: a list that is sorted anew for every question."""

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from ssjf.core.policies import FCFS, SSJF, AgedSSJF
from ssjf.core.types import Job, Policy, Request
from ssjf.core.waiting.queue import WaitingQueue


class _MovingRatio:
    """Response ratio, negated: a key that moves with time."""

    static = False

    def key(self, job: Job, now: float) -> float:
        return -(now - job.request.arrival_time + job.predicted_service_s) / job.predicted_service_s


POLICIES: list[Policy] = [FCFS(), SSJF(), AgedSSJF(rate=0.1), _MovingRatio()]
# few distinct values, so that ties are common
SERVICES = st.sampled_from([0.5, 1.0, 1.0, 2.0, 7.5, 100.0])


class QueueMachine(RuleBasedStateMachine):
    @initialize(policy=st.sampled_from(POLICIES), max_wait_s=st.sampled_from([None, 0.0, 3.0, 50.0]))
    def start(self, policy: Policy, max_wait_s: float | None) -> None:
        self.policy = policy
        self.max_wait_s = max_wait_s
        self.queue = WaitingQueue(policy, max_wait_s=max_wait_s)
        self.naive: list[Job] = []
        self.now = 0.0
        self.count = 0

    def expected(self) -> Job:
        oldest = min(self.naive, key=lambda j: (j.request.arrival_time, j.sequence))
        if self.max_wait_s is not None and self.now - oldest.request.arrival_time >= self.max_wait_s:
            return oldest
        return min(
            self.naive,
            key=lambda j: (j.request.tier, self.policy.key(j, self.now), j.request.arrival_time, j.sequence),
        )

    @rule(service=SERVICES, tier=st.sampled_from([0, 0, 1]), late=st.sampled_from([0.0, 0.0, 1.5]))
    def push(self, service: float, tier: int, late: float) -> None:
        arrival = max(0.0, self.now - late)  # a host may add a job after it arrived
        job = Job(Request(request_id=f"r{self.count}", arrival_time=arrival, tier=tier), service, sequence=self.count)
        self.count += 1
        self.queue.push(job, self.now)
        self.naive.append(job)

    @rule(seconds=st.sampled_from([0.5, 1.0, 4.0]))
    def pass_time(self, seconds: float) -> None:
        self.now += seconds

    @precondition(lambda self: self.naive)
    @rule()
    def pop(self) -> None:
        expected = self.expected()
        assert self.queue.peek(self.now) is expected
        assert self.queue.pop(self.now) is expected
        self.naive.remove(expected)

    @precondition(lambda self: self.naive)
    @rule(data=st.data())
    def remove(self, data: st.DataObject) -> None:
        job = data.draw(st.sampled_from(self.naive))
        assert self.queue.remove(job.request.request_id) is job
        self.naive.remove(job)

    @precondition(lambda self: self.naive)
    @rule(data=st.data(), service=SERVICES)
    def predict_anew(self, data: st.DataObject, service: float) -> None:
        job = data.draw(st.sampled_from(self.naive))
        self.queue.remove(job.request.request_id)
        job.predicted_service_s = service
        self.queue.push(job, self.now)

    @rule()
    def remove_a_stranger(self) -> None:
        assert self.queue.remove("stranger") is None

    @invariant()
    def agrees(self) -> None:
        if not hasattr(self, "queue"):
            return
        assert len(self.queue) == len(self.naive)
        assert all(job.request.request_id in self.queue for job in self.naive)
        assert set(self.queue.in_order(self.now)) == set(self.naive)
        if not self.naive:
            assert self.queue.peek(self.now) is None


TestWaitingQueue = QueueMachine.TestCase
TestWaitingQueue.settings = settings(max_examples=150, stateful_step_count=60, deadline=None)


@pytest.mark.parametrize("max_wait_s", [None, 1e9])
def test_memory_stays_proportional_to_who_waits_however_often_jobs_are_removed(max_wait_s: float | None) -> None:
    queue = WaitingQueue(SSJF(), max_wait_s=max_wait_s)
    for index in range(50):
        queue.push(Job(Request(request_id=f"stays{index}", arrival_time=0.0), 1.0, sequence=index), 0.0)
    for index in range(10_000):
        queue.push(Job(Request(request_id="comes", arrival_time=0.0), 2.0, sequence=50 + index), 0.0)
        queue.remove("comes")
    assert len(queue) == 50
    assert len(queue._heap) <= 200
    assert len(queue._by_age) <= 200
