"""The sender of the benchmarks of the gateway: streams over raw connections, with as little work per chunk as it takes.

    python -m benchmarks.gateway_client PORT KEY STREAMS CHUNKS PACE STARTS_PER_S SEED

Starts that many streams, as a Poisson process of that rate (0: all at once), whether or not earlier ones have ended.
Prints one JSON object: `ttft_s`, from the start of each stream to its first event; `chunks`, how many events with text
came; `wall_s`; `failed`, streams that did not end with [DONE], or not in time.
"""

import asyncio
import random
import sys
import time
from typing import cast

import orjson
import uvloop

_TEXT = b'"content":" word"'
_TEXT_RESPACED = b'"content": " word"'
_DONE = b"data: [DONE]"
_LAST = b"0\r\n\r\n"
_WAIT_S = 40.0  # after the last start; what has come until then counts


class _Stream(asyncio.Protocol):
    """One connection, and one request after another on it."""

    def __init__(self) -> None:
        self._ended: asyncio.Future[None] | None = None
        self._tail = b""
        self.first_at: float | None = None
        self.num_chunks = 0
        self.done = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast("asyncio.Transport", transport)

    def connection_lost(self, exc: Exception | None) -> None:
        self._end()

    def data_received(self, data: bytes) -> None:
        data = self._tail + data
        cut = data.rfind(b"\n\n") + 1  # only whole events are counted
        found = data.count(_TEXT, 0, cut) or data.count(_TEXT_RESPACED, 0, cut)
        if found and self.first_at is None:
            self.first_at = time.perf_counter()
        self.num_chunks += found
        self._tail = data[cut:]
        self.done = self.done or _DONE in data
        if self.done and data.endswith(_LAST):
            self._end()

    def _end(self) -> None:
        if self._ended is not None and not self._ended.done():
            self._ended.set_result(None)

    async def ask(self, request: bytes) -> float:
        """Send a request and read its answer to the end; seconds to the first event, infinite without one."""
        self._ended = asyncio.get_running_loop().create_future()
        self.first_at, self.done, self._tail = None, False, b""
        begun = time.perf_counter()
        self.transport.write(request)
        await self._ended
        return float("inf") if self.first_at is None else self.first_at - begun


def make_request(port: int, key: str, content: str, *, stream: bool = True) -> bytes:
    """A chat as it goes over the wire."""
    fields = {"model": "tiny", "messages": [{"role": "user", "content": content}], "stream": stream}
    body = orjson.dumps(fields)
    head = (
        f"POST /v1/chat/completions HTTP/1.1\r\nhost: 127.0.0.1:{port}\r\nauthorization: Bearer {key}\r\n"
        f"content-type: application/json\r\ncontent-length: {len(body)}\r\n\r\n"
    )
    return head.encode() + body


async def _send(
    port: int, key: str, *, num_streams: int, num_chunks: int, pace: float, starts_per_s: float, seed: int
) -> dict[str, object]:
    loop = asyncio.get_running_loop()
    rng = random.Random(seed)
    request = make_request(port, key, f"chunks={num_chunks} pace={pace:g}")
    idle: list[_Stream] = []
    ttfts: list[float] = []
    totals = {"chunks": 0, "failed": 0}

    async def one() -> None:
        while idle and idle[-1].transport.is_closing():
            idle.pop()
        if idle:
            stream = idle.pop()
        else:
            _, stream = await loop.create_connection(_Stream, "127.0.0.1", port)
        try:
            ttfts.append(await stream.ask(request))
        finally:
            totals["chunks"] += stream.num_chunks
            totals["failed"] += not stream.done
            stream.num_chunks = 0
        if not stream.transport.is_closing():
            idle.append(stream)

    # connections are made before the clock runs: clients keep theirs
    at_once = num_streams if not starts_per_s else min(num_streams, 100)
    for _ in range(at_once):
        _, stream = await loop.create_connection(_Stream, "127.0.0.1", port)
        idle.append(stream)
    await asyncio.sleep(0.2)
    begun = time.perf_counter()
    next_at = loop.time()
    tasks = []
    for _ in range(num_streams):
        tasks.append(asyncio.create_task(one()))
        if starts_per_s:
            next_at += rng.expovariate(starts_per_s)
            await asyncio.sleep(max(next_at - loop.time(), 0))
    _, unfinished = await asyncio.wait(tasks, timeout=_WAIT_S)
    for task in unfinished:
        task.cancel()
    await asyncio.gather(*unfinished, return_exceptions=True)
    wall_s = time.perf_counter() - begun
    for stream in idle:
        stream.transport.close()
    return {"ttft_s": ttfts, "wall_s": wall_s, **totals}


if __name__ == "__main__":
    port_, key_, streams_, chunks_, pace_, rate_, seed_ = sys.argv[1:]
    result = uvloop.run(
        _send(
            int(port_),
            key_,
            num_streams=int(streams_),
            num_chunks=int(chunks_),
            pace=float(pace_),
            starts_per_s=float(rate_),
            seed=int(seed_),
        )
    )
    print(orjson.dumps(result).decode())
