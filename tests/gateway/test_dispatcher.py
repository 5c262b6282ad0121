"""The dispatcher in virtual time: the order is the core's, and every accepted request has one outcome."""

import asyncio
from collections import Counter
from collections.abc import Sequence
from heapq import heappop, heappush
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ssjf.core.places.capacity import Slots
from ssjf.core.places.servers import Server
from ssjf.core.replay import replay
from ssjf.core.scheduler import Scheduler
from ssjf.core.service import MeasuredServiceModel
from ssjf.core.types import Job, Outcome, Prediction, Request
from ssjf.errors import QueueFull
from ssjf.forecast import Forecaster
from ssjf.gateway.dispatcher import Dispatcher
from ssjf.gateway.exchange import Exchange
from ssjf.gateway.http.incoming import Incoming
from ssjf.gateway.telemetry import Telemetry
from ssjf.plugins import make_policy
from tests.gateway.conftest import WordCount


class Bench:
    """A dispatcher whose clock the test owns."""

    def __init__(self, *, policy: str = "ssjf", slots: int = 1, **limits: Any) -> None:
        self.now = 0.0
        self.telemetry = Telemetry()
        self.server = Server("one", slots)
        forecaster = Forecaster(WordCount(), budget_s=1.0, on_failure=self.telemetry.fallback)
        self.dispatcher = Dispatcher(
            lambda servers: Scheduler(make_policy(policy), servers, **limits),
            forecaster,
            self.telemetry,
            max_wait_s=limits.get("max_wait_s"),
            clock=lambda: self.now,
        )

    def open_again(self) -> None:
        self.server.open = True
        self.dispatcher.pump()

    @property
    def scheduler(self) -> Scheduler:
        return self.dispatcher._lane((self.server,)).scheduler

    def submit(self, name: str, *, hint: float, tier: int = 0, beside: Sequence[Server] = ()) -> Exchange:
        request = Request(request_id=name, num_prompt_tokens=1, arrival_time=self.now, tier=tier)
        incoming = Incoming(
            request=request, client_id="", path="", body=b"", stream=False, usage_wanted=False, hint=hint, single=True
        )
        return self.dispatcher.submit(incoming, [self.server, *beside])

    def finish(self, exchange: Exchange, *, num_output_tokens: int | None = None) -> None:
        exchange.num_output_tokens = num_output_tokens
        self.dispatcher.end(exchange, Outcome.COMPLETED)

    def outcomes(self) -> dict[str, float]:
        value = self.telemetry.registry.get_sample_value
        return {outcome.value: value("ssjf_requests_total", {"outcome": outcome.value}) or 0.0 for outcome in Outcome}


workloads = st.lists(st.tuples(st.integers(0, 30), st.integers(1, 40), st.integers(1, 30)), min_size=1, max_size=40)


@pytest.mark.parametrize("policy", ["fcfs", "ssjf", "aged-ssjf:rate=0.05", "hrrn"])
@given(workload=workloads, slots=st.integers(1, 3), bounded=st.booleans())
@settings(max_examples=40)
def test_one_workload_has_one_order_of_service_in_simulation_and_gateway(
    policy: str, workload: list[tuple[int, int, int]], slots: int, bounded: bool
) -> None:
    """Arrivals, hinted tokens and true service seconds, all at whole seconds."""
    arrivals = sorted(workload)
    max_wait_s = 20.0 if bounded else None

    async def through_the_gateway() -> list[tuple[str, float]]:
        bench = Bench(policy=policy, slots=slots, max_wait_s=max_wait_s)
        order: list[tuple[str, float]] = []
        ends: list[tuple[float, int, Exchange]] = []
        live: dict[str, tuple[Exchange, int]] = {}

        def see_who_started() -> None:
            begun = [(e, s) for e, s in live.values() if e.job.started_at == bench.now]
            for exchange, service_s in sorted(
                begun, key=lambda pair: list(bench.scheduler.running).index(pair[0].job.request.request_id)
            ):
                order.append((exchange.job.request.request_id, bench.now))
                heappush(ends, (bench.now + service_s, exchange.job.sequence, exchange))
                del live[exchange.job.request.request_id]

        coming = list(enumerate(arrivals))
        while coming or ends:
            bench.now = min(ends[0][0] if ends else float("inf"), coming[0][1][0] if coming else float("inf"))
            # at one instant: completions, then arrivals, then dispatch, as in the simulator
            bench.server.open = False
            while ends and ends[0][0] == bench.now:
                bench.finish(heappop(ends)[2])
            while coming and coming[0][1][0] == bench.now:
                index, (_, hint, service_s) = coming.pop(0)
                live[str(index)] = bench.submit(str(index), hint=hint), service_s
            bench.open_again()
            see_who_started()
        return order

    model = MeasuredServiceModel().model()
    jobs = [
        (
            Job(
                Request(request_id=str(index), num_prompt_tokens=1, arrival_time=float(arrival)),
                model.seconds(1, hint),
                Prediction(hint),
            ),
            float(service_s),
        )
        for index, (arrival, hint, service_s) in enumerate(arrivals)
    ]
    served = replay(jobs, Scheduler(make_policy(policy), Slots(slots), max_wait_s=max_wait_s))
    assert asyncio.run(through_the_gateway()) == [(job.request.request_id, job.started_at) for job in served]


@given(steps=st.lists(st.tuples(st.integers(0, 5), st.integers(0, 10_000)), max_size=120), slots=st.integers(1, 3))
@settings(max_examples=100)
def test_every_accepted_request_has_exactly_one_outcome_and_no_slot_leaks(
    steps: list[tuple[int, int]], slots: int
) -> None:
    async def run() -> None:
        bench = Bench(slots=slots, max_waiting=5)
        live: list[Exchange] = []
        ended: list[Exchange] = []
        expected: Counter[str] = Counter()
        accepted = 0
        for step, (action, number) in enumerate(steps):
            bench.now += 0.5
            if action <= 2:
                try:
                    live.append(bench.submit(str(step), hint=number))
                    accepted += 1
                except QueueFull:
                    assert len(bench.scheduler.waiting) == 5
            elif action == 3 and live:
                exchange = live.pop(number % len(live))
                running = exchange.job.request.request_id in bench.scheduler.running
                outcome = Outcome.COMPLETED if running else Outcome.CANCELLED
                bench.dispatcher.end(exchange, outcome)
                expected[outcome.value] += 1
                ended.append(exchange)
            elif action == 4 and ended:
                bench.dispatcher.end(ended[number % len(ended)], Outcome.FAILED)  # too late to matter
            elif action == 5:
                running_now = [e for e in live if e.job.request.request_id in bench.scheduler.running]
                if running_now:
                    bench.dispatcher.put_back(running_now[number % len(running_now)])
            assert len(bench.scheduler.running) == bench.server.num_running == min(slots, len(live))
            assert len(live) == bench.dispatcher.num_live
        for exchange in live:
            bench.dispatcher.end(exchange, Outcome.FAILED)
            expected["failed"] += 1
        assert {name: count for name, count in bench.outcomes().items() if count} == dict(expected)
        assert sum(expected.values()) == accepted
        assert bench.server.num_running == 0
        await bench.dispatcher.wait_until_idle()

    asyncio.run(run())


async def test_who_waits_is_valued_by_the_same_measured_speed_as_who_comes_later() -> None:
    bench = Bench()
    first = bench.submit("first", hint=10)
    early = bench.submit("early", hint=10)
    bench.now = 0.01
    bench.finish(first, num_output_tokens=100)  # a hundred times as fast as was assumed
    running = bench.submit("short, comes later", hint=5)
    late = bench.submit("long, comes later", hint=2000)
    assert early.admitted.done()
    assert running.job.predicted_service_s < late.job.predicted_service_s
    third = bench.submit("waits", hint=1000)
    before = third.job.predicted_service_s
    bench.now = 10.0
    bench.finish(early, num_output_tokens=10)  # and now slow again
    assert third.job.predicted_service_s > 2 * before
    assert late.job.predicted_service_s == pytest.approx(2 * third.job.predicted_service_s, rel=0.01)


async def test_while_the_engine_is_away_nobody_enters_and_who_was_put_back_keeps_its_place() -> None:
    bench = Bench(policy="fcfs")
    first = bench.submit("first", hint=1)
    bench.now = 1.0
    second = bench.submit("second", hint=1)
    bench.server.open = False
    bench.dispatcher.put_back(first)
    assert not first.admitted.done()
    assert bench.server.num_running == 0
    bench.now = 5.0
    bench.open_again()
    assert first.admitted.done()
    assert first.queued_s == 5.0
    assert not second.admitted.done()


@pytest.mark.parametrize("policy", ["ssjf", "auto", "gittins"])
async def test_under_a_flood_of_short_requests_the_long_one_is_served_within_max_wait(policy: str) -> None:
    """Twice as many short requests come as can be served, for ever: each takes a second of the only slot."""

    def started_at(bench: Bench) -> float | None:
        running = bench.submit("first", hint=1)
        bench.now = 0.5
        long = bench.submit("long", hint=1000)
        live: list[Exchange] = []
        for step in range(1, 120):
            bench.now = step
            live += [bench.submit(f"{step}-{half}", hint=1) for half in range(2)]
            bench.finish(running, num_output_tokens=1)
            if long.server is not None:
                return bench.now
            running = next(exchange for exchange in live if exchange.server is not None)
            live.remove(running)
        return None

    bounded = started_at(Bench(policy=policy, max_wait_s=20.0))
    assert bounded is not None
    assert bounded <= 21.0, "the first second in which it has waited so long"
    if policy == "ssjf":
        assert started_at(Bench(policy=policy)) is None, "nothing but the bound lets it in"


def served_in_turn(bench: Bench, running: Exchange, waiting: list[Exchange]) -> list[str]:
    """Whom the one server serves after the one that runs, one after the other."""
    served = []
    while waiting:
        bench.finish(running)
        running = next(exchange for exchange in waiting if exchange.server is not None)
        waiting.remove(running)
        served.append(running.job.request.request_id)
    return served


async def test_tiers_hold_between_queues_that_share_a_server_and_equals_take_turns() -> None:
    bench, closed = Bench(policy="fcfs"), Server("closed", 1)
    closed.open = False
    running = bench.submit("first", hint=1)
    waiting = [
        *(bench.submit(f"a{number}", hint=1) for number in range(2)),
        *(bench.submit(f"b{number}", hint=1, beside=[closed]) for number in range(2)),
        *(bench.submit(f"urgent{number}", hint=1, tier=-1, beside=[closed]) for number in range(2)),
    ]
    order = served_in_turn(bench, running, waiting)
    assert order[:2] == ["urgent0", "urgent1"]
    assert [name[0] for name in order[2:]] in (["a", "b", "a", "b"], ["b", "a", "b", "a"])


async def test_who_has_waited_too_long_is_overtaken_from_no_queue_that_shares_its_server() -> None:
    bench, closed = Bench(policy="fcfs", max_wait_s=10.0), Server("closed", 1)
    closed.open = False
    running = bench.submit("first", hint=1)
    bench.now = 1.0
    waiting = [bench.submit(f"a{number}", hint=1, tier=5) for number in range(2)]
    bench.now = 2.0
    waiting += [bench.submit(f"b{number}", hint=1, tier=-1, beside=[closed]) for number in range(2)]
    bench.now = 11.0
    assert served_in_turn(bench, running, waiting) == ["a0", "a1", "b0", "b1"]
