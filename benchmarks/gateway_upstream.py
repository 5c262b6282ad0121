"""An engine that streams as told, for the benchmarks of the gateway: as little work per chunk as Python allows.

    python -m benchmarks.gateway_upstream

Prints its port. The last message of a chat says what to send: ``chunks=100 pace=50`` is a hundred chunks, fifty per
second; ``pace=0`` is as fast as the connection takes them, one chunk of every stream in turn, as an engine's steps
give them. The first chunk comes at once. It answers only what the benchmarks ask.
"""

import asyncio
import re
import socket
from collections.abc import Callable
from typing import cast

import orjson
import uvloop

_ORDER = re.compile(rb"chunks=(\d+) pace=([\d.]+)")
_LENGTH = re.compile(rb"content-length: *(\d+)", re.IGNORECASE)
_HEAD = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n"
# Bytes of a stream that may be on their way, in the kernel and here. With more, a proxy that is slower than this has
# its receive window filled with tiny segments, and what is measured is how long TCP stalls (seconds, for all proxies).
_SEND_BUFFER, _HIGH_WATER = 8192, 1024


def _framed(event: bytes) -> bytes:
    return b"%x\r\n%b\r\n" % (len(event), event)


def _event(payload: dict[str, object]) -> bytes:
    base = {"id": "chatcmpl-0123456789abcdef", "object": "chat.completion.chunk", "created": 1, "model": "tiny"}
    return _framed(b"data: " + orjson.dumps(base | payload) + b"\n\n")


def _choice(text: str, finish: str | None = None) -> dict[str, object]:
    return {"choices": [{"index": 0, "delta": {"content": text}, "logprobs": None, "finish_reason": finish}]}


CHUNK = _event(_choice(" word"))


def _ending(num_chunks: int) -> bytes:
    usage = {"prompt_tokens": 5, "completion_tokens": num_chunks, "total_tokens": 5 + num_chunks}
    done = _framed(b"data: [DONE]\n\n") + b"0\r\n\r\n"
    return _event(_choice("", "stop")) + _event({"choices": [], "usage": usage}) + done


class _Engine(asyncio.Protocol):
    def __init__(self) -> None:
        self._buffer = b""
        self._paused = False
        self._left = self._asked = 0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)
        transport.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, _SEND_BUFFER)
        self._transport.set_write_buffer_limits(high=_HIGH_WATER)

    def connection_lost(self, exc: Exception | None) -> None:
        self._left = 0

    def pause_writing(self) -> None:
        self._paused = True

    def resume_writing(self) -> None:
        self._paused = False
        if self._left:
            _soon(self._step)

    def data_received(self, data: bytes) -> None:
        self._buffer += data
        head, found, rest = self._buffer.partition(b"\r\n\r\n")
        length = _LENGTH.search(head)
        size = int(length[1]) if length else 0
        if not found or len(rest) < size:
            return
        self._buffer = rest[size:]
        if head.startswith(b"POST"):
            order = _ORDER.search(rest[:size])
            assert order is not None, "a chat says what it wants"
            self._stream(int(order[1]), float(order[2]))
        else:
            self._answer(head.split(b" ", 2)[1])

    def _answer(self, path: bytes) -> None:
        found = path in (b"/v1/models", b"/health")
        body = b'{"object": "list", "data": [{"id": "tiny", "object": "model"}]}'
        self._transport.write(
            b"HTTP/1.1 %b\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n%b"
            % (b"200 OK" if found else b"404 Not Found", len(body), body)
        )

    def _stream(self, num_chunks: int, pace: float) -> None:
        self._left = self._asked = num_chunks
        self._pace = pace
        self._next_at = asyncio.get_running_loop().time()
        self._transport.write(_HEAD)
        self._step()

    def _step(self) -> None:
        if not self._left or self._paused:
            return
        self._left -= 1
        if not self._left:
            self._transport.write(CHUNK + _ending(self._asked))
            return
        self._transport.write(CHUNK)
        if self._pace:
            self._next_at += 1 / self._pace
            asyncio.get_running_loop().call_at(self._next_at, self._step)
        else:
            _soon(self._step)


def _soon(step: Callable[[], None]) -> None:
    asyncio.get_running_loop().call_soon(step)


async def _serve() -> None:
    server = await asyncio.get_running_loop().create_server(_Engine, "127.0.0.1", 0, backlog=4096)
    print(server.sockets[0].getsockname()[1], flush=True)
    await server.serve_forever()


if __name__ == "__main__":
    uvloop.run(_serve())
