"""A scripted OpenAI-compatible server on the loopback, and nothing real behind it."""

import json
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

from aiohttp import web

from ssjf.loadgen.client import Endpoint

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


def chunk(text: str | None = None, finish_reason: str | None = None) -> str:
    """One chat completion chunk as a server-sent event."""
    choice = {"index": 0, "delta": {"content": text} if text else {}, "finish_reason": finish_reason}
    return f"data: {json.dumps({'choices': [choice]})}\n\n"


def whole_answer(words: int, prompt_tokens: int = 7) -> list[str]:
    """The events of an answer of so many chunks, with usage and end."""
    usage = {"prompt_tokens": prompt_tokens, "completion_tokens": words}
    tail = f"data: {json.dumps({'choices': [], 'usage': usage})}\n\n"
    return [*[chunk("word ")] * words, chunk(finish_reason="stop"), tail, "data: [DONE]\n\n"]


async def stream(request: web.Request, events: list[str], headers: dict[str, str] | None = None) -> web.StreamResponse:
    """Answer with server-sent events."""
    response = web.StreamResponse(headers={"Content-Type": "text/event-stream", **(headers or {})})
    await response.prepare(request)
    for event in events:
        await response.write(event.encode())
    return response


def refusal(status: int, message: str) -> web.Response:
    """An error in OpenAI's shape."""
    return web.json_response({"error": {"message": message}}, status=status)


@dataclass
class FakeServer:
    """What a test's server received; a test sets `handler` to say how it answers (else: three words)."""

    endpoint: Endpoint
    bodies: list[dict[str, Any]] = field(default_factory=list)
    headers: list[dict[str, str]] = field(default_factory=list)
    handler: Handler | None = None

    async def complete(self, request: web.Request) -> web.StreamResponse:
        """Write down what came and answer as the test wants."""
        self.bodies.append({"path": request.path, **await request.json()})
        self.headers.append(dict(request.headers))
        if self.handler is None:
            return await stream(request, whole_answer(3))
        return await self.handler(request)

    async def models(self, _: web.Request) -> web.Response:
        """Two models, the first of which is the default."""
        return web.json_response({"object": "list", "data": [{"id": "tiny"}, {"id": "other"}]})


@asynccontextmanager
async def fake_server() -> AsyncIterator[FakeServer]:
    """A server on a free loopback port."""
    fake = FakeServer(Endpoint(url=""))
    app = web.Application()
    app.router.add_post("/v1/chat/completions", fake.complete)
    app.router.add_post("/v1/completions", fake.complete)
    app.router.add_get("/v1/models", fake.models)
    runner = web.AppRunner(app, shutdown_timeout=0.1)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    host, port = runner.addresses[0][:2]
    fake.endpoint = Endpoint(url=f"http://{host}:{port}", model="m", timeout_s=30)
    try:
        yield fake
    finally:
        await runner.cleanup()
