"""An engine that misbehaves by a seed: it answers, refuses, breaks off, stalls, talks nonsense, or is not there."""

import asyncio
import contextlib
import random
from collections.abc import AsyncIterator

import orjson
from aiohttp import web

WAYS = {
    "answers": 60,
    "refuses": 5,  # 400: the request is wrong
    "breaks": 5,  # 500
    "is full": 3,  # 503
    "hangs up": 6,  # before a byte
    "breaks off": 6,  # in the middle
    "stalls": 3,
    "stalls later": 3,
    "talks nonsense": 4,
    "ends early": 5,
}


class ChaosEngine:
    """Answers each prompt with the prompt itself, if at all.

    Args:
        seed: of its moods.
        name: of its model list.

    Attributes:
        did: how often it did what.
        at_once: requests in its hands now; `most_at_once` ever.
    """

    def __init__(self, seed: int) -> None:
        self._rng = random.Random(seed)
        self.did = dict.fromkeys(WAYS, 0)
        self.at_once = self.most_at_once = 0
        self.port = 0
        self._runner: web.AppRunner | None = None

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @contextlib.asynccontextmanager
    async def running(self) -> AsyncIterator["ChaosEngine"]:
        await self.start()
        try:
            yield self
        finally:
            await self.crash()

    async def start(self) -> None:
        app = web.Application()
        app.router.add_get("/health", self._health)
        app.router.add_get("/v1/models", self._list)
        app.router.add_post("/v1/chat/completions", self._complete)
        self._runner = web.AppRunner(app, handler_cancellation=True, shutdown_timeout=0)
        await self._runner.setup()
        await web.TCPSite(self._runner, "127.0.0.1", self.port).start()
        self.port = self._runner.addresses[0][1]

    async def crash(self) -> None:
        """Close the port and every connection."""
        if self._runner is not None:
            runner, self._runner = self._runner, None
            server = runner.server
            assert server is not None
            for site in list(runner.sites):
                await site.stop()
            for _ in range(5):  # who is just being accepted becomes a connection, which the runner would forget
                for connection in list(server.connections):
                    if connection.transport is not None:
                        connection.transport.abort()
                await asyncio.sleep(0)
            await runner.cleanup()

    async def _health(self, _: web.Request) -> web.Response:
        return web.Response()

    async def _list(self, _: web.Request) -> web.Response:
        return web.json_response({"object": "list", "data": [{"id": "tiny", "object": "model"}]})

    async def _complete(self, request: web.Request) -> web.StreamResponse:
        body = orjson.loads(await request.read())
        self.at_once += 1
        self.most_at_once = max(self.most_at_once, self.at_once)
        try:
            way = self._rng.choices(list(WAYS), list(WAYS.values()))[0]
            self.did[way] += 1
            return await self._behave(way, request, body["messages"][-1]["content"], stream=bool(body.get("stream")))
        except ConnectionError:  # whoever asked has left
            return web.Response()
        finally:
            self.at_once -= 1

    async def _behave(self, way: str, request: web.Request, prompt: str, *, stream: bool) -> web.StreamResponse:
        for _ in range(self._rng.randrange(3)):
            await asyncio.sleep(0)
        if way in ("refuses", "breaks", "is full"):
            status = {"refuses": 400, "breaks": 500, "is full": 503}[way]
            return web.json_response(
                {"error": {"message": way, "type": "x", "param": None, "code": None}}, status=status
            )
        assert request.transport is not None
        if way == "hangs up":
            request.transport.abort()
            return web.Response()
        if way == "stalls":
            await asyncio.Future()
        if not stream:
            return self._whole(way, prompt)
        response = web.StreamResponse(headers={"content-type": "text/event-stream"})
        await response.prepare(request)
        if way == "talks nonsense":
            await response.write(b"<html>it works!</html>" * 3)
            return response
        for index, word in enumerate(prompt.split()):
            if index == 2 and way == "breaks off":
                request.transport.abort()
                return response
            if index == 2 and way == "stalls later":
                await asyncio.Future()
            if index == 2 and way == "ends early":
                return response
            choice = {"index": 0, "delta": {"content": f"{word} "}, "finish_reason": None}
            await response.write(b"data: " + orjson.dumps({"choices": [choice]}) + b"\n\n")
        usage = {"prompt_tokens": 5, "completion_tokens": len(prompt.split()), "total_tokens": 5}
        await response.write(b"data: " + orjson.dumps({"choices": [], "usage": usage}) + b"\n\n")
        await response.write(b"data: [DONE]\n\n")
        return response

    def _whole(self, way: str, prompt: str) -> web.Response:
        if way in ("talks nonsense", "ends early", "breaks off", "stalls later"):
            return web.Response(text="<html>it works!</html>")
        message = {"role": "assistant", "content": "".join(f"{word} " for word in prompt.split())}
        usage = {"prompt_tokens": 5, "completion_tokens": len(prompt.split()), "total_tokens": 5}
        choice = {"index": 0, "message": message, "finish_reason": "stop"}
        return web.json_response({"object": "chat.completion", "choices": [choice], "usage": usage})
