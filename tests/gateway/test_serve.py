"""`ssjf serve` as a process: signals, exit codes, messages."""

import asyncio
import contextlib
import re
import signal
import socket
import sys
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import aiohttp
import pytest
import typer

from ssjf.cli.serve import serve
from ssjf.config import ServeSettings
from ssjf.errors import UserError
from ssjf.gateway.serve import EngineCommand
from tests.gateway.fake_engine import FakeEngine


@dataclass
class Served:
    process: asyncio.subprocess.Process
    url: str
    log: list[str]

    async def says(self, text: str) -> None:
        """Read what it logs until this comes."""
        assert self.process.stderr is not None
        while text not in "".join(self.log):
            line = await self.process.stderr.readline()
            assert line, "".join(self.log)
            self.log.append(line.decode())


async def start(*options: str) -> asyncio.subprocess.Process:
    command = [sys.executable, "-m", "ssjf", "serve", "--predictor", "constant", *options]
    return await asyncio.create_subprocess_exec(*command, stderr=asyncio.subprocess.PIPE)


@contextlib.asynccontextmanager
async def serving(*options: str) -> AsyncIterator[Served]:
    process = await start("--port", "0", *options)
    served = Served(process, "", [])
    try:
        await served.says("listening on ")
        found = re.search(r"http://\S+", served.log[-1])
        assert found is not None
        served.url = found.group()
        yield served
    finally:
        with contextlib.suppress(ProcessLookupError):
            process.kill()
        await process.wait()


async def chat(session: aiohttp.ClientSession, url: str) -> int:
    body = {"model": "tiny", "messages": [{"role": "user", "content": "hello"}]}
    async with session.post(f"{url}/v1/chat/completions", json=body) as response:
        await response.read()
        return response.status


async def test_after_sigterm_accepted_requests_finish_new_ones_get_503_and_the_exit_code_is_0() -> None:
    async with (
        FakeEngine().running() as engine,
        serving("--backend", engine.url, "--slots", "1") as served,
        aiohttp.ClientSession() as session,
    ):
        runs = asyncio.create_task(chat(session, served.url))
        await engine.call(1)
        waits = asyncio.create_task(chat(session, served.url))
        while True:
            async with session.get(f"{served.url}/metrics") as response:
                if "ssjf_requests_waiting 1.0" in await response.text():
                    break
        served.process.send_signal(signal.SIGTERM)
        await served.says("draining: 2 requests")
        assert await chat(session, served.url) == 503
        async with session.get(f"{served.url}/healthz") as response:
            assert response.status == 503
            assert (await response.json())["status"] == "draining"
        for number in (1, 2):
            (await engine.call(number)).finish.set()
        assert await runs == await waits == 200
        assert await served.process.wait() == 0


async def test_what_does_not_finish_within_the_limit_is_given_up_and_the_exit_code_is_still_0() -> None:
    async with (
        FakeEngine().running() as engine,
        serving("--backend", engine.url, "--drain-s", "0") as served,
        aiohttp.ClientSession() as session,
    ):
        runs = asyncio.create_task(chat(session, served.url))
        await engine.call(1)
        served.process.send_signal(signal.SIGTERM)
        assert await runs == 503
        assert await served.process.wait() == 0


async def test_a_second_sigterm_ends_at_once() -> None:
    async with (
        FakeEngine().running() as engine,
        serving("--backend", engine.url) as served,
        aiohttp.ClientSession() as session,
    ):
        runs = asyncio.create_task(chat(session, served.url))
        await engine.call(1)
        served.process.send_signal(signal.SIGTERM)
        await served.says("draining")
        served.process.send_signal(signal.SIGTERM)
        assert await served.process.wait() == -signal.SIGTERM
        await asyncio.gather(runs, return_exceptions=True)


async def test_sigterm_while_the_engine_is_starting_ends_both(tmp_path: Path) -> None:
    script = f"""
import sys
from pathlib import Path
from ssjf.cli import main, serve
serve._engine_command = lambda settings: lambda socket: [
    sys.executable, "-c", "import pathlib, signal; pathlib.Path({str(tmp_path / "up")!r}).touch(); signal.pause()"
]
sys.argv = ["ssjf", "serve", "--port", "0", "--predictor", "constant"]
main.main()
"""
    process = await asyncio.create_subprocess_exec(sys.executable, "-c", script, stderr=asyncio.subprocess.PIPE)
    while not (tmp_path / "up").exists():
        await asyncio.sleep(0.01)
    process.terminate()
    _, log = await process.communicate()
    assert process.returncode == 0, log.decode()
    assert b"Traceback" not in log


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"policy": "sjf"}, "knows the true lengths"),
        ({"policy": "psjf"}, "a gateway cannot"),
        ({"policy": "nonsense"}, "no policies named 'nonsense'"),
        ({"shadow": "sjf"}, "knows the true lengths"),
        ({"backend": "nonsense"}, "is http://HOST:PORT"),
        ({"model": "x"}, "--model is for the embedded engine"),
        ({"slots": 0}, "slots"),
        ({"predictor": "nonsense"}, "nonsense"),
        ({"host": "no.such.host.invalid"}, "cannot listen on"),
    ],
)
def test_what_cannot_work_is_an_error_of_the_user_that_says_so(options: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        serve(**({"backend": "http://127.0.0.1:9", "port": 0} | options))


async def test_a_port_that_is_taken_is_one_line_and_exit_code_2() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        process = await start("--backend", "http://127.0.0.1:9", "--port", str(taken.getsockname()[1]))
        _, log = await process.communicate()
    assert process.returncode == 2
    assert "cannot listen on" in log.decode()
    assert len(log.decode().splitlines()) == 1


@pytest.mark.parametrize("slots", [None, "auto", "8"])
def test_the_embedded_engine_is_started_with_as_many_places_as_it_is_given(
    monkeypatch: pytest.MonkeyPatch, slots: str | None
) -> None:
    seen: list[tuple[Any, Sequence[str]]] = []

    def see(settings: ServeSettings, *, engine_command: EngineCommand, **_: Any) -> int:
        seen.append((settings.slots, engine_command(Path("socket"))))
        return 0

    monkeypatch.setattr("ssjf.gateway.serve.serve", see)
    with pytest.raises(typer.Exit):
        serve(slots=slots)
    ((places, command),) = seen
    assert places == 8
    assert command[command.index("--max-num-seqs") + 1] == "8"
