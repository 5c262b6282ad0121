"""vLLM's own API server, started and stopped."""

import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import httpx

ROOT = Path(__file__).parents[2]
START_S = 240  # on a loaded machine
FRONT_DOOR = ["--scheduling-policy", "priority", "--middleware", "ssjf.integrations.vllm.SSJFMiddleware"]
SCHEDULER = ["--scheduler-cls", "ssjf.integrations.vllm.SSJFScheduler"]


def command(model: Path, port: int, *options: str) -> list[str]:
    """The words that start a server of one model, called tiny."""
    return [
        *(sys.executable, "-m", "vllm.entrypoints.openai.api_server", "--model", str(model)),
        *("--served-model-name", "tiny", "--host", "127.0.0.1", "--port", str(port), "--enforce-eager"),
        *("--dtype", "float32", "--max-model-len", "1024", *options),
    ]


def environment(settings: Mapping[str, str]) -> dict[str, str]:
    """This process's, but with the engine in a process of its own, and with settings."""
    inherited = {name: value for name, value in os.environ.items() if name != "VLLM_ENABLE_V1_MULTIPROCESSING"}
    return inherited | {"PYTHONPATH": str(ROOT)} | {f"SSJF_VLLM_{name.upper()}": settings[name] for name in settings}


def free_port() -> int:
    """A port of this host that nobody has at the moment."""
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        port: int = sock.getsockname()[1]
        return port


@contextmanager
def serving(model: Path, log: Path, *options: str, settings: Mapping[str, str]) -> Iterator[str]:
    """A server that answers, by its address.

    Args:
        model: folder of the model.
        log: file that takes what the server says.
        options: of the command line.
        settings: SSJF_VLLM_..., by their names without that.
    """
    port = free_port()
    url = f"http://127.0.0.1:{port}"
    words, variables = command(model, port, *options), environment(settings)
    with log.open("wb") as output:
        server = subprocess.Popen(words, env=variables, stdout=output, stderr=output, cwd=ROOT)
        try:
            _wait_until_healthy(url, server, log)
            yield url
        finally:
            server.terminate()
            server.wait(60)


def _wait_until_healthy(url: str, server: "subprocess.Popen[bytes]", log: Path) -> None:
    give_up_at = time.monotonic() + START_S
    while True:
        try:
            if httpx.get(f"{url}/health", timeout=5).status_code == 200:
                return
        except httpx.TransportError:
            pass
        assert server.poll() is None, log.read_text()[-4000:]
        assert time.monotonic() < give_up_at, log.read_text()[-4000:]
        time.sleep(0.5)
