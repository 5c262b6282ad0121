"""`ssjf serve` as a user starts it: the gateway, the embedded engine as its child, the bundled model, real clients."""

import asyncio
import contextlib
import io
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import aiohttp
import openai
import pytest

pytest.importorskip("openvino_genai")

HELLO = [{"role": "user", "content": "Name three animals."}]
LONG = [{"role": "user", "content": "Tell a long story about a fox."}]


@contextlib.contextmanager
def serving(*options: str) -> Iterator[tuple[str, subprocess.Popen[str]]]:
    command = [sys.executable, "-m", "ssjf", "serve", "--port", "0", "--accept-hints", *options]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    assert process.stderr is not None
    said = ""
    try:
        while (found := re.search(r"listening on (http://\S+)", said)) is None:
            line = process.stderr.readline()
            assert line, said
            said += line
        yield found.group(1), process
    finally:
        process.terminate()
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.communicate(timeout=120)
        process.kill()


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    with serving("--slots", "4") as (url, _):
        yield url


@pytest.fixture
def client(url: str) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=f"{url}/v1", api_key="none", max_retries=0) as client:
        yield client


async def gauges(session: aiohttp.ClientSession, url: str) -> dict[str, float]:
    async with session.get(f"{url}/metrics") as response:
        return {n: float(v) for n, v in re.findall(r"^(\S+) (\S+)$", await response.text(), re.MULTILINE)}


def test_the_openai_client_chats_completes_and_streams(client: openai.OpenAI) -> None:
    model = client.models.list().data[0].id
    chat = client.chat.completions.create(model=model, messages=HELLO, temperature=0, max_tokens=200)
    assert chat.choices[0].finish_reason == "stop"
    assert chat.usage is not None
    text = client.completions.create(model=model, prompt="Name three animals.\n", max_tokens=5)
    assert text.usage is not None
    assert text.usage.completion_tokens <= 5
    stream = client.chat.completions.create(
        model=model, messages=HELLO, temperature=0, max_tokens=200, stream=True, stream_options={"include_usage": True}
    )
    chunks = list(stream)
    streamed = "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices)
    assert streamed == chat.choices[0].message.content
    assert chunks[-1].usage is not None
    assert chunks[-1].usage.completion_tokens == chat.usage.completion_tokens
    plain = list(client.chat.completions.create(model=model, messages=HELLO, max_tokens=5, stream=True))
    assert all(chunk.usage is None for chunk in plain)


async def test_after_an_aborted_stream_the_slot_is_free(url: str) -> None:
    async with openai.AsyncOpenAI(base_url=f"{url}/v1", api_key="none") as client, aiohttp.ClientSession() as session:
        before = await gauges(session, url)
        model = (await client.models.list()).data[0].id
        stream = await client.chat.completions.create(
            model=model, messages=LONG, stream=True, extra_body={"ignore_eos": True}
        )
        await anext(aiter(stream))
        await stream.close()
        cancelled = 'ssjf_requests_total{outcome="cancelled"}'
        while (now := await gauges(session, url))["ssjf_requests_running"] > 0:
            pass
        assert now[cancelled] == before[cancelled] + 1


async def test_two_hundred_concurrent_streams_all_end_properly(url: str) -> None:
    async def one(session: aiohttp.ClientSession, number: int) -> bytes:
        messages = [{"role": "user", "content": f"Count from 1 to {number % 9 + 1}."}]
        body = {"messages": messages, "max_tokens": 12, "stream": True}
        async with session.post(f"{url}/v1/chat/completions", json=body) as response:
            assert response.status == 200
            return await response.read()

    connector = aiohttp.TCPConnector(limit=0)
    async with aiohttp.ClientSession(connector=connector) as session:
        answers = await asyncio.gather(*(one(session, number) for number in range(200)))
    assert all(answer.endswith(b"data: [DONE]\n\n") for answer in answers)
    assert all(re.search(rb'"finish_reason":"(stop|length)"', answer) for answer in answers)


CHAT = "/v1/chat/completions"
BAD: list[tuple[str, dict[str, Any], int]] = [
    ("unknown model", {"model": "nobody"}, 404),
    ("no messages", {"messages": []}, 400),
    ("messages of a wrong type", {"messages": 5}, 400),
    ("a prompt longer than the context", {"messages": [{"role": "user", "content": "fox " * 4000}]}, 400),
    ("max_tokens 0", {"max_tokens": 0}, 400),
    ("max_tokens -1", {"max_tokens": -1}, 400),
    ("max_tokens 10^9", {"max_tokens": 10**9}, 400),
    ("max_completion_tokens 0", {"max_completion_tokens": 0}, 400),
    ("n > 1", {"n": 2, "stream": True}, 400),
    ("tools", {"tools": [{"type": "function", "function": {"name": "f"}}]}, 400),
    ("top logprobs", {"logprobs": True, "top_logprobs": 3}, 400),
    ("another response format", {"response_format": {"type": "json_object"}}, 400),
    ("temperature of a wrong type", {"temperature": "hot"}, 400),
]


@pytest.mark.parametrize(("fields", "status"), [case[1:] for case in BAD], ids=[case[0] for case in BAD])
async def test_bad_input_is_a_clear_4xx_and_the_next_request_is_served(
    url: str, fields: dict[str, Any], status: int
) -> None:
    async with aiohttp.ClientSession() as session:
        async with session.post(url + CHAT, json={"messages": HELLO, "max_tokens": 5} | fields) as response:
            assert response.status == status
            error = (await response.json())["error"]
            assert set(error) == {"message", "type", "param", "code"}
        async with session.post(url + CHAT, json={"messages": HELLO, "max_completion_tokens": 5}) as response:
            assert response.status == 200
            assert (await response.json())["usage"]["completion_tokens"] <= 5


@pytest.mark.parametrize(
    ("body", "headers", "status"),
    [
        (b'{"messages": [', {}, 400),
        (b'{"messages": [{"role": "user", "content": "hi"}], "temperature": NaN}', {}, 400),
        (b'{"prompt": "' + b"x" * 20 * 2**20 + b'"}', {}, 413),
        (b'{"messages": [{"role": "user", "content": "hi"}]}', {"x-ssjf-output-tokens": "few"}, 400),
    ],
    ids=["broken JSON", "NaN", "20 MB", "a hint that is not a number"],
)
async def test_bodies_and_hints_that_make_no_sense_are_refused(
    url: str, body: bytes, headers: dict[str, str], status: int
) -> None:
    async with (
        aiohttp.ClientSession() as session,
        session.post(url + CHAT, data=io.BytesIO(body), headers=headers) as response,
    ):
        assert response.status == status
        assert (await response.json())["error"]["message"]


async def test_sigterm_lets_running_answers_finish_refuses_new_ones_and_exits_0() -> None:
    with serving("--slots", "1") as (url, process):
        async with aiohttp.ClientSession() as session:
            body = {"messages": LONG, "max_tokens": 400, "ignore_eos": True, "stream": True}
            async with session.post(url + CHAT, json=body) as running:
                await running.content.readline()
                process.send_signal(signal.SIGTERM)
                while True:
                    async with session.post(url + CHAT, json={"messages": HELLO, "max_tokens": 1}) as refused:
                        if refused.status == 503:
                            break
                assert (await running.read()).endswith(b"data: [DONE]\n\n")
        assert await asyncio.to_thread(process.wait, 60) == 0
