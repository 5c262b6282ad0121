"""The client that everybody has."""

import asyncio
import shutil

import orjson
import pytest

from tests.gateway.conftest import MakeStack

CURL = shutil.which("curl")
pytestmark = pytest.mark.skipif(CURL is None, reason="curl is not installed")


async def curl(*arguments: str) -> bytes:
    """What curl prints; it must succeed."""
    assert CURL is not None
    process = await asyncio.create_subprocess_exec(
        CURL, "--silent", "--show-error", "--max-time", "60", *arguments, stdout=asyncio.subprocess.PIPE
    )
    printed, _ = await process.communicate()
    assert process.returncode == 0
    return printed


def chat(**fields: object) -> str:
    messages = [{"role": "user", "content": "hello"}]
    return orjson.dumps({"model": "tiny", "messages": messages} | fields).decode()


async def test_curl_gets_a_stream_to_its_end(make_stack: MakeStack) -> None:
    async with make_stack(automatic=True) as stack:
        url = f"{stack.url}/v1/chat/completions"
        printed = await curl("--no-buffer", url, "--json", chat(stream=True))
        *events, done, end = printed.decode().split("\n\n")
    words = [orjson.loads(event.removeprefix("data: "))["choices"][0]["delta"]["content"] for event in events]
    assert words == ["word "] * 3
    assert (done, end) == ("data: [DONE]", "")


async def test_curl_gets_an_answer_in_one_piece(make_stack: MakeStack) -> None:
    async with make_stack(automatic=True) as stack:
        printed = await curl(f"{stack.url}/v1/chat/completions", "--json", chat())
    assert orjson.loads(printed)["usage"]["completion_tokens"] == 3


@pytest.mark.parametrize(
    ("path", "body", "status", "code"),
    [
        ("/v1/chat/completions", "{", 400, "invalid_json"),
        ("/nothing/here", "{}", 404, "not_found"),
        ("/v1/chat/completions", chat(messages="x" * 3000), 413, "body_too_large"),
    ],
)
async def test_curl_sees_errors_in_openais_shape(
    make_stack: MakeStack, path: str, body: str, status: int, code: str | None
) -> None:
    async with make_stack(automatic=True, max_body_mb=0.002) as stack:
        printed = await curl(stack.url + path, "--json", body, "--write-out", "\n%{http_code}")
    answer, _, shown = printed.rpartition(b"\n")
    assert int(shown) == status
    error = orjson.loads(answer)["error"]
    assert set(error) == {"message", "type", "param", "code"}
    assert error["code"] == code
