"""The HTTP interface, with a pipeline that does what the test says."""

import asyncio
import io
from typing import Any

import aiohttp
import orjson
import pytest

from ssjf.engine.server import MAX_BODY_BYTES
from tests.engine.conftest import Served, eventually, serving
from tests.engine.engine_fakes import FakePipeline

HELLO = FakePipeline(lambda _: "hé😀 wo".encode() + b"\0")


async def post(served: Served, path: str, **body: Any) -> tuple[int, Any]:
    async with served.http.post(served.url + path, json=body) as response:
        return response.status, await response.json()


async def events(response: aiohttp.ClientResponse) -> list[Any]:
    text = (await response.read()).decode()
    payloads = [event.removeprefix("data: ") for event in text.split("\n\n") if event]
    return [payload if payload == "[DONE]" else orjson.loads(payload) for payload in payloads]


async def metric(served: Served, name: str) -> float:
    async with served.http.get(served.url + "/metrics") as response:
        lines = (await response.text()).splitlines()
    return float(next(line.rpartition(" ")[2] for line in lines if line.startswith(name + " ")))


async def test_a_chat_answer_is_whole_and_counted() -> None:
    async with serving(FakePipeline(HELLO.answer)) as served:
        messages = [{"role": "user", "content": "hi"}]
        headers = {"x-request-id": "abc"}
        body = {"messages": messages}
        async with served.http.post(served.url + "/v1/chat/completions", json=body, headers=headers) as response:
            answer = await response.json()
            assert response.headers["x-request-id"] == "abc"
    assert answer["object"] == "chat.completion"
    assert answer["choices"][0]["message"] == {"role": "assistant", "content": "hé😀 wo"}
    assert answer["choices"][0]["finish_reason"] == "stop"
    assert answer["usage"] == {"prompt_tokens": 7, "completion_tokens": 11, "total_tokens": 18}


@pytest.mark.parametrize("path", ["/v1/chat/completions", "/v1/completions"])
async def test_a_stream_is_the_same_answer_in_pieces(path: str) -> None:
    body = {"stream": True, "stream_options": {"include_usage": True}, "prompt": "p"}
    body["messages"] = [{"role": "user", "content": "p"}]
    async with (
        serving(FakePipeline(HELLO.answer)) as served,
        served.http.post(served.url + path, json=body) as response,
    ):
        assert response.headers["content-type"] == "text/event-stream; charset=utf-8"
        *pieces, usage, done = await events(response)
    assert done == "[DONE]"
    assert usage["choices"] == []
    assert usage["usage"]["completion_tokens"] == 11
    choices = [piece["choices"][0] for piece in pieces]
    texts = [choice["delta"]["content"] if "delta" in choice else choice["text"] for choice in choices]
    assert "".join(texts) == "hé😀 wo"
    assert not any("\ufffd" in text for text in texts)
    assert [choice["finish_reason"] for choice in choices][-1] == "stop"
    assert all(choice["finish_reason"] is None for choice in choices[:-1])
    if "delta" in choices[0]:
        assert [choice["delta"].get("role") for choice in choices] == ["assistant"] + [None] * (len(choices) - 1)


BAD_BODIES = {
    "broken JSON": b'{"prompt": "a"',
    "a list": b"[]",
    "NaN": b'{"prompt": "a", "temperature": NaN}',
    "infinity": b'{"prompt": "a", "temperature": 1e999}',
    "invalid UTF-8": b'{"prompt": "\xff"}',
    "a lone surrogate": b'{"prompt": "\\ud800"}',
    "too deep": b'{"prompt": ' + b"[" * 5000 + b"]" * 5000 + b"}",
    "nothing": b"",
    "empty prompt": b'{"prompt": ""}',
    "too long a prompt": b'{"prompt": "' + b"a" * 200 + b'"}',
    "tools": b'{"prompt": "a", "tools": [1]}',
}


@pytest.mark.parametrize("name", BAD_BODIES)
async def test_bad_input_is_a_400_in_openais_shape_and_the_next_request_is_served(name: str) -> None:
    async with serving(FakePipeline()) as served:
        async with served.http.post(served.url + "/v1/completions", data=BAD_BODIES[name]) as response:
            assert response.status == 400
            error = (await response.json())["error"]
            assert error["type"] == "invalid_request_error"
            assert {"message", "type", "param", "code"} == error.keys()
        status, answer = await post(served, "/v1/completions", prompt="a", max_tokens=3)
        assert (status, answer["choices"][0]["text"]) == (200, "xxx")


async def test_a_body_over_the_limit_is_a_413() -> None:
    async with serving(FakePipeline()) as served:
        body = b'{"prompt": "' + b"a" * (MAX_BODY_BYTES + 12 * 2**20) + b'"}'
        async with served.http.post(served.url + "/v1/completions", data=io.BytesIO(body)) as response:
            assert response.status == 413
            assert (await response.json())["error"]["code"] == "body_too_large"
        assert (await post(served, "/v1/completions", prompt="a", max_tokens=3))[0] == 200


@pytest.mark.parametrize(("method", "path", "status"), [("POST", "/v1/nothing", 404), ("GET", "/", 404),
                                                       ("GET", "/v1/completions", 405), ("DELETE", "/v1/models", 405),
                                                       ("POST", "/health", 405)])  # fmt: skip
async def test_unknown_paths_and_methods_are_refused_in_openais_shape(method: str, path: str, status: int) -> None:
    async with serving(FakePipeline()) as served, served.http.request(method, served.url + path) as response:
        assert response.status == status
        assert (await response.json())["error"]["type"] == "invalid_request_error"


async def test_an_unknown_model_is_a_404() -> None:
    async with serving(FakePipeline()) as served:
        status, body = await post(served, "/v1/completions", prompt="a", model="gpt-4")
        assert (status, body["error"]["code"]) == (404, "model_not_found")


@pytest.mark.parametrize("stream", [False, True])
async def test_a_client_that_leaves_before_the_first_byte_frees_its_slot(stream: bool) -> None:
    pipeline = FakePipeline(free_running=False)
    async with serving(pipeline, max_num_seqs=1) as served:
        body = {"prompt": "gone", "stream": stream}
        leaving = asyncio.create_task(served.http.post(served.url + "/v1/completions", json=body))
        waiting = asyncio.create_task(served.http.post(served.url + "/v1/completions", json=body | {"prompt": "also"}))
        await eventually(lambda: served.engine.num_running + served.engine.num_waiting == 2)
        leaving.cancel()
        waiting.cancel()
        await served.until_slots_are_free(pipeline)
        pipeline.allow(100)
        assert (await post(served, "/v1/completions", prompt="next", max_tokens=3))[0] == 200
        assert await metric(served, 'ssjf_engine_requests_total{outcome="cancelled"}') == 2


async def test_a_client_that_leaves_in_the_middle_of_a_stream_frees_its_slot() -> None:
    pipeline = FakePipeline(free_running=False)
    async with serving(pipeline, max_num_seqs=1) as served:
        response = await _first_piece(served, pipeline)
        assert await metric(served, "ssjf_engine_num_requests_running") == 1
        response.close()
        await served.until_slots_are_free(pipeline)
        assert await metric(served, "ssjf_engine_num_requests_running") == 0
        pipeline.allow(100)
        assert (await post(served, "/v1/completions", prompt="next", max_tokens=3))[0] == 200


async def test_a_fault_is_an_error_event_in_a_stream_and_a_500_otherwise() -> None:
    pipeline = FakePipeline(free_running=False)
    pipeline.fault_at_step = 2
    async with serving(pipeline, max_num_seqs=1) as served:
        response = await _first_piece(served, pipeline)
        whole = asyncio.create_task(post(served, "/v1/completions", prompt="w"))
        await eventually(lambda: served.engine.num_waiting == 1)
        pipeline.allow(1)
        *_, error = await events(response)
        assert error["error"]["type"] == "server_error"
        assert "injected fault" in error["error"]["message"]
        status, body = await whole
        assert (status, body["error"]["code"]) == (500, "engine_error")
        async with served.http.get(served.url + "/healthz") as health:
            assert health.status == 503
            assert (await health.json())["status"] == "failed"


async def test_a_draining_server_takes_nothing_new() -> None:
    async with serving(FakePipeline()) as served:
        served.service.draining = True
        status, body = await post(served, "/v1/completions", prompt="a")
        assert (status, body["error"]["type"]) == (503, "service_unavailable")
        async with served.http.get(served.url + "/health") as health:
            assert health.status == 503


async def test_models_health_and_metrics_tell_the_state() -> None:
    async with serving(FakePipeline(), max_num_seqs=3) as served:
        await post(served, "/v1/completions", prompt="abc", max_tokens=5)
        async with served.http.get(served.url + "/v1/models") as response:
            model = (await response.json())["data"][0]
            assert (model["id"], model["max_model_len"]) == ("fake", 100)
        async with served.http.get(served.url + "/health") as response:
            assert await response.json() == {"status": "ok", "model": "fake", "max_num_seqs": 3}
        expected = {"max_num_seqs": 3, "num_requests_running": 0, "num_requests_waiting": 0, "prompt_tokens_total": 3,
                    "generation_tokens_total": 5, "steps_total": 5, 'requests_total{outcome="length"}': 1}  # fmt: skip
        assert {name: await metric(served, f"ssjf_engine_{name}") for name in expected} == expected
        assert await metric(served, "process_resident_memory_bytes") > 0


async def _first_piece(served: Served, pipeline: FakePipeline) -> aiohttp.ClientResponse:
    """A stream of which the first piece has come, and no more will come unasked."""
    pipeline.allow(1)
    response = await served.http.post(served.url + "/v1/completions", json={"prompt": "s", "stream": True})
    assert b'"text":"x"' in await response.content.readuntil(b"\n\n")
    return response


async def test_after_a_bug_the_connection_is_said_to_be_closed(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: Any, **__: Any) -> None:
        raise RuntimeError("a bug")

    async with serving(FakePipeline(HELLO.answer)) as served:
        monkeypatch.setattr(served.service.tokenizer, "encode", fail)
        async with served.http.post(served.url + "/v1/completions", json={"prompt": "hi"}) as response:
            assert (response.status, (await response.json())["error"]["code"]) == (500, "internal_error")
            assert response.headers["connection"] == "close"
