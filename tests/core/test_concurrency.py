"""Learning how much an engine runs at once, against engines in virtual time that run a known number."""

from heapq import heappop, heappush
from random import Random

import pytest

from ssjf.core.concurrency import ConcurrencyLimit


def serve(
    limit: ConcurrencyLimit, *, runs: int, shows_queue: bool, num_jobs: int = 600, backlog: bool = True, seed: int = 0
) -> list[int]:
    """Serve jobs of random length on an engine of `runs` places; the limits that were in force, one per completion.

    A first token takes 20 ms of work from the time at which the engine begins with the request.
    """
    rng = Random(seed)
    now, begun, limits = 0.0, 0, []
    running: list[tuple[float, int]] = []  # ends, in the engine
    queued: list[tuple[float, int, float]] = []  # let in at, in flight then, service: in the engine's own queue
    looked_at = 0.0
    in_flight = 0

    def begin(let_in_at: float, in_flight_then: int, service_s: float) -> None:
        heappush(running, (now + service_s, len(limits)))
        if not shows_queue:
            seconds = now - let_in_at + rng.uniform(0.015, 0.03)
            limit.first_token(seconds, in_flight=in_flight_then, backlog=backlog, now=now)

    while len(limits) < num_jobs:
        while in_flight < limit.limit and begun < num_jobs + 2000:
            begun += 1
            in_flight += 1
            service_s = rng.expovariate(1.0) + 0.05
            if len(running) < runs:
                begin(now, in_flight, service_s)
            else:
                queued.append((now, in_flight, service_s))
        if shows_queue and now - looked_at >= 0.1:
            looked_at = now
            limit.counted(num_queued=len(queued), in_flight=in_flight, backlog=backlog, now=now)
        now, _ = heappop(running)
        in_flight -= 1
        if queued:
            begin(*queued.pop(0))
        limits.append(limit.limit)
    return limits


@pytest.mark.parametrize("runs", [1, 3, 8, 20, 64])
def test_where_the_engine_counts_its_queue_the_limit_is_what_it_runs(runs: int) -> None:
    limits = serve(ConcurrencyLimit(), runs=runs, shows_queue=True)
    settled = limits[len(limits) // 2 :]
    assert abs(sum(settled) / len(settled) - runs) <= 0.1 * runs + 0.6


@pytest.mark.parametrize("runs", [1, 3, 8, 20, 64])
@pytest.mark.parametrize("seed", [0, 1])
def test_where_it_shows_nothing_first_tokens_tell_roughly(runs: int, seed: int) -> None:
    limits = serve(ConcurrencyLimit(), runs=runs, shows_queue=False, num_jobs=1500, seed=seed)
    settled = limits[len(limits) // 2 :]
    assert 0.5 * runs <= sum(settled) / len(settled) <= 1.3 * runs + 1


def test_without_a_backlog_the_limit_stays() -> None:
    assert set(serve(ConcurrencyLimit(initial=4), runs=50, shows_queue=True, backlog=False)) == {4}
    assert set(serve(ConcurrencyLimit(initial=4), runs=50, shows_queue=False, backlog=False)) == {4}


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
    limit.counted(num_queued=0, in_flight=4, backlog=True, now=5.0)
    assert limit.limit == 4  # too soon
    for step in range(20):
        limit.counted(num_queued=0, in_flight=limit.limit, backlog=True, now=20.0 + 10 * step)
    assert limit.limit == 10


def test_what_the_engine_says_is_not_doubled_but_still_probed() -> None:
    limit = ConcurrencyLimit()
    limit.told(7)
    limit.counted(num_queued=0, in_flight=7, backlog=True, now=1.0)
    assert limit.limit == 8
    limit.counted(num_queued=0, in_flight=8, backlog=True, now=2.0)
    assert limit.limit == 8


def test_the_limit_never_falls_below_one() -> None:
    limit = ConcurrencyLimit(initial=1)
    for now in range(4):
        limit.counted(num_queued=5, in_flight=1, backlog=True, now=float(now))
    for _ in range(100):
        limit.first_token(10.0, in_flight=1, backlog=True, now=10.0)
    assert limit.limit >= 1
