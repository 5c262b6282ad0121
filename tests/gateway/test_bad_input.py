"""Whatever a client sends, it gets a 4xx in OpenAI's shape, and the next good request is served."""

from typing import Any

import openai
import pytest

from tests.gateway.conftest import MakeStack

CHAT, TEXT = "/v1/chat/completions", "/v1/completions"
GOOD = '{"model": "tiny", "messages": [{"role": "user", "content": "hi"}]'
DEEP = "[" * 1000 + "]" * 1000  # JSON is read 1024 levels deep

BODIES: list[tuple[str, str, int]] = [
    (CHAT, "{", 400),
    (CHAT, "", 400),
    (CHAT, "[]", 400),
    (CHAT, "\xff\xfe", 400),
    (CHAT, '{"model": "tiny", "messages": "hi"}', 400),
    (CHAT, '{"model": "tiny", "messages": []}', 400),
    (CHAT, '{"model": "tiny", "messages": ["hi"]}', 400),
    (CHAT, '{"model": "tiny"}', 400),
    (CHAT, GOOD + ', "max_tokens": [10]}', 400),
    (CHAT, GOOD + ', "max_completion_tokens": 1.5}', 400),
    (CHAT, GOOD + ', "stream": "perhaps"}', 400),
    (CHAT, GOOD + ', "stream": 2}', 400),
    (CHAT, GOOD + ', "stream": [true]}', 400),
    (CHAT, GOOD + ', "temperature": NaN}', 400),
    (CHAT, GOOD + ', "stream": true, "stream_options": 7}', 400),
    (CHAT, GOOD.replace('"tiny"', "5") + "}", 400),
    (CHAT, GOOD + ', "priority": 1, "x": ' + DEEP + "}", 400),
    (CHAT, GOOD + ', "stream": true, "stream_options": {}, "x": ' + DEEP + "}", 400),
    (TEXT, '{"model": "tiny", "prompt": ""}', 400),
    (TEXT, '{"model": "tiny", "prompt": []}', 400),
    (TEXT, '{"model": "tiny", "prompt": 5}', 400),
    (TEXT, '{"model": "tiny"}', 400),
]


def assert_openai_error(payload: Any) -> None:
    assert set(payload["error"]) == {"message", "type", "param", "code"}
    assert payload["error"]["message"]


@pytest.mark.parametrize(("path", "body", "status"), BODIES, ids=lambda value: str(value)[:60])
async def test_a_bad_body_is_refused(make_stack: MakeStack, path: str, body: str, status: int) -> None:
    async with make_stack(automatic=True) as stack:
        async with stack.session.post(stack.url + path, data=body.encode("latin-1")) as response:
            assert response.status == status
            assert_openai_error(await response.json())
        assert stack.engine.calls == []
        async with stack.post() as response:
            assert response.status == 200


@pytest.mark.parametrize(
    ("path", "body"),
    [
        (CHAT, GOOD.replace('"tiny"', '"unheard-of"') + "}"),
        (CHAT, GOOD + ', "max_tokens": -1}'),
        (CHAT, GOOD + ', "max_tokens": 0}'),
        (CHAT, GOOD + ', "max_tokens": "100"}'),
        (CHAT, GOOD + ', "max_tokens": true}'),
        (CHAT, GOOD + ', "max_tokens": 100.0}'),
        (CHAT, GOOD + ', "stream": "off"}'),
        (CHAT, GOOD + ', "stream": 0}'),
        (CHAT, GOOD + ', "prompt": []}'),
        (CHAT, GOOD + ', "x": ' + DEEP + "}"),
        (CHAT, GOOD + ', "response_format": {"type": ' + DEEP + "}}"),
        (CHAT, '{"messages": [{"role": "user", "content": "hi"}, {"role": ' + DEEP + "}]}"),
        (TEXT, '{"model": "tiny", "prompt_embeds": "...", "prompt": null}'),
    ],
)
async def test_what_some_engine_takes_is_for_the_engine_to_judge(make_stack: MakeStack, path: str, body: str) -> None:
    async with make_stack(automatic=True) as stack:
        async with stack.session.post(stack.url + path, data=body) as response:
            assert response.status == 200
        assert len(stack.engine.calls) == 1


@pytest.mark.parametrize("spelled", [1, 1.0, "true", "True", "yes", "1"])
async def test_a_stream_is_one_however_it_is_asked_for(make_stack: MakeStack, spelled: object) -> None:
    async with make_stack(automatic=True) as stack, stack.post(stream=spelled) as response:
        assert response.headers["content-type"] == "text/event-stream"
        assert b'"usage"' not in await response.read()
        assert stack.engine.calls[0].body["stream_options"] == {"include_usage": True}


async def test_a_cap_that_is_written_as_a_float_is_one(make_stack: MakeStack) -> None:
    async with make_stack() as stack:
        sent = stack.chat("hi", max_tokens=7.0)
        call = await stack.engine.call(1)
        (exchange,) = stack.gateway.dispatcher.live
        assert exchange.job.request.max_tokens == 7
        assert dict(exchange.job.request.options)["max_tokens"] == 7
        call.finish.set()
        assert (await sent)[0] == 200


@pytest.mark.parametrize("hint", ["many", "-1", "nan", "inf", ""])
async def test_a_hint_that_is_no_number_of_tokens_is_refused(make_stack: MakeStack, hint: str) -> None:
    async with (
        make_stack(automatic=True, accept_hints=True) as stack,
        stack.post(headers={"x-ssjf-output-tokens": hint}) as response,
    ):
        assert response.status == 400
        assert_openai_error(await response.json())


@pytest.mark.parametrize("chunked", [False, True])
async def test_a_body_over_the_limit_is_refused(make_stack: MakeStack, chunked: bool) -> None:
    async with make_stack(automatic=True, max_body_mb=0.01) as stack:
        body = b'{"prompt": "' + b"x" * 20_000 + b'"}'

        async def pieces() -> Any:
            yield body

        data = pieces() if chunked else body
        async with stack.session.post(stack.url + TEXT, data=data) as response:
            assert response.status == 413
            assert_openai_error(await response.json())
        async with stack.post() as response:
            assert response.status == 200


async def test_a_body_of_20_mb_is_refused_and_its_sender_gets_to_know_why(make_stack: MakeStack) -> None:
    async with make_stack(automatic=True) as stack:
        client = openai.AsyncOpenAI(base_url=f"{stack.url}/v1", api_key="none", max_retries=0)
        with pytest.raises(openai.APIStatusError, match="larger than") as error:
            await client.completions.create(model="tiny", prompt="x" * 20_000_000)
        assert error.value.status_code == 413
        assert (await client.completions.create(model="tiny", prompt="x")).usage is not None
        await client.close()


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [("GET", CHAT, 405), ("GET", "/", 404), ("POST", "/metrics", 405)],
)
async def test_unknown_paths_and_methods_are_told_so(
    make_stack: MakeStack, method: str, path: str, status: int
) -> None:
    async with make_stack() as stack, stack.session.request(method, stack.url + path) as response:
        assert response.status == status
        assert_openai_error(await response.json())


async def test_after_a_bug_of_ours_the_connection_is_said_to_be_closed(
    make_stack: MakeStack, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(_: str) -> None:
        raise RuntimeError("a bug")

    async with make_stack() as stack:
        monkeypatch.setattr(stack.gateway.pool, "servers_for", fail)
        async with stack.post() as response:
            assert (response.status, response.headers["connection"]) == (500, "close")
            assert_openai_error(await response.json())
