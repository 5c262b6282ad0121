"""Servers to test against: one with a fake pipeline in this process, one with the bundled model in its own."""

import asyncio
import contextlib
import os
import re
import subprocess
import sys
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import aiohttp
import pytest
import uvicorn

from ssjf.engine.server import Service, create_app
from ssjf.engine.worker import Engine
from tests.engine.engine_fakes import FakePipeline, FakeTokenizer

ROOT = Path(__file__).parents[2]


async def eventually(condition: Callable[[], bool]) -> None:
    """Let the event loop run until the condition holds."""
    async with asyncio.timeout(60):
        while not condition():
            await asyncio.sleep(0.001)


@dataclass
class Served:
    url: str
    http: aiohttp.ClientSession
    engine: Engine
    service: Service

    async def until_slots_are_free(self, pipeline: FakePipeline) -> None:
        async with asyncio.timeout(60):
            await self.engine.drained()  # the server has noticed that the clients are gone
            pipeline.allow(1)  # the step under way ends
        await eventually(lambda: not self.engine.num_running and not self.engine.num_waiting)


@contextlib.asynccontextmanager
async def serving(pipeline: FakePipeline, *, max_num_seqs: int = 2, max_model_len: int = 100) -> AsyncIterator[Served]:
    engine = Engine(pipeline, max_num_seqs=max_num_seqs, on_fault=lambda: None)
    service = Service(engine, FakeTokenizer(), model_name="fake", max_model_len=max_model_len)
    config = uvicorn.Config(create_app(service), host="127.0.0.1", port=0, lifespan="off", log_level="warning")
    server = uvicorn.Server(config)
    server.capture_signals = contextlib.nullcontext  # type: ignore[method-assign]
    task = asyncio.create_task(server.serve())
    await eventually(lambda: server.started)
    port = server.servers[0].sockets[0].getsockname()[1]
    try:
        async with aiohttp.ClientSession() as http:
            yield Served(f"http://127.0.0.1:{port}", http, engine, service)
    finally:
        pipeline.free_running = True
        pipeline.allow(1000)
        await engine.close()
        server.should_exit = True
        await task


@dataclass
class Process:
    """A running `ssjf engine`."""

    popen: subprocess.Popen[str]
    url: str

    def allow_steps(self, count: int) -> None:
        """Let a fake pipeline go on."""
        assert self.popen.stdin is not None
        self.popen.stdin.write("." * count)
        self.popen.stdin.flush()


def environment() -> dict[str, str]:
    """For processes that import this checkout."""
    return os.environ | {"PYTHONPATH": os.pathsep.join([str(ROOT), str(ROOT / "src")])}


@contextlib.contextmanager
def process(arguments: list[str], *, announces: str = r"http://\S+") -> Iterator[Process]:
    """Start a Python process that serves, and wait until it says where."""
    command = [sys.executable, *arguments]
    pipes = {"stdin": subprocess.PIPE, "stderr": subprocess.PIPE}
    with subprocess.Popen(command, text=True, env=environment(), **pipes) as popen:
        try:
            assert popen.stderr is not None
            for line in popen.stderr:
                if (found := re.search(announces, line)) is not None:
                    yield Process(popen, found.group())
                    break
            else:
                pytest.fail(f"the server ended with {popen.wait()}")
        finally:
            popen.kill()


@pytest.fixture(scope="session")
def bundled() -> Iterator[str]:
    """The URL of an engine with the bundled model."""
    with process(["-m", "ssjf", "engine", "--port", "0", "--max-num-seqs", "8"]) as engine:
        yield engine.url
