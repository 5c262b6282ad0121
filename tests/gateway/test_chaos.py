"""2,000 requests over three engines at their worst, from clients that come and go."""

import asyncio
import contextlib
import random
from collections import Counter

import aiohttp
import orjson
import pytest

from ssjf.config import ServeSettings
from ssjf.gateway.backends import pool
from ssjf.gateway.serve import running_gateway
from ssjf.plugins import make_policy
from tests.gateway.chaos_engine import ChaosEngine
from tests.gateway.conftest import Stack, WordCount, listening
from tests.gateway.fake_engine import FakeEngine

NUM_REQUESTS = 2000
OUTCOMES = ("completed", "refused", "failed", "cancelled", "expired")


def content_of(text: str, *, stream: bool) -> str:
    if not stream:
        return str(orjson.loads(text)["choices"][0]["message"]["content"])
    events = [orjson.loads(line[6:]) for line in text.splitlines() if line.startswith("data: {")]
    return "".join(c["delta"].get("content", "") for e in events for c in e.get("choices", []))


async def test_every_request_has_exactly_one_outcome_and_the_sums_agree(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pool, "_FIRST_BACKOFF_S", 0.02)
    monkeypatch.setattr(pool, "_LAST_BACKOFF_S", 0.1)
    rng = random.Random(7)
    seen: Counter[str] = Counter()

    async with contextlib.AsyncExitStack() as stack:
        engines = [await stack.enter_async_context(ChaosEngine(seed).running()) for seed in range(3)]
        settings = ServeSettings(
            backend=[engine.url for engine in engines],
            slots=4,
            policy="auto",
            max_waiting=150,
            first_token_timeout_s=0.2,
            stall_timeout_s=0.2,
            total_timeout_s=1,
        )
        gateway = await stack.enter_async_context(
            running_gateway(
                settings,
                policy=lambda: make_policy("auto"),
                shadow=None,
                predictor=WordCount(),
                engine_command=None,
            )
        )
        url = await stack.enter_async_context(listening(gateway))
        connector = aiohttp.TCPConnector(limit=0, keepalive_timeout=1)  # below the server's
        session = await stack.enter_async_context(aiohttp.ClientSession(connector=connector))
        watch = Stack(url, FakeEngine(), gateway, session)

        async def client(number: int) -> None:
            prompt = f"request {number} " + "word " * rng.randrange(1, 20)
            stream = rng.random() < 0.6
            headers = {"x-ssjf-deadline-s": "0.2"} if rng.random() < 0.1 else {}
            body = {"model": "tiny", "messages": [{"role": "user", "content": prompt}], "stream": stream}
            async with session.post(f"{url}/v1/chat/completions", json=body, headers=headers) as response:
                text = await response.text()
            if response.status == 200 and '"error"' not in text:
                assert content_of(text, stream=stream) == "".join(f"{word} " for word in prompt.split())
                seen["completed"] += 1
            elif response.status == 200:
                code = orjson.loads(text.split("data: ")[-1])["error"]["code"]
                assert code in {"engine_error", "timeout"}
                seen["failed"] += 1
            else:
                assert "error" in text, (response.status, text)
                error = orjson.loads(text)["error"]
                kind = {400: "refused", 429: "rejected"}.get(response.status, "failed")
                if error["code"] == "deadline_exceeded":
                    kind = "expired"
                if error["code"] == "engine_unavailable" and "retry-after" in response.headers:
                    kind = "unavailable"
                seen[kind] += 1

        async def comes_and_goes(number: int) -> None:
            task = asyncio.create_task(client(number))
            if rng.random() < 0.15:
                for _ in range(rng.randrange(60)):
                    await asyncio.sleep(0)
                task.cancel()
            try:
                await task
            except asyncio.CancelledError:
                seen["left"] += 1

        number = 0
        while number < NUM_REQUESTS:
            wave = min(rng.randrange(50, 250), NUM_REQUESTS - number)
            victim = rng.choice(engines) if rng.random() < 0.3 else None
            tasks = [asyncio.create_task(comes_and_goes(number + i)) for i in range(wave)]
            if victim is not None:
                for _ in range(50):
                    await asyncio.sleep(0)
                await victim.crash()
            await asyncio.gather(*tasks)
            if victim is not None:
                await victim.start()
            number += wave

        metrics = await watch.settled(requests_running=0, requests_waiting=0)
        await gateway.dispatcher.wait_until_idle()
        ended = {outcome: int(metrics[f'ssjf_requests_total{{outcome="{outcome}"}}']) for outcome in OUTCOMES}
        rejected = {
            reason: int(metrics.get(f'ssjf_requests_rejected_total{{reason="{reason}"}}', 0))
            for reason in ("queue_full", "no_backend", "invalid")
        }
        # all that was seen was counted; what was counted beyond that is of clients that had left
        assert sum(seen.values()) == NUM_REQUESTS
        assert seen["rejected"] <= rejected["queue_full"]
        assert rejected["invalid"] == 0
        for outcome in ("completed", "refused", "expired"):
            assert seen[outcome] <= ended[outcome], outcome
        assert seen["failed"] + seen["unavailable"] <= ended["failed"] + rejected["no_backend"]
        everybody = sum(ended.values()) + sum(rejected.values())
        assert NUM_REQUESTS - seen["left"] <= everybody <= NUM_REQUESTS
        # the bad days were there, and most requests were served all the same
        assert seen["completed"] > NUM_REQUESTS / 10
        for way in ("hangs up", "breaks off", "stalls", "talks nonsense", "ends early", "breaks"):
            assert sum(engine.did[way] for engine in engines) > 0, way
        assert metrics["ssjf_retries_total"] > 0
        assert min(seen["left"], seen["failed"], seen["refused"]) > 0
        # nothing is left behind
        assert gateway.dispatcher.num_live == 0
        assert not gateway.answers
        assert not gateway.under_way
        assert all(member.server.num_running == 0 for member in gateway.pool.members)
        by_backend = [value for name, value in metrics.items() if name.startswith("ssjf_backend_requests_total")]
        assert sum(by_backend) <= sum(ended.values())
