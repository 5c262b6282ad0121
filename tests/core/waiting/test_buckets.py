"""The head of a queue with moving keys, found by bounds: exactly the head that a scan finds."""

import random
from dataclasses import dataclass

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ssjf.core.policies import HRRN
from ssjf.core.types import Job, Request
from ssjf.core.waiting.queue import WaitingQueue


@dataclass(frozen=True, slots=True)
class Scanned:
    """The same order, without telling how it hangs on size and arrival."""

    static = False

    def key(self, job: Job, now: float) -> float:
        return HRRN().key(job, now)


sizes = st.one_of(st.floats(1e-6, 1e6), st.sampled_from([1.0, 1.0, 2.0, 0.0]))
moves = st.lists(
    st.tuples(
        st.sampled_from(["push", "push", "push", "pop", "remove"]), st.floats(0, 2), sizes, st.sampled_from([0, 0, 1])
    ),
    max_size=80,
)


@given(moves)
def test_both_queues_serve_the_same_jobs_in_the_same_order(moves: list[tuple[str, float, float, int]]) -> None:
    rng = random.Random(0)
    queues = WaitingQueue(HRRN()), WaitingQueue(Scanned())
    now, names = 0.0, 0
    for what, gap, service, tier in moves:
        now += gap
        if what == "push":
            arrival = now - rng.choice([0, 1])  # some come back after they were thrown out
            for queue in queues:
                request = Request(request_id=str(names), arrival_time=arrival, tier=tier)
                queue.push(Job(request, service, sequence=names), now)
            names += 1
        elif what == "pop" and queues[0]:
            assert queues[0].pop(now).request.request_id == queues[1].pop(now).request.request_id
        elif names:
            name = str(rng.randrange(names))
            assert [queue.remove(name) is None for queue in queues] in ([True, True], [False, False])
    while queues[0]:
        assert queues[0].pop(now).request.request_id == queues[1].pop(now).request.request_id
    assert not queues[1]


@pytest.mark.parametrize("kind", ["spread", "all alike", "all at once"])
def test_few_of_many_are_looked_at(kind: str) -> None:
    looked_at = 0

    @dataclass(frozen=True, slots=True)
    class Counting(HRRN):
        def key_of(self, size: float, arrival: float, now: float) -> float:
            nonlocal looked_at
            looked_at += 1
            return HRRN.key_of(self, size, arrival, now)

    rng = random.Random(4)
    queue = WaitingQueue(Counting())
    for index in range(10_000):
        service = 1.0 if kind == "all alike" else rng.lognormvariate(0, 1)
        arrival = 0.0 if kind == "all at once" else 0.01 * index
        queue.push(Job(Request(request_id=str(index), arrival_time=arrival), service, sequence=index), arrival)
    looked_at = 0
    for _ in range(100):
        queue.pop(200.0)
    assert looked_at / 100 < 600


def test_jobs_that_left_are_cleared_out() -> None:
    queue = WaitingQueue(HRRN())
    for index in range(1000):
        queue.push(Job(Request(request_id=str(index), arrival_time=float(index)), 1.0, sequence=index), index)
    for index in range(999, 0, -1):
        queue.remove(str(index))
    (buckets,) = queue._buckets.values()
    assert sum(len(bucket.entries) for bucket in buckets._buckets.values()) < 40
    assert queue.pop(2000.0).request.request_id == "0"
