"""A gateway behind its real edge, and raw connections to it."""

import asyncio
import contextlib
import socket
from collections.abc import AsyncIterator
from typing import Any

import orjson
from starlette.types import ASGIApp

from ssjf.gateway.http.server import Limits, Server


@contextlib.asynccontextmanager
async def edge(app: ASGIApp, limits: Limits | None = None) -> AsyncIterator[tuple[Server, int]]:
    """The server and its port."""
    server = Server(app, limits or Limits())
    with socket.create_server(("127.0.0.1", 0)) as sock:
        port: int = sock.getsockname()[1]
        serving = asyncio.create_task(server.serve(sockets=[sock]))
        try:
            yield server, port
        finally:
            server.should_exit = server.force_exit = True
            await serving


async def talk(port: int, *pieces: bytes) -> bytes:
    """Send the pieces, and nothing more; all that comes back until the connection is closed."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        with contextlib.suppress(ConnectionError):
            for piece in pieces:
                writer.write(piece)
                await writer.drain()
        return await read_all(reader)
    finally:
        writer.close()
        with contextlib.suppress(ConnectionError):
            await writer.wait_closed()


async def read_all(reader: asyncio.StreamReader) -> bytes:
    """Everything until the end, also where that is a reset."""
    got = b""
    with contextlib.suppress(ConnectionError):
        while piece := await reader.read(65536):
            got += piece
    return got


def error_of(answer: bytes) -> tuple[int, dict[str, Any]]:
    """Status and error of an answer."""
    head, _, body = answer.partition(b"\r\n\r\n")
    return int(head.split()[1]), orjson.loads(body)["error"]
