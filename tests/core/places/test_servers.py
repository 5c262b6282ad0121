"""Several servers behind one queue."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ssjf.core.places.servers import Server, Servers
from ssjf.core.policies import FCFS
from ssjf.core.scheduler import Scheduler
from ssjf.core.types import Job, Request


def job(name: str, service_s: float = 1.0) -> Job:
    return Job(Request(request_id=name, arrival_time=0.0), predicted_service_s=service_s)


def test_the_server_with_the_least_predicted_work_left_gets_the_job_not_the_one_with_the_fewest() -> None:
    a, b = Server("a", 4), Server("b", 4)
    servers = Servers([a, b])
    long, short, third = job("long", 100.0), job("short", 1.0), job("third", 1.0)
    for each in (long, short, third):
        servers.take(each, 0.0)
    assert (a.num_running, b.num_running) == (1, 2)
    assert a.work_left_s(30.0) == pytest.approx(70 / 4)
    assert b.work_left_s(30.0) == 0.0  # both are overdue: nothing is known to be left


def test_work_is_measured_per_place() -> None:
    small, large = Server("small", 1), Server("large", 8)
    servers = Servers([small, large])
    large._take(job("x", 8.0), 0.0)
    small._take(job("y", 2.0), 0.0)
    assert large.work_left_s(0.0) < small.work_left_s(0.0)
    assert servers.total - servers.taken == 7


def test_a_closed_server_gets_nothing_and_keeps_what_it_has() -> None:
    a, b = Server("a", 2), Server("b", 1)
    servers = Servers([a, b])
    first = job("first")
    servers.take(first, 0.0)
    a.open = False
    assert servers.server_of(first) is a
    assert (servers.total, servers.taken, servers.fits()) == (1, 0, True)
    servers.take(job("second"), 0.0)
    assert b.num_running == 1
    assert not servers.fits()
    b.open = False
    assert (servers.total, servers.taken, servers.fits()) == (0, 0, False)
    servers.release(first)
    assert a.num_running == 0


def test_a_job_moves_to_a_server_that_it_has_not_tried_even_if_that_is_full() -> None:
    a, b, c = Server("a", 1), Server("b", 1), Server("c", 1)
    servers = Servers([a, b, c])
    jobs = [job("1"), job("2", 5.0), job("3", 2.0)]
    for each in jobs:
        servers.take(each, 0.0)
    assert servers.move(jobs[0], 0.0, tried=[a]) is c  # less is left there than at b
    assert (a.num_running, b.num_running, c.num_running) == (0, 1, 2)
    assert (servers.total, servers.taken) == (3, 2)
    b.open = False
    assert servers.move(jobs[0], 0.0, tried=[a, c]) is None
    assert servers.server_of(jobs[0]) is c


@given(st.lists(st.tuples(st.integers(1, 3), st.booleans()), min_size=1, max_size=4), st.integers(0, 20))
def test_a_scheduler_fills_exactly_the_places_of_the_open_servers(shape: list[tuple[int, bool]], num_jobs: int) -> None:
    group = [Server(str(i), slots) for i, (slots, _) in enumerate(shape)]
    for server, (_, is_open) in zip(group, shape, strict=True):
        server.open = is_open
    scheduler = Scheduler(FCFS(), Servers(group))
    for i in range(num_jobs):
        scheduler.add(job(str(i)), 0.0)
    admitted = scheduler.admit(0.0)
    assert len(admitted) == min(num_jobs, sum(slots for slots, is_open in shape if is_open))
    assert all(server.num_running <= server.slots for server in group)
    for each in admitted:
        scheduler.finish(each.request.request_id, 1.0)
    assert all(server.num_running == 0 for server in group)


def test_two_groups_share_a_server() -> None:
    shared, own = Server("shared", 1), Server("own", 1)
    narrow, wide = Scheduler(FCFS(), Servers([shared])), Scheduler(FCFS(), Servers([shared, own]))
    wide.add(job("w"), 0.0)
    (placed,) = wide.admit(0.0)
    narrow.add(job("n"), 0.0)
    assert len(narrow.admit(0.0)) == 0
    wide.finish(placed.request.request_id, 1.0)
    assert len(narrow.admit(1.0)) == 1
