"""A gateway on a free port before a fake engine, all in one event loop."""

import asyncio
import contextlib
import re
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass
from typing import Any

import aiohttp
import pytest
import uvicorn

from ssjf.config import ServeSettings
from ssjf.core.types import Prediction, Request
from ssjf.gateway.http.app import Gateway, make_app
from ssjf.gateway.serve import running_gateway
from ssjf.plugins import make_policy
from ssjf.predict.base import Predictor
from tests.gateway.fake_engine import FakeEngine


class WordCount:
    """Predicts as many tokens as the prompt has words; remembers what it was told."""

    def __init__(self) -> None:
        self.observed: list[tuple[str, int]] = []

    def predict(self, requests: Sequence[Request]) -> list[Prediction]:
        return [Prediction(float(len(request.prompt.split())), source="words@1") for request in requests]

    def observe(self, request: Request, num_output_tokens: int) -> None:
        self.observed.append((request.prompt, num_output_tokens))


@dataclass(eq=False)
class Stack:
    """Client, gateway and engine.

    Attributes:
        url: of the gateway.
        engine: behind it.
        gateway: its inside.
        session: a plain client.
    """

    url: str
    engine: FakeEngine
    gateway: Gateway
    session: aiohttp.ClientSession

    async def metrics(self) -> dict[str, float]:
        async with self.session.get(f"{self.url}/metrics") as response:
            text = await response.text()
        return {name: float(value) for name, value in re.findall(r"^(\S+) (\S+)$", text, re.MULTILINE)}

    async def settled(self, **gauges: float) -> dict[str, float]:
        """Ask /metrics until these gauges have these values."""
        while True:
            metrics = await self.metrics()
            if all(metrics[f"ssjf_{name}"] == value for name, value in gauges.items()):
                return metrics

    async def all_predicted(self) -> None:
        """Wait until everybody who waits has a place of its own: a prediction, no fallback."""
        live = self.gateway.dispatcher._live.values()
        async with asyncio.timeout(60):
            while any(e.decided_by is not None and e.decided_by.source == "fallback" for e in live):
                await self.metrics()

    def post(self, path: str = "/v1/chat/completions", *, headers: dict[str, str] | None = None, **body: Any) -> Any:
        fields = {"model": "tiny", "messages": [{"role": "user", "content": "hello"}]} | body
        return self.session.post(self.url + path, json=fields, headers=headers)

    def chat(self, prompt: str, *, hint: float | None = None, **body: Any) -> "asyncio.Task[tuple[int, Any]]":
        """Send a chat in the background; its status and answer."""
        headers = None if hint is None else {"x-ssjf-output-tokens": str(hint)}

        async def ask() -> tuple[int, Any]:
            messages = [{"role": "user", "content": prompt}]
            async with self.post(messages=messages, headers=headers, **body) as response:
                return response.status, await response.json()

        return asyncio.create_task(ask())


MakeStack = Callable[..., contextlib.AbstractAsyncContextManager[Stack]]


@pytest.fixture
def make_stack() -> MakeStack:
    @contextlib.asynccontextmanager
    async def make(
        *, predictor: Predictor | None = None, automatic: bool = False, shadow: str | None = None, **settings: Any
    ) -> AsyncIterator[Stack]:
        async with FakeEngine(automatic=automatic).running() as engine:
            options = ServeSettings(**({"backend": [engine.url], "slots": 1, "policy": "ssjf"} | settings))
            async with (
                running_gateway(
                    options,
                    policy=lambda: make_policy(options.policy),
                    shadow=None if shadow is None else lambda: make_policy(shadow),
                    predictor=predictor or WordCount(),
                    engine_command=None,
                ) as gateway,
                listening(gateway) as url,
                aiohttp.ClientSession() as session,
            ):
                yield Stack(url, engine, gateway, session)

    return make


@contextlib.asynccontextmanager
async def listening(gateway: Gateway) -> AsyncIterator[str]:
    config = uvicorn.Config(make_app(gateway), port=0, log_level="error", lifespan="off", ws="none")
    server = uvicorn.Server(config)
    server.install_signal_handlers = lambda: None  # type: ignore[attr-defined]
    config.load()
    server.lifespan = config.lifespan_class(config)
    await server.startup()
    port = server.servers[0].sockets[0].getsockname()[1]
    loop = asyncio.create_task(server.main_loop())
    try:
        yield f"http://127.0.0.1:{port}"
    finally:
        server.should_exit = server.force_exit = True
        await loop
        await server.shutdown()
