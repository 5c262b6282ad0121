"""The core's queue under vLLM's names: in order, and aware of who was only passed over."""

import pytest
from vllm.sampling_params import SamplingParams
from vllm.v1.request import Request as EngineRequest
from vllm.v1.request import RequestStatus

from ssjf.core.policies import Auto
from ssjf.core.service import LinearServiceModel
from ssjf.core.types import Prediction, Request
from ssjf.integrations.vllm.placer import Placer
from ssjf.integrations.vllm.queue import LimitedQueue


class Bench:
    """A queue with requests named after their arrival."""

    def __init__(self, *arrivals: float) -> None:
        self.placer = Placer(Auto(), service=LinearServiceModel(0.0, 0.0, 1.0), num_slots=1)
        self.queue = LimitedQueue(self.placer)
        self.requests = [self.add(arrival) for arrival in arrivals]

    def add(self, arrival: float) -> EngineRequest:
        name = f"at {arrival:g}"
        self.placer.place(Request(request_id=name, arrival_time=arrival), Prediction(10.0))
        request = EngineRequest(
            request_id=name,
            prompt_token_ids=[1],
            sampling_params=SamplingParams(max_tokens=10),
            pooling_params=None,
            arrival_time=arrival,
        )
        self.queue.now = arrival
        self.queue.add_request(request)
        return request

    def started_at(self, request: EngineRequest) -> float | None:
        return self.placer.job(request.request_id).started_at


def test_requests_come_out_in_order_and_the_queue_knows_its_length() -> None:
    bench = Bench(0.0, 1.0, 2.0)
    assert list(bench.queue) == bench.requests
    assert len(bench.queue) == 3
    assert [bench.queue.pop_request() for _ in range(3)] == bench.requests
    assert not bench.queue
    with pytest.raises(IndexError):
        bench.queue.peek_request()
    with pytest.raises(IndexError):
        bench.queue.pop_request()


def test_who_was_taken_out_to_run_has_started_before_the_next_is_asked_for() -> None:
    bench = Bench(0.0, 1.0)
    first = bench.queue.pop_request()
    first.status = RequestStatus.RUNNING
    assert bench.queue.peek_request() is bench.requests[1]
    assert bench.started_at(first) == 1.0


def test_who_was_only_passed_over_has_not_started_and_waits_where_he_was() -> None:
    bench = Bench(0.0, 1.0)
    passed_over = bench.queue.pop_request()
    assert bench.queue.peek_request() is bench.requests[1]
    bench.queue.prepend_requests([passed_over])
    bench.queue.note_taken()
    assert bench.started_at(passed_over) is None
    assert list(bench.queue) == bench.requests


def test_who_was_thrown_out_waits_again_and_has_started_once() -> None:
    bench = Bench(0.0, 1.0)
    victim = bench.queue.pop_request()
    victim.status = RequestStatus.RUNNING
    bench.queue.note_taken()
    victim.status = RequestStatus.PREEMPTED
    bench.queue.prepend_request(victim)
    bench.queue.now = 9.0
    assert bench.queue.pop_request() is victim
    victim.status = RequestStatus.RUNNING
    bench.queue.note_taken()
    assert bench.started_at(victim) == 1.0


def test_requests_are_removed_as_far_as_they_wait() -> None:
    bench = Bench(0.0, 1.0, 2.0)
    first, second, third = bench.requests
    assert bench.queue.pop_request() is first
    bench.queue.remove_requests([first, second])
    bench.queue.remove_request(second)
    assert list(bench.queue) == [third]
