"""The bare pass-through that the gateway is measured against: the same libraries, and nothing but bytes in and out.

    python -m benchmarks.gateway_passthrough UPSTREAM_URL

Prints its port. It neither reads what it passes on nor limits, orders, counts or retries anything.
"""

import socket
import sys
from collections.abc import Awaitable, Callable
from typing import Any

import aiohttp
import uvicorn
import uvloop

_HOP_BY_HOP = {b"host", b"content-length", b"transfer-encoding", b"connection", b"accept-encoding"}


def make_app(upstream: str, session: aiohttp.ClientSession) -> Callable[..., Awaitable[None]]:
    """The ASGI application."""

    async def app(scope: dict[str, Any], receive: Callable[[], Awaitable[Any]], send: Callable[[Any], Any]) -> None:
        body, more = b"", True
        while more:
            message = await receive()
            body, more = body + message.get("body", b""), message.get("more_body", False)
        headers = [(n.decode(), v.decode()) for n, v in scope["headers"] if n.lower() not in _HOP_BY_HOP]
        async with session.request(scope["method"], upstream + scope["path"], data=body, headers=headers) as response:
            answered = [(n, v) for n, v in response.raw_headers if n.lower() not in _HOP_BY_HOP]
            await send({"type": "http.response.start", "status": response.status, "headers": answered})
            async for data in response.content.iter_any():
                await send({"type": "http.response.body", "body": data, "more_body": True})
            await send({"type": "http.response.body", "body": b""})

    return app


async def _serve(upstream: str) -> None:
    connector = aiohttp.TCPConnector(limit=0)
    async with aiohttp.ClientSession(connector=connector, auto_decompress=False) as session:
        with socket.socket() as sock:
            sock.bind(("127.0.0.1", 0))
            print(sock.getsockname()[1], flush=True)
            app = make_app(upstream, session)
            config = uvicorn.Config(
                app, log_level="error", access_log=False, lifespan="off", ws="none", timeout_keep_alive=75
            )
            await uvicorn.Server(config).serve(sockets=[sock])


if __name__ == "__main__":
    uvloop.run(_serve(sys.argv[1]))
