"""vLLM's own server over HTTP, with the front door and without: the same answers, the same errors, another order."""

import asyncio
import os
import re
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import openai
import pytest

ROOT = Path(__file__).parents[2]
START_S = 240  # on a loaded machine
WITH_US = ["--scheduling-policy", "priority", "--middleware", "tests.vllm.observing.ObservingMiddleware"]


def _serve(model: Path, log: Path, *options: str) -> Iterator[str]:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        port = sock.getsockname()[1]
    env = {name: value for name, value in os.environ.items() if name != "VLLM_ENABLE_V1_MULTIPROCESSING"}
    env |= {"PYTHONPATH": str(ROOT), "SSJF_VLLM_POLICY": "ssjf", "SSJF_VLLM_ACCEPT_HINTS": "true"}
    command = [sys.executable, "-m", "vllm.entrypoints.openai.api_server", "--model", str(model)]
    command += ["--served-model-name", "tiny", "--host", "127.0.0.1", "--port", str(port), "--enforce-eager"]
    command += ["--dtype", "float32", "--max-model-len", "1024", "--max-num-seqs", "1", *options]
    with log.open("wb") as output, subprocess.Popen(command, env=env, stdout=output, stderr=output, cwd=ROOT) as server:
        try:
            _wait_until_healthy(f"http://127.0.0.1:{port}", server, log)
            yield f"http://127.0.0.1:{port}"
        finally:
            server.terminate()


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


@pytest.fixture(scope="module")
def plain(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    yield from _serve(tiny_model, tmp_path_factory.mktemp("plain") / "log")


@pytest.fixture(scope="module")
def ours(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    yield from _serve(tiny_model, tmp_path_factory.mktemp("ours") / "log", *WITH_US)


def _client(url: str) -> openai.AsyncOpenAI:
    return openai.AsyncOpenAI(base_url=f"{url}/v1", api_key="none", timeout=120, max_retries=0)


async def _answers(url: str) -> list[str]:
    async with _client(url) as client:
        messages = [{"role": "user", "content": "Explain how a compiler works."}]
        whole = await client.completions.create(model="tiny", prompt="Name a colour.", max_tokens=12, temperature=0)
        chat = await client.chat.completions.create(model="tiny", messages=messages, max_tokens=12, temperature=0)  # type: ignore[arg-type]
        stream = await client.chat.completions.create(
            model="tiny",
            messages=messages,
            max_tokens=12,
            temperature=0,
            stream=True,  # type: ignore[arg-type]
        )
        pieces = [chunk.choices[0].delta.content or "" async for chunk in stream if chunk.choices]
        assert len(pieces) > 3
        return [whole.choices[0].text, chat.choices[0].message.content or "", "".join(pieces)]


async def test_the_openai_client_gets_the_same_answers_through_us(plain: str, ours: str) -> None:
    answers = await _answers(ours)
    assert answers == await _answers(plain)
    assert answers[1] == answers[2] != ""


BAD = [
    b"",
    b"{",
    b"[]",
    b"\xff\xfe",
    b'{"model": "tiny"}',
    b'{"model": "other", "prompt": "x", "messages": []}',
    b'{"model": "tiny", "prompt": 5, "messages": 5}',
    b'{"model": "tiny", "prompt": "x", "messages": [], "max_tokens": -1}',
]


@pytest.mark.parametrize("path", ["/v1/completions", "/v1/chat/completions", "/v1/responses"])
@pytest.mark.parametrize("body", BAD)
async def test_a_malformed_body_gets_vllm_s_own_error(plain: str, ours: str, path: str, body: bytes) -> None:
    async with httpx.AsyncClient(timeout=60, headers={"content-type": "application/json"}) as client:
        with_us, without = [await client.post(url + path, content=body) for url in (ours, plain)]
    assert with_us.status_code == without.status_code >= 400
    assert with_us.json() == without.json()


async def _waiting(client: httpx.AsyncClient, url: str, count: int) -> None:
    while True:
        text = (await client.get(f"{url}/metrics")).text
        found = re.search(r"^vllm:num_requests_waiting\{.*\} (\S+)$", text, re.MULTILINE)
        if found is not None and float(found[1]) == count:
            return
        await asyncio.sleep(0.02)


async def _order(url: str, hints: list[int]) -> list[int]:
    """Indices in the order of finishing, of requests that come one after the other while the only slot is taken."""
    finished: list[int] = []
    async with _client(url) as client, httpx.AsyncClient(timeout=60) as metrics:

        async def ask(index: int, hint: int) -> None:
            headers = {"x-ssjf-output-tokens": str(hint), "x-vllm-priority": str(-index)}
            await client.completions.create(model="tiny", prompt="Sea", max_tokens=40, extra_headers=headers)
            finished.append(index)

        stream = await client.completions.create(
            model="tiny", prompt="Sea", max_tokens=900, stream=True, extra_body={"ignore_eos": True}
        )
        tasks = []
        for index, hint in enumerate(hints):
            tasks.append(asyncio.create_task(ask(index, hint)))
            await _waiting(metrics, url, index + 1)
        async for _ in stream:
            pass
        await asyncio.gather(*tasks)
    return finished


async def test_the_shortest_predicted_is_served_first_whatever_priority_clients_send(plain: str, ours: str) -> None:
    hints = [30, 10, 40, 20]
    assert await _order(ours, hints) == [1, 3, 0, 2]
    assert await _order(plain, hints) == [0, 1, 2, 3]


async def test_the_front_door_learns_true_lengths_from_vllm_s_books(ours: str) -> None:
    async with _client(ours) as client, httpx.AsyncClient(timeout=60) as http:
        before = (await http.get(f"{ours}/learned")).json()
        await client.completions.create(model="tiny", prompt="Sea", max_tokens=5)
        messages = [{"role": "user", "content": "Sea"}]
        await client.chat.completions.create(model="tiny", messages=messages, max_tokens=5)  # type: ignore[arg-type]
        while True:
            if (await http.get(f"{ours}/learned")).json() >= before + 2:
                break
            await asyncio.sleep(0.02)
