"""An OpenAI-compatible engine in the test's own event loop, which answers only when the test says so."""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from typing import Any

import orjson
from aiohttp import web


@dataclass(eq=False)
class Call:
    """One request that reached the engine."""

    body: dict[str, Any]
    headers: dict[str, str]
    num_tokens: int = 3
    finish: asyncio.Event = field(default_factory=asyncio.Event)
    cancelled: asyncio.Event = field(default_factory=asyncio.Event)

    @property
    def prompt(self) -> str:
        return self.body["messages"][-1]["content"] if "messages" in self.body else self.body["prompt"]


class FakeEngine:
    """Serves `automatic`ally, or holds every call until its `finish` is set."""

    def __init__(self, *, automatic: bool = False) -> None:
        self.automatic = automatic
        self.calls: list[Call] = []
        self.arrived = asyncio.Condition()
        self.models = ["tiny"]
        self.break_after: int | None = None  # tokens after which a stream is cut off
        self.status = 200
        self.url = ""

    async def call(self, number: int) -> Call:
        """Wait until that many calls have come; the last of them."""
        async with self.arrived:
            await self.arrived.wait_for(lambda: len(self.calls) >= number)
        return self.calls[number - 1]

    @contextlib.asynccontextmanager
    async def running(self) -> AsyncIterator["FakeEngine"]:
        app = web.Application(client_max_size=2**26)
        app.router.add_get("/v1/models", self._list)
        app.router.add_get("/health", self._health)
        app.router.add_post("/v1/chat/completions", self._complete)
        app.router.add_post("/v1/completions", self._complete)
        runner = web.AppRunner(app, handler_cancellation=True, shutdown_timeout=0.1)
        await runner.setup()
        site = web.TCPSite(runner, "127.0.0.1", 0)
        await site.start()
        host, port = runner.addresses[0][:2]
        self.url = f"http://{host}:{port}"
        try:
            yield self
        finally:
            await runner.cleanup()

    async def _list(self, _: web.Request) -> web.Response:
        return web.json_response({"object": "list", "data": [{"id": m, "object": "model"} for m in self.models]})

    async def _health(self, _: web.Request) -> web.Response:
        return web.Response()

    async def _complete(self, request: web.Request) -> web.StreamResponse:
        body = orjson.loads(await request.read())
        call = Call(body, dict(request.headers))
        if self.automatic:
            call.finish.set()
        async with self.arrived:
            self.calls.append(call)
            self.arrived.notify_all()
        if self.status != 200:
            error = {"error": {"message": "no", "type": "invalid_request_error", "param": None, "code": None}}
            return web.json_response(error, status=self.status)
        try:
            if body.get("stream"):
                return await self._stream(request, call)
            await call.finish.wait()
        except asyncio.CancelledError:
            call.cancelled.set()
            raise
        usage = {"prompt_tokens": 5, "completion_tokens": call.num_tokens, "total_tokens": 5 + call.num_tokens}
        message = {"role": "assistant", "content": "word " * call.num_tokens}
        choice = {"index": 0, "message": message, "text": message["content"], "finish_reason": "stop"}
        answer = {"id": "x", "object": "chat.completion", "created": 1, "model": "tiny", "choices": [choice]}
        return web.json_response(answer | {"usage": usage})

    async def _stream(self, request: web.Request, call: Call) -> web.StreamResponse:
        response = web.StreamResponse(headers={"content-type": "text/event-stream"})
        await response.prepare(request)
        base = {"id": "x", "object": "chat.completion.chunk", "created": 1, "model": "tiny"}
        for index in range(call.num_tokens):
            if index == 1:
                await call.finish.wait()  # the first token is out, the rest comes when the test says so
            if self.break_after == index:
                assert request.transport is not None
                request.transport.abort()
                return response
            choice = {"index": 0, "delta": {"content": "word "}, "text": "word ", "finish_reason": None}
            await response.write(b"data: " + orjson.dumps(base | {"choices": [choice]}) + b"\n\n")
        if (call.body.get("stream_options") or {}).get("include_usage"):
            usage = {"prompt_tokens": 5, "completion_tokens": call.num_tokens, "total_tokens": 5 + call.num_tokens}
            await response.write(b"data: " + orjson.dumps(base | {"choices": [], "usage": usage}) + b"\n\n")
        await response.write(b"data: [DONE]\n\n")
        await response.write_eof()
        return response
