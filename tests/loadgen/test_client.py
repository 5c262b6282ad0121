import asyncio
import dataclasses

import pytest
from aiohttp import web

from ssjf.errors import BackendError
from ssjf.loadgen.client import Answer, Endpoint, ask, first_model, open_session
from ssjf.loadgen.plan import PlannedRequest
from tests.loadgen.fake_server import FakeServer, chunk, refusal, stream, whole_answer

REQUEST = PlannedRequest(index=0, prompt="say three words")


async def get_answer(endpoint: Endpoint, request: PlannedRequest = REQUEST) -> Answer:
    answer = Answer(sent_at=asyncio.get_running_loop().time())
    async with open_session(endpoint) as session:
        await ask(session, endpoint, request, answer)
    return answer


def answers_with(server: FakeServer, events: list[str], headers: dict[str, str] | None = None) -> None:
    async def handler(request: web.Request) -> web.StreamResponse:
        return await stream(request, events, headers)

    server.handler = handler


@pytest.mark.parametrize("base", ["http://host:1", "http://host:1/", "http://host:1/v1", "http://host:1/v1/"])
def test_the_address_is_the_same_with_and_without_v1(base: str) -> None:
    assert Endpoint(url=base).address("models") == "http://host:1/v1/models"


def test_the_key_does_not_show_in_a_printed_endpoint() -> None:
    assert "secret" not in repr(Endpoint(url="http://host", api_key="secret"))


async def test_a_whole_answer_is_counted_by_the_servers_usage(server: FakeServer) -> None:
    answers_with(server, whole_answer(3, prompt_tokens=11))
    answer = await get_answer(server.endpoint)
    assert (answer.status, answer.error) == ("completed", "")
    assert (answer.input_tokens, answer.output_tokens) == (11, 3)
    assert answer.first_token_at is not None
    assert answer.finished_at is not None
    assert answer.sent_at <= answer.first_token_at <= answer.finished_at


async def test_without_usage_content_chunks_are_counted(server: FakeServer) -> None:
    answers_with(server, [chunk("a"), chunk("b"), chunk(finish_reason="length"), "data: [DONE]\n\n"])
    answer = await get_answer(server.endpoint)
    assert (answer.status, answer.input_tokens, answer.output_tokens) == ("completed", None, 2)


async def test_the_first_token_is_the_first_content_not_the_role_announcement(server: FakeServer) -> None:
    answers_with(server, [chunk(), chunk(finish_reason="stop"), "data: [DONE]\n\n"])
    answer = await get_answer(server.endpoint)
    assert (answer.status, answer.first_token_at, answer.output_tokens) == ("completed", None, 0)


async def test_events_cut_anywhere_and_with_carriage_returns_are_read(server: FakeServer) -> None:
    text = ": a comment\r\n\r\n" + "".join(whole_answer(2)).replace("\n", "\r\n")
    answers_with(server, list(text))
    answer = await get_answer(server.endpoint)
    assert (answer.status, answer.output_tokens) == ("completed", 2)


async def test_queue_and_prediction_headers_are_taken_over(server: FakeServer) -> None:
    answers_with(server, whole_answer(1), {"x-ssjf-queue-ms": "1500", "x-ssjf-predicted-tokens": "42.5"})
    answer = await get_answer(server.endpoint)
    assert (answer.queue_s, answer.predicted_tokens) == (1.5, 42.5)


async def test_headers_that_are_no_numbers_count_as_absent(server: FakeServer) -> None:
    answers_with(server, whole_answer(1), {"x-ssjf-queue-ms": "soon"})
    assert (await get_answer(server.endpoint)).queue_s is None


async def test_a_text_becomes_one_user_message_greedy_and_streamed(server: FakeServer) -> None:
    await get_answer(server.endpoint)
    (body,) = server.bodies
    assert body == {
        "path": "/v1/chat/completions",
        "model": "m",
        "messages": [{"role": "user", "content": "say three words"}],
        "temperature": 0,
        "stream": True,
        "stream_options": {"include_usage": True},
    }
    assert "x-ssjf-output-tokens" not in server.headers[0]


async def test_a_conversation_is_sent_as_it_is(server: FakeServer) -> None:
    messages = [{"role": "system", "content": "be short"}, {"role": "user", "content": "hi"}]
    await get_answer(server.endpoint, PlannedRequest(index=0, prompt=messages))
    assert server.bodies[0]["messages"] == messages


async def test_fixed_output_sets_both_bounds_and_ignores_the_end(server: FakeServer) -> None:
    await get_answer(server.endpoint, dataclasses.replace(REQUEST, max_tokens=9, fixed_output=True))
    body = server.bodies[0]
    assert (body["max_tokens"], body["min_tokens"], body["ignore_eos"]) == (9, 9, True)


async def test_completions_send_the_bare_prompt_and_read_its_text(server: FakeServer) -> None:
    events = ['data: {"choices": [{"text": "x", "finish_reason": "length"}]}\n\n', "data: [DONE]\n\n"]
    answers_with(server, events)
    answer = await get_answer(dataclasses.replace(server.endpoint, chat=False))
    assert (server.bodies[0]["path"], server.bodies[0]["prompt"]) == ("/v1/completions", "say three words")
    assert (answer.status, answer.output_tokens) == ("completed", 1)


async def test_hint_and_key_travel_in_headers(server: FakeServer) -> None:
    await get_answer(dataclasses.replace(server.endpoint, api_key="secret"), dataclasses.replace(REQUEST, hint=17))
    assert server.headers[0]["x-ssjf-output-tokens"] == "17"
    assert server.headers[0]["Authorization"] == "Bearer secret"


@pytest.mark.parametrize(("http_status", "status"), [(429, "rejected"), (400, "rejected"), (503, "failed")])
async def test_a_refusal_is_recorded_with_its_status_and_message(
    server: FakeServer, http_status: int, status: str
) -> None:
    async def refuse(_: web.Request) -> web.StreamResponse:
        return refusal(http_status, "not now")

    server.handler = refuse
    answer = await get_answer(server.endpoint)
    assert (answer.status, answer.error) == (status, f"HTTP {http_status}: not now")
    assert answer.finished_at is None
    assert len(server.bodies) == 1, "nothing is retried"


async def test_an_error_inside_the_stream_fails_the_request(server: FakeServer) -> None:
    answers_with(server, [chunk("a"), 'data: {"error": {"message": "engine died"}}\n\n', "data: [DONE]\n\n"])
    answer = await get_answer(server.endpoint)
    assert (answer.status, answer.error, answer.output_tokens) == ("failed", "in the stream: engine died", 1)


@pytest.mark.parametrize("event", ["data: {broken\n\n", "data: [1, 2]\n\n", 'data: {"choices": [null]}\n\n'])
async def test_an_event_that_is_no_chunk_fails_the_request(server: FakeServer, event: str) -> None:
    answers_with(server, [event])
    assert (await get_answer(server.endpoint)).status == "failed"


async def test_a_stream_that_just_ends_has_failed(server: FakeServer) -> None:
    answers_with(server, [chunk("a")])
    answer = await get_answer(server.endpoint)
    assert (answer.status, answer.error) == ("failed", "the stream ended before the answer did")


async def test_an_answer_that_takes_too_long_has_failed(server: FakeServer) -> None:
    released = asyncio.Event()

    async def hang(_: web.Request) -> web.StreamResponse:
        await released.wait()
        return web.Response()

    server.handler = hang
    answer = await get_answer(dataclasses.replace(server.endpoint, timeout_s=0.05))
    released.set()
    assert (answer.status, answer.error) == ("failed", "no answer within 0.05 s")


async def test_a_refused_connection_is_a_failed_request(unused_tcp_port: int) -> None:
    answer = await get_answer(Endpoint(url=f"http://127.0.0.1:{unused_tcp_port}"))
    assert answer.status == "failed"
    assert "connect" in answer.error.lower()


async def test_the_first_model_listed_is_the_default(server: FakeServer) -> None:
    assert await first_model(server.endpoint) == "tiny"


async def test_asking_for_models_where_nobody_listens_says_where(unused_tcp_port: int) -> None:
    with pytest.raises(BackendError, match=f"no server answers at http://127.0.0.1:{unused_tcp_port}/v1/models"):
        await first_model(Endpoint(url=f"http://127.0.0.1:{unused_tcp_port}"))


async def test_asking_something_that_is_no_such_server_says_what_it_answered(server: FakeServer) -> None:
    with pytest.raises(BackendError, match="HTTP 404"):
        await first_model(dataclasses.replace(server.endpoint, url=server.endpoint.url + "/elsewhere"))
