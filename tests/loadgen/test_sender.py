import asyncio
import dataclasses

import pytest
from aiohttp import web

from ssjf.loadgen.plan import PlannedRequest
from ssjf.loadgen.sender import Run, run_loop, send_closed_loop, send_open_loop
from tests.loadgen.fake_server import FakeServer, refusal, stream, whole_answer


def at(*arrivals_s: float) -> list[PlannedRequest]:
    return [
        PlannedRequest(index=index, arrival_s=arrival_s, prompt="x", input_tokens=2)
        for index, arrival_s in enumerate(arrivals_s)
    ]


async def test_open_loop_waits_for_no_answer_before_it_sends_the_next(server: FakeServer) -> None:
    everybody = asyncio.Barrier(50)

    async def only_together(request: web.Request) -> web.StreamResponse:
        await everybody.wait()
        return await stream(request, whole_answer(1))

    server.handler = only_together
    run = Run("fcfs")
    await send_open_loop(server.endpoint, at(*[0.001 * i for i in range(50)]), run)
    assert [record.status for record in run.records] == ["completed"] * 50


async def test_a_request_is_never_sent_before_its_time(server: FakeServer) -> None:
    run = Run("fcfs")
    received: list[float] = []
    loop = asyncio.get_running_loop()

    async def note(request: web.Request) -> web.StreamResponse:
        received.append(loop.time())
        return await stream(request, whole_answer(1))

    server.handler = note
    began = loop.time()
    await send_open_loop(server.endpoint, at(0.0, 0.03, 0.06), run)
    assert all(when - began >= arrival for when, arrival in zip(received, (0.0, 0.03, 0.06), strict=True))


async def test_records_hold_plan_headers_and_counts_on_one_time_axis(server: FakeServer) -> None:
    async def handler(request: web.Request) -> web.StreamResponse:
        headers = {"x-ssjf-queue-ms": "250", "x-ssjf-predicted-tokens": "8"}
        return await stream(request, whole_answer(4, prompt_tokens=12), headers)

    server.handler = handler
    run = Run("ssjf", seed=3)
    await send_open_loop(server.endpoint, [dataclasses.replace(at(0.02)[0], index=9)], run)
    (record,) = run.records
    assert (record.policy, record.seed, record.index, record.arrival_s) == ("ssjf", 3, 9, 0.02)
    assert (record.input_tokens, record.output_tokens, record.predicted_tokens) == (12, 4, 8.0)
    assert record.start_s == pytest.approx(0.02 + run.lateness_s[0] + 0.25, abs=1e-3)
    assert record.first_token_s is not None
    assert record.finish_s is not None
    assert record.arrival_s < record.first_token_s <= record.finish_s


async def test_the_workloads_token_count_stands_where_the_server_gives_none(server: FakeServer) -> None:
    async def refuse(_: web.Request) -> web.StreamResponse:
        return refusal(429, "full")

    server.handler = refuse
    run = Run("fcfs")
    await send_open_loop(server.endpoint, at(0.0, 0.0), run)
    assert [(record.input_tokens, record.status) for record in run.records] == [(2, "rejected")] * 2
    assert (run.failed, run.errors) == (2, {"HTTP 429: full": 2})


async def test_closed_loop_keeps_exactly_so_many_under_way(server: FakeServer) -> None:
    together, most = 0, 0
    full = asyncio.Barrier(4)

    async def count(request: web.Request) -> web.StreamResponse:
        nonlocal together, most
        together += 1
        most = max(most, together)
        await full.wait()  # passes only while four are under way
        together -= 1
        return await stream(request, whole_answer(1))

    server.handler = count
    run = Run("fcfs")
    await send_closed_loop(server.endpoint, at(*[0.0] * 20), run, workers=4)
    assert most == 4
    assert sorted(record.index for record in run.records) == list(range(20))


async def test_an_interrupted_run_keeps_what_it_has_and_marks_what_was_under_way(server: FakeServer) -> None:
    second_arrived, never = asyncio.Event(), asyncio.Event()

    async def answer_the_first_only(request: web.Request) -> web.StreamResponse:
        if len(server.bodies) == 2:
            second_arrived.set()
            await never.wait()
        return await stream(request, whole_answer(1))

    server.handler = answer_the_first_only
    first_recorded = asyncio.Event()
    run = Run("fcfs", on_record=lambda _: first_recorded.set())
    sending = asyncio.create_task(send_open_loop(server.endpoint, at(0.0, 0.01, 1000.0), run))
    await second_arrived.wait()
    await first_recorded.wait()
    sending.cancel()
    with pytest.raises(asyncio.CancelledError):
        await sending
    never.set()
    assert [(record.index, record.status) for record in run.records] == [(0, "completed"), (1, "cancelled")]


def test_the_loop_returns_what_its_main_returns() -> None:
    async def main() -> int:
        return 5

    assert run_loop(main()) == 5
