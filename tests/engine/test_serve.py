"""How the process starts and ends: signals, faults, sockets and exit codes."""

import asyncio
import contextlib
import signal
import socket
import stat
import subprocess
import sys
import time
from collections.abc import AsyncIterator
from pathlib import Path

import aiohttp
import pytest

from ssjf.engine.serve import EngineSettings, listening_socket
from ssjf.errors import ConfigError
from tests.engine.conftest import Process, environment, process

FAKE = ["-m", "tests.engine.serve_fake"]


@contextlib.asynccontextmanager
async def streaming(engine: Process) -> AsyncIterator[tuple[aiohttp.ClientSession, aiohttp.ClientResponse]]:
    """A stream of twenty pieces, of which the first has come and no more will unasked."""
    engine.allow_steps(1)
    async with aiohttp.ClientSession(engine.url) as http:
        body = {"prompt": "p", "stream": True, "max_tokens": 20}
        async with http.post("/v1/completions", json=body) as response:
            assert b'"text":"x"' in await response.content.readuntil(b"\n\n")
            yield http, response


async def draining(http: aiohttp.ClientSession) -> None:
    """Wait until the server says that it drains."""
    async with asyncio.timeout(60):
        while True:
            async with http.get("/health") as response:
                if response.status == 503:
                    return


async def test_after_sigterm_what_runs_finishes_and_nothing_new_is_taken() -> None:
    with process(FAKE) as engine:
        async with streaming(engine) as (http, response):
            engine.popen.send_signal(signal.SIGTERM)
            await draining(http)
            async with http.post("/v1/completions", json={"prompt": "new"}) as refused:
                assert refused.status == 503
                assert (await refused.json())["error"]["type"] == "service_unavailable"
            engine.allow_steps(19)
            rest = await response.read()
            assert rest.count(b'"text":"x"') == 19
            assert rest.endswith(b"data: [DONE]\n\n")
        assert engine.popen.wait(timeout=60) == 0


async def test_what_runs_past_the_time_limit_is_told_so() -> None:
    with process([*FAKE, "drain_s=0"]) as engine:
        async with streaming(engine) as (_, response):
            engine.popen.send_signal(signal.SIGTERM)
            assert b"shutting down" in await response.read()
        engine.allow_steps(1)  # the step under way ends
        assert engine.popen.wait(timeout=60) == 0


async def test_a_second_sigterm_ends_at_once() -> None:
    with process(FAKE) as engine:
        async with streaming(engine) as (http, _):
            engine.popen.send_signal(signal.SIGTERM)
            await draining(http)
            engine.popen.send_signal(signal.SIGTERM)
            assert engine.popen.wait(timeout=60) == -signal.SIGTERM


async def test_a_fault_is_told_to_the_client_and_ends_the_process_with_1() -> None:
    with process([*FAKE, "fault_at_step=2"]) as engine:
        async with streaming(engine) as (_, response):
            engine.allow_steps(1)
            assert b"injected fault" in await response.read()
        assert engine.popen.wait(timeout=60) == 1
        assert engine.popen.stderr is not None
        assert "injected fault" in engine.popen.stderr.read()


async def test_an_idle_server_ends_at_once_with_0() -> None:
    with process(FAKE) as engine:
        engine.popen.send_signal(signal.SIGINT)
        assert engine.popen.wait(timeout=60) == 0


async def test_it_listens_on_a_unix_socket_that_only_its_user_may_open(tmp_path: Path) -> None:
    path = tmp_path / "engine.sock"
    with socket.socket(socket.AF_UNIX) as left_behind:
        left_behind.bind(str(path))
    with process([*FAKE, f"uds={path}"], announces="unix:.*") as engine:
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
        connector = aiohttp.UnixConnector(str(path))
        async with aiohttp.ClientSession(connector=connector) as http, http.get("http://engine/health") as response:
            assert response.status == 200
        with pytest.raises(ConfigError, match="another process listens"):
            listening_socket(EngineSettings(model="m", uds=path)).__enter__()
        engine.popen.send_signal(signal.SIGTERM)
        assert engine.popen.wait(timeout=60) == 0
    assert not path.exists()


def test_it_ends_when_its_parent_is_gone() -> None:
    starts_and_dies = (
        "import subprocess, sys, time\n"
        "child = subprocess.Popen([sys.executable, '-m', 'tests.engine.serve_fake', 'exit_with_parent=1'],\n"
        "                         stdin=subprocess.PIPE, stderr=subprocess.PIPE)\n"
        "print(child.pid, child.stderr.readline().decode(), flush=True)\n"
    )
    command = [sys.executable, "-c", starts_and_dies]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment()) as parent:
        assert parent.stdout is not None
        # the child shares no pipe with us; its end shows as its address being refused
        _, _, url = parent.stdout.readline().partition(" ")
        host, port = url.strip().removeprefix("http://").split(":")
    with contextlib.suppress(ConnectionRefusedError):
        for _ in range(1000):
            socket.create_connection((host, int(port)), timeout=60).close()
            time.sleep(0.02)
        pytest.fail("it is still there")


@pytest.mark.parametrize("port", ["busy", "forbidden"])
def test_an_address_that_cannot_be_had_is_refused(port: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        host = "127.0.0.1" if port == "busy" else "192.0.2.1"
        settings = EngineSettings(model="m", host=host, port=taken.getsockname()[1])
        with pytest.raises(ConfigError, match="cannot listen on"):
            listening_socket(settings).__enter__()


@pytest.mark.parametrize("content", [None, b"GGUF, but not really"])
def test_a_missing_or_broken_model_is_one_line_and_exit_code_2(content: bytes | None, tmp_path: Path) -> None:
    model = tmp_path / "model.gguf"
    if content is not None:
        model.write_bytes(content)
    command = [sys.executable, "-m", "ssjf", "engine", "--model", str(model), "--port", "0"]
    done = subprocess.run(command, capture_output=True, text=True, env=environment(), check=False)
    assert done.returncode == 2
    assert len(done.stderr.splitlines()) == 1
    assert str(model) in done.stderr
