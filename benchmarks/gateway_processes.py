"""Processes of the benchmarks of the gateway: each on the core that it was given, watched from outside."""

import contextlib
import json
import os
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

_TICK_S = 1 / os.sysconf("SC_CLK_TCK")
_PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")
_START_S = 120.0

KEY = "sk-benchmark"


class Process:
    """One running server.

    Args:
        popen: its process.
        port: where it listens.
    """

    def __init__(self, popen: subprocess.Popen[str], port: int) -> None:
        self.pid = popen.pid
        self.port = port

    def cpu_s(self) -> float:
        """Processor seconds of all its threads so far."""
        fields = Path(f"/proc/{self.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) * _TICK_S

    def rss_bytes(self) -> int:
        """Memory that it holds."""
        return int(Path(f"/proc/{self.pid}/statm").read_text().split()[1]) * _PAGE_BYTES


@contextlib.contextmanager
def running(
    command: Sequence[str], core: int, *, port: int | None = None, env: dict[str, str] | None = None
) -> Iterator[Process]:
    """A server, ready to answer on its port; ended on leaving.

    Args:
        command: starts it; without `port` it must print the port that it has chosen as its first line.
        core: the only one it may use.
        port: where it will listen.
        env: variables besides ours.
    """
    popen = subprocess.Popen(
        ["taskset", "-c", str(core), *command],
        stdout=subprocess.PIPE if port is None else subprocess.DEVNULL,
        stderr=None if port is None else subprocess.DEVNULL,
        text=True,
        env=os.environ | (env or {}),
    )
    try:
        if port is None:
            assert popen.stdout is not None
            port = int(popen.stdout.readline())
        _await_answer(popen, port)
        yield Process(popen, port)
    finally:
        popen.terminate()
        try:
            popen.wait(10)
        except subprocess.TimeoutExpired:
            popen.kill()
            popen.wait()


def _await_answer(popen: subprocess.Popen[str], port: int) -> None:
    deadline = time.monotonic() + _START_S
    request = urllib.request.Request(f"http://127.0.0.1:{port}/v1/models", headers={"authorization": f"Bearer {KEY}"})
    while True:
        try:
            with urllib.request.urlopen(request, timeout=10):
                return
        except OSError:
            if popen.poll() is not None or time.monotonic() > deadline:
                sys.exit(f"the server on port {port} did not start: {popen.args}")
            time.sleep(0.2)


def free_port() -> int:
    """A port that nobody uses now."""
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return int(sock.getsockname()[1])


def upstream(core: int) -> contextlib.AbstractContextManager[Process]:
    """The engine that streams as told."""
    return running([sys.executable, "-m", "benchmarks.gateway_upstream"], core)


def passthrough(core: int, engine: Process) -> contextlib.AbstractContextManager[Process]:
    """The bare pass-through."""
    url = f"http://127.0.0.1:{engine.port}"
    return running([sys.executable, "-m", "benchmarks.gateway_passthrough", url], core)


def gateway(core: int, engine: Process, *options: str) -> contextlib.AbstractContextManager[Process]:
    """`ssjf serve`."""
    port = free_port()
    command = [sys.executable, "-c", "from ssjf.cli.main import main; main()", "serve", "--port", str(port)]
    return running([*command, "--backend", f"http://127.0.0.1:{engine.port}", *options], core, port=port)


def send(core: int, server: Process, **order: float) -> dict[str, Any]:
    """Run the sender against a server; what it measured."""
    names = ("streams", "chunks", "pace", "starts_per_s", "seed")
    command = ["taskset", "-c", str(core), sys.executable, "-m", "benchmarks.gateway_client", str(server.port), KEY]
    done = subprocess.run([*command, *(str(order[name]) for name in names)], stdout=subprocess.PIPE, check=True)
    result: dict[str, Any] = json.loads(done.stdout)
    return result
