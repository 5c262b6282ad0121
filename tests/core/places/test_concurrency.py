"""Learning how much an engine runs at once, against engines in virtual time that run a known number."""

from collections import deque
from dataclasses import dataclass
from heapq import heappop, heappush
from itertools import count
from random import Random

import pytest

from ssjf.core.places.concurrency import ConcurrencyLimit, Progress

LOOK_S = 0.2


@dataclass
class Sent:
    """A request in the engine."""

    sent_at: float
    in_flight: int
    num_tokens: int
    first_token_at: float = float("inf")


def serve(
    limit: ConcurrencyLimit,
    *,
    runs: int,
    shows: str,
    num_jobs: int = 800,
    backlog: bool = True,
    seed: int = 0,
    long_prompts: float = 0.0,
) -> list[int]:
    """Serve jobs of random length on an engine of `runs` places; the limits that were in force, one per completion.

    A first token takes some 20 ms from when the engine begins with the request, or for a share of `long_prompts` 1 s;
    each token after that 10 ms, however many run.
    """
    rng = Random(seed)
    now, looked_at, limits = 0.0, 0.0, list[int]()
    order = count()
    events: list[tuple[float, int, Sent, bool]] = []  # first tokens, and ends
    in_engine: dict[int, Sent] = {}
    queue = deque[Sent]()
    num_running = 0

    def begin(job: Sent) -> None:
        nonlocal num_running
        num_running += 1
        job.first_token_at = now + (1.0 if rng.random() < long_prompts else rng.uniform(0.015, 0.03))
        heappush(events, (job.first_token_at, next(order), job, False))
        heappush(events, (job.first_token_at + 0.01 * job.num_tokens, next(order), job, True))

    while len(limits) < num_jobs:
        while len(in_engine) < limit.limit:
            job = Sent(now, len(in_engine) + 1, 5 + int(rng.expovariate(0.01)))
            in_engine[id(job)] = job
            if num_running < runs:
                begin(job)
            else:
                queue.append(job)
        if looked_at + LOOK_S <= events[0][0]:
            now = looked_at = looked_at + LOOK_S
            if shows == "queue":
                limit.counted(num_queued=len(queue), in_flight=len(in_engine), backlog=backlog, now=now)
            else:
                limit.looked(progress(in_engine, now, shows), in_flight=len(in_engine), backlog=backlog, now=now)
            continue
        now, _, job, ends = heappop(events)
        if not ends:
            if shows == "streams":
                limit.first_token(now - job.sent_at, in_flight=job.in_flight, now=now)
            continue
        del in_engine[id(job)]
        num_running -= 1
        if shows == "answers":
            limit.answered(
                num_tokens=job.num_tokens,
                seconds=now - job.sent_at,
                in_flight=job.in_flight,
                backlog=backlog,
                now=now,
            )
        if queue:
            begin(queue.popleft())
        limits.append(limit.limit)
    return limits


def progress(in_engine: dict[int, Sent], now: float, shows: str) -> Progress:
    """What a gateway sees of these requests."""
    if shows == "answers":
        return Progress(0, ())
    num_started, unstarted = 0, list[float]()
    for place, job in enumerate(in_engine.values(), start=1):
        if job.first_token_at <= now:
            num_started = place
            unstarted.clear()
        else:
            unstarted.append(now - job.sent_at)
    return Progress(num_started, tuple(unstarted))


@pytest.mark.parametrize("shows", ["queue", "streams"])
@pytest.mark.parametrize("runs", [1, 3, 8, 20, 64])
def test_the_limit_is_what_the_engine_runs_soon_and_from_then_on(shows: str, runs: int) -> None:
    limits = serve(ConcurrencyLimit(), runs=runs, shows=shows)
    settled = limits[4 * runs + 8 :]
    assert abs(sum(settled) / len(settled) - runs) <= 0.1 * runs + 0.6
    assert min(settled) >= runs - 1


@pytest.mark.parametrize("seed", [0, 1, 2])
@pytest.mark.parametrize("runs", [8, 20])
def test_long_prompts_are_not_taken_for_a_queue(runs: int, seed: int) -> None:
    limits = serve(ConcurrencyLimit(), runs=runs, shows="streams", long_prompts=0.2, seed=seed, num_jobs=2000)
    settled = limits[400:]
    assert 0.9 * runs <= sum(settled) / len(settled) <= 1.2 * runs


@pytest.mark.parametrize("runs", [1, 3, 8, 20, 64])
@pytest.mark.parametrize("seed", [0, 1])
def test_where_only_whole_answers_come_their_tokens_per_second_tell_roughly(runs: int, seed: int) -> None:
    limits = serve(ConcurrencyLimit(), runs=runs, shows="answers", num_jobs=4000, seed=seed)
    settled = limits[len(limits) // 2 :]
    assert 0.8 * runs <= sum(settled) / len(settled) <= 2.0 * runs + 1


@pytest.mark.parametrize("shows", ["queue", "streams", "answers"])
def test_without_a_backlog_the_limit_stays(shows: str) -> None:
    assert set(serve(ConcurrencyLimit(initial=4), runs=50, shows=shows, backlog=False)) == {4}


def test_the_climb_stops_at_the_maximum_and_at_one() -> None:
    assert max(serve(ConcurrencyLimit(maximum=6), runs=50, shows="answers", num_jobs=3000)) == 6
    limits = serve(ConcurrencyLimit(initial=1), runs=1, shows="answers", num_jobs=3000)
    assert min(limits) == 1
    assert max(limits) <= 2


def test_where_streams_come_too_whole_answers_do_not_decide() -> None:
    limit = ConcurrencyLimit()
    limit.first_token(0.02, in_flight=1, now=0.0)
    for step in range(100):
        limit.answered(num_tokens=100, seconds=1.0, in_flight=4, backlog=True, now=0.1 * step)
    assert limit.limit == 4


def test_a_request_on_its_way_into_a_batch_is_no_queue() -> None:
    limit = ConcurrencyLimit(initial=8)
    for now in range(10):
        limit.counted(num_queued=1, in_flight=8, backlog=True, now=float(2 * now))
        limit.counted(num_queued=0, in_flight=8, backlog=False, now=float(2 * now + 1))
    assert limit.limit == 8


def test_an_engine_that_comes_to_run_more_is_followed_and_the_maximum_holds() -> None:
    limit = ConcurrencyLimit(initial=8, maximum=10)
    for now in (0.0, 1.0):
        limit.counted(num_queued=4, in_flight=8, backlog=True, now=now)
    assert limit.limit == 4
    for now in (5.0, 6.0):
        limit.counted(num_queued=0, in_flight=4, backlog=True, now=now)
    assert limit.limit == 4  # too soon
    for step in range(20):
        limit.counted(num_queued=0, in_flight=limit.limit, backlog=True, now=20.0 + step)
    assert limit.limit == 10  # each step was taken, so the next need not wait


def test_an_engine_that_comes_to_run_fewer_is_followed_after_a_while() -> None:
    limit = ConcurrencyLimit(initial=8)
    limit.first_token(0.02, in_flight=1, now=0.0)
    for now in (0.0, 0.2, 0.4):
        limit.looked(Progress(8, ()), in_flight=8, backlog=False, now=now)
    for now in (1.0, 1.2, 1.4):
        limit.looked(Progress(5, (0.5, 0.5, 0.5)), in_flight=8, backlog=True, now=now)
    assert limit.limit == 8
    for now in (11.0, 11.2, 11.4):
        limit.looked(Progress(5, (0.5, 0.5, 0.5)), in_flight=8, backlog=True, now=now)
    assert limit.limit == 5


def test_what_the_engine_says_is_not_doubled_but_still_probed() -> None:
    limit = ConcurrencyLimit()
    limit.told(7)
    for now in (1.0, 1.2):
        limit.counted(num_queued=0, in_flight=7, backlog=True, now=now)
    assert limit.limit == 8
    for now in (1.4, 1.6):
        limit.counted(num_queued=1, in_flight=8, backlog=True, now=now)
    assert limit.limit == 7
    for now in (2.0, 2.2):
        limit.counted(num_queued=0, in_flight=7, backlog=True, now=now)
    assert limit.limit == 7


def test_the_limit_never_falls_below_one() -> None:
    limit = ConcurrencyLimit(initial=1)
    for now in range(4):
        limit.counted(num_queued=5, in_flight=1, backlog=True, now=float(now))
    assert limit.limit == 1
