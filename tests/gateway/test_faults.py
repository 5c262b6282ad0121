"""Whatever engine and clients do: one outcome for each request, no slot lost."""

import asyncio
import contextlib
import random
import sys
from collections.abc import AsyncIterator, Callable
from math import inf
from pathlib import Path

import aiohttp
import pytest

from ssjf.config import ServeSettings
from ssjf.core.places.servers import Server
from ssjf.gateway import child
from ssjf.gateway.backends import pool
from ssjf.gateway.backends.http import HTTPBackend
from ssjf.gateway.serve import running_gateway
from ssjf.plugins import make_policy
from tests.gateway.conftest import MakeStack, Stack, WordCount, listening
from tests.gateway.fake_engine import FakeEngine

ENGINE = Path(__file__).with_name("engine_process.py")


@contextlib.asynccontextmanager
async def before_child(command: Callable[[Path], list[str]]) -> AsyncIterator[Stack]:
    """A gateway with one slot before an engine that it has started itself."""
    async with (
        running_gateway(
            ServeSettings(slots=1, policy="fcfs"),
            policy=lambda: make_policy("fcfs"),
            shadow=None,
            predictor=WordCount(),
            engine_command=command,
        ) as gateway,
        listening(gateway) as url,
        aiohttp.ClientSession() as session,
    ):
        yield Stack(url, FakeEngine(), gateway, session)


async def ask(stack: Stack, prompt: str) -> int:
    """The status of an answer, read to its end."""
    async with stack.session.post(f"{stack.url}/v1/completions", json={"prompt": prompt}) as response:
        await response.read()
        return response.status


async def test_clients_and_engine_at_their_worst_leave_sums_that_agree(make_stack: MakeStack) -> None:
    rng = random.Random(0)
    async with make_stack(slots=4, max_waiting=30, automatic=True) as stack:
        seen = dict.fromkeys(("completed", "refused", "failed", "rejected", "left"), 0)

        async def client() -> None:
            stack.engine.status = rng.choice([200, 200, 200, 400, 500])
            stack.engine.break_after = rng.choice([None, None, 2])
            leaves = rng.random() < 0.3
            stream = rng.random() < 0.5
            try:
                async with stack.post(stream=stream) as response:
                    if leaves:
                        raise asyncio.CancelledError
                    text = await response.text()
            except asyncio.CancelledError:
                seen["left"] += 1
                return
            if response.status == 200:
                seen["failed" if '"engine_error"' in text else "completed"] += 1
            else:
                seen[{400: "refused", 429: "rejected"}.get(response.status, "failed")] += 1

        async def wave() -> None:
            tasks = [asyncio.create_task(client()) for _ in range(50)]
            for task in rng.sample(tasks, 10):
                await asyncio.sleep(0)
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

        for _ in range(6):
            await wave()
        metrics = await stack.settled(requests_running=0, requests_waiting=0)
        ended = {
            outcome: metrics[f'ssjf_requests_total{{outcome="{outcome}"}}']
            for outcome in ("completed", "refused", "failed", "cancelled", "expired")
        }
        rejected = metrics.get('ssjf_requests_rejected_total{reason="queue_full"}', 0)
        # who left may have been answered before the server noticed, so only what was read to its end is compared
        for outcome in ("completed", "refused", "failed"):
            assert seen[outcome] <= ended[outcome], outcome
        assert seen["rejected"] <= rejected
        known = sum(seen[outcome] for outcome in ("completed", "refused", "failed"))
        assert known <= sum(ended.values()) <= 300 - seen["rejected"]
        assert stack.gateway.dispatcher.num_live == 0
        assert not stack.gateway.answers
        stack.engine.status, stack.engine.break_after = 200, None
        assert (await stack.chat("afterwards"))[0] == 200


async def test_an_engine_that_dies_fails_who_ran_and_the_others_wait_for_the_next(tmp_path: Path) -> None:
    trigger = tmp_path / "now"
    async with before_child(lambda socket: [sys.executable, str(ENGINE), str(socket)]) as stack:
        runs = asyncio.create_task(ask(stack, f"crash when {trigger} exists"))
        await stack.settled(requests_running=1)
        wait = [asyncio.create_task(ask(stack, "hello")) for _ in range(5)]
        await stack.settled(requests_waiting=5)
        trigger.touch()
        assert await runs == 502
        assert await asyncio.gather(*wait) == [200] * 5
        metrics = await stack.settled(requests_running=0, requests_waiting=0)
        assert metrics["ssjf_engine_restarts_total"] == 1
        async with stack.session.get(f"{stack.url}/healthz") as response:
            assert (await response.json())["engine"] == "ready"


async def test_who_waits_for_an_engine_that_cannot_be_started_again_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(child, "_FIRST_BACKOFF_S", 0.01)
    monkeypatch.setattr(pool, "_GRACE_S", 0.0)
    trigger, started = tmp_path / "now", tmp_path / "started"
    once = f"""
import os, pathlib, sys
if pathlib.Path({str(started)!r}).exists():
    sys.exit(7)
pathlib.Path({str(started)!r}).touch()
os.execv(sys.executable, [sys.executable, {str(ENGINE)!r}, sys.argv[1]])
"""
    async with before_child(lambda socket: [sys.executable, "-c", once, str(socket)]) as stack:
        runs = asyncio.create_task(ask(stack, f"crash when {trigger} exists"))
        await stack.settled(requests_running=1)
        waits = asyncio.create_task(ask(stack, "hello"))
        await stack.settled(requests_waiting=1)
        trigger.touch()
        assert await runs == 502
        assert await waits == 503
        assert await ask(stack, "afterwards") == 503


def test_an_engine_that_loads_its_model_slowly_is_waited_for_and_one_that_fails_is_not_for_ever() -> None:
    member = pool.Member(HTTPBackend("unix:engine.sock"), Server("embedded", 1), "hold", supervised=True)
    engines = pool.Pool([member])
    engines.shut(member)
    assert member.hopeless_at() == inf
    engines.unstartable(member)
    first = member.hopeless_at()
    assert first < inf
    engines.unstartable(member)
    assert member.hopeless_at() == first
    engines.reopen(member)
    engines.shut(member)
    assert member.hopeless_at() == inf


@pytest.mark.parametrize("stream", [False, True])
async def test_who_cannot_finish_before_the_end_is_told(make_stack: MakeStack, stream: bool) -> None:
    async with make_stack() as stack:
        sent = asyncio.create_task(stack.post(stream=stream).__aenter__())
        await stack.engine.call(1)
        waits = stack.chat("waits")
        await stack.settled(requests_waiting=1)
        if stream:
            await sent
        stack.gateway.draining = True
        stack.gateway.give_up()
        response = await sent
        body = await response.text()
        assert response.status == (200 if stream else 503)
        assert "shutting down" in body
        assert (await waits)[0] == 503
        await stack.engine.calls[0].cancelled.wait()
        metrics = await stack.settled(requests_running=0, requests_waiting=0)
        assert metrics['ssjf_requests_total{outcome="failed"}'] == 2
        response.release()


async def test_a_slot_is_free_when_the_engine_is_done_however_slowly_the_client_reads(make_stack: MakeStack) -> None:
    async with make_stack() as stack:
        asking = asyncio.create_task(stack.post().__aenter__())
        call = await stack.engine.call(1)
        call.num_tokens = 4_000_000  # 20 MB: more than sockets and clients buffer
        call.finish.set()
        response = await asking
        await stack.settled(requests_running=0)
        assert len((await response.json())["choices"][0]["text"]) == 20_000_000
        response.release()
