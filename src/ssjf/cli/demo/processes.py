"""Child processes of the demonstration: each a server on a loopback port of its own, ended with the block it is for.

This module does not know what the servers do.
"""

import asyncio
import contextlib
import socket
import sys
from collections.abc import AsyncIterator, Sequence
from pathlib import Path

import aiohttp

from ssjf.errors import BackendError

_READY_WITHIN_S = 120.0  # loading a model on a busy machine
_ENDS_WITHIN_S = 10.0
_ASK_EVERY_S = 0.1


@contextlib.asynccontextmanager
async def running_server(command: str, options: Sequence[str], *, log: Path) -> AsyncIterator[str]:
    """Run `ssjf COMMAND OPTIONS` on a free loopback port while the block lasts.

    Args:
        command: a subcommand that serves ``/healthz``.
        options: its options, without the port.
        log: gets what the server prints.

    Yields:
        The server's URL, once it says that it is healthy.

    Raises:
        BackendError: the server ended, or was not ready in time; with its last words.
    """
    port = _free_port()
    url = f"http://127.0.0.1:{port}"
    with log.open("wb") as output:
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "ssjf", command, "--host", "127.0.0.1", "--port", str(port), *options),
            stdin=asyncio.subprocess.DEVNULL,
            stdout=output,
            stderr=output,
        )
    try:
        await _wait_until_healthy(url, process, f"`ssjf {command}`", log)
        yield url
    finally:
        await _end(process)


async def _wait_until_healthy(url: str, process: asyncio.subprocess.Process, name: str, log: Path) -> None:
    deadline = asyncio.get_running_loop().time() + _READY_WITHIN_S
    async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=5)) as session:
        while process.returncode is None:
            with contextlib.suppress(aiohttp.ClientError, TimeoutError):
                async with session.get(f"{url}/healthz") as response:
                    if response.status == 200:
                        return
            if asyncio.get_running_loop().time() > deadline:
                raise BackendError(f"{name} was not ready within {_READY_WITHIN_S:g} s; see {log}")
            await asyncio.sleep(_ASK_EVERY_S)
    raise BackendError(f"{name} ended before it was ready: {_last_line(log)} (see {log})")


async def _end(process: asyncio.subprocess.Process) -> None:
    with contextlib.suppress(ProcessLookupError):
        process.terminate()
    try:
        await asyncio.wait_for(process.wait(), _ENDS_WITHIN_S)
    except TimeoutError:
        process.kill()
        await process.wait()


def _last_line(log: Path) -> str:
    lines = log.read_text(errors="replace").strip().splitlines()
    return lines[-1] if lines else "it said nothing"


def _free_port() -> int:
    # Another process may take the port before the child does; then the child ends and says so.
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
