"""Nonsense on the socket: whatever comes, nothing of ours fails, hangs or is left behind."""

import asyncio
import contextlib
import logging
import random

import aiohttp
import orjson
import pytest

from ssjf.config import ServeSettings
from ssjf.gateway.http import endpoint
from ssjf.gateway.http.app import make_app
from ssjf.gateway.http.server import Limits
from ssjf.gateway.serve import running_gateway
from ssjf.plugins import make_policy
from tests.gateway.conftest import WordCount
from tests.gateway.fake_engine import FakeEngine
from tests.gateway.http.edge import edge, read_all

NUM_CASES = 400
CHAT = {"model": "tiny", "messages": [{"role": "user", "content": "hello"}], "stream": True, "max_tokens": 3}
PATHS = (b"/v1/chat/completions", b"/v1/completions", b"/v1/models", b"/v1/embeddings", b"/metrics", b"/healthz", b"/")
VALUES = (
    None,
    True,
    -1,
    0,
    1e400,
    2**80,
    "",
    "x",
    "\ud800",
    [],
    [[]],
    [0],
    {},
    {"content": None},
    [{"role": 1}],
    [None],
)
HEADERS = (
    b"x-ssjf-deadline-s: nan",
    b"x-ssjf-output-tokens: 5",
    b"x-ssjf-tier: \xff",
    b"authorization: Bearer \x80",
    b"x-request-id: " + b"a" * 300,
    b"connection: close, content-length",
    b"transfer-encoding: gzip",
    b"expect: 100-continue",
    b"content-type: text/plain",
    b"upgrade: h2c",
)


def make_body(rng: random.Random) -> bytes:
    """A chat with something wrong, most of the time."""
    fields = dict(CHAT)
    for _ in range(rng.randint(0, 2)):
        name = rng.choice([*CHAT, "prompt", "n", "stream_options", "priority", "max_completion_tokens", "tools"])
        fields[name] = rng.choice(VALUES)
    if rng.random() < 0.2:
        fields.pop(rng.choice(list(fields)))
    with contextlib.suppress(UnicodeEncodeError, orjson.JSONEncodeError, TypeError):
        return mutated(rng, orjson.dumps(fields), 0.2)
    return rng.choice([b"", b"{", b"[]", b"null", b"\xff\xfe", b"[" * 10_000, b'{"a":1}' * 2])


def mutated(rng: random.Random, data: bytes, probability: float) -> bytes:
    """The data, or with some bytes lost, doubled or changed."""
    if rng.random() >= probability or not data:
        return data
    changed = bytearray(data)
    for _ in range(rng.randint(1, 8)):
        at = rng.randrange(len(changed))
        changed[at : at + rng.randint(0, 2)] = rng.randbytes(rng.randint(0, 2))
        if not changed:
            break
    return bytes(changed)


def make_case(rng: random.Random) -> bytes:
    """What one client sends."""
    if rng.random() < 0.1:
        return rng.randbytes(rng.randint(1, 2000))
    body = make_body(rng)
    method = rng.choice([b"POST", b"POST", b"POST", b"GET", b"PUT", b"BREW", b"HEAD", b"OPTIONS"])
    lines = [method + b" " + rng.choice(PATHS) + b" HTTP/1.1", b"host: x"]
    lines += rng.sample(HEADERS, rng.choice([0, 0, 0, 1, 2]))
    length = len(body) + rng.choice([0] * 8 + [-1, 5])
    lines.append(b"content-length: %d" % length)
    return mutated(rng, b"\r\n".join(lines) + b"\r\n\r\n" + body, 0.2)


async def send(port: int, rng: random.Random) -> bytes:
    """One client's case, in pieces; half of the clients leave early, the others say that they have nothing more."""
    data = make_case(rng)
    cut, leaves = rng.randrange(len(data) + 1), rng.random() < 0.5
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        with contextlib.suppress(ConnectionError):
            writer.write(data[:cut])
            await writer.drain()
            await asyncio.sleep(0)
            writer.write(data[cut:])
            await writer.drain()
            if leaves:
                return await reader.read(rng.randint(1, 200))
            return await read_all(reader)
        return b""
    finally:
        writer.transport.abort()


@pytest.mark.parametrize("seed", [1, 2])
async def test_nonsense_makes_no_error_of_ours_no_hang_and_no_leak(
    seed: int, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(endpoint, "_BODY_S", 0.5)  # many promise more than they send
    rng = random.Random(seed)
    async with FakeEngine(automatic=True).running() as engine:
        options = ServeSettings(backend=[engine.url], slots=2, policy="auto", max_body_mb=0.01)
        async with (
            running_gateway(
                options,
                policy=lambda: make_policy("auto"),
                shadow=None,
                predictor=WordCount(),
                engine_command=None,
            ) as gateway,
            edge(make_app(gateway), Limits(head_s=0.5, head_bytes=4000)) as (server, port),
            aiohttp.ClientSession() as session,
        ):
            url = f"http://127.0.0.1:{port}"
            at_once = asyncio.Semaphore(20)

            async def client(case: random.Random) -> bytes:
                async with at_once, asyncio.timeout(60):
                    return await send(port, case)

            server.config.timeout_keep_alive = 1  # who has got an answer and wants nothing more is not waited for
            answers = await asyncio.gather(*(client(random.Random(rng.random())) for _ in range(NUM_CASES)))
            errors = [answer for answer in answers if answer.startswith(b"HTTP/1.1 5")]
            assert errors == []
            assert sum(answer.startswith(b"HTTP/1.1 4") for answer in answers) > NUM_CASES / 10
            assert sum(answer.startswith(b"HTTP/1.1 2") for answer in answers) > NUM_CASES / 20

            async with asyncio.timeout(60):
                await gateway.dispatcher.wait_until_idle()
                while server.server_state.connections or gateway.answers:
                    await asyncio.sleep(0.01)
            assert gateway.under_way == set()
            assert [member.server.num_running for member in gateway.pool.members] == [0]
            assert [len(lane.scheduler.waiting) for lane in gateway.dispatcher.lanes] == [0]
            async with session.post(f"{url}/v1/chat/completions", json=CHAT) as response:
                assert response.status == 200
                assert (await response.read()).endswith(b"data: [DONE]\n\n")
    ours = [record for record in caplog.records if not record.name.startswith("aiohttp")]  # that is the engine
    assert [record for record in ours if record.levelno >= logging.ERROR] == []
