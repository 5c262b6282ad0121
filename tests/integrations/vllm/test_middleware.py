"""The front door before an ASGI application that remembers what it was sent."""

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import pytest
from prometheus_client import REGISTRY

from ssjf.core.types import Prediction, Request
from ssjf.errors import UserError
from ssjf.integrations import vllm
from ssjf.integrations.vllm import SSJFMiddleware
from ssjf.integrations.vllm.front import middleware
from ssjf.integrations.vllm.front.door import Finished, tell


class WordCount:
    """Predicts as many tokens as the prompt has words; fails where it says so."""

    def __init__(self) -> None:
        self.observed: list[tuple[str, int]] = []

    def predict(self, requests: Sequence[Request]) -> list[Prediction]:
        if any("fail" in request.prompt for request in requests):
            raise RuntimeError("told to")
        return [Prediction(float(len(request.prompt.split()))) for request in requests]

    def observe(self, request: Request, num_output_tokens: int) -> None:
        self.observed.append((request.prompt, num_output_tokens))


@dataclass
class Stack:
    """The middleware and the application behind it.

    Attributes:
        headers: of the latest request as the application got it.
        body: likewise.
        sent: the messages of the latest response as the client got them.
        predictor: that was asked.
        client_leaves: whether the application is told, before it answers, that the client has gone.
    """

    predictor: WordCount
    headers: list[tuple[bytes, bytes]] = field(default_factory=list)
    body: bytes = b""
    sent: list[dict[str, Any]] = field(default_factory=list)
    client_leaves: bool = False
    answer: tuple[dict[str, Any], ...] = (
        {"type": "http.response.start", "status": 200, "headers": [(b"content-type", b"text/event-stream")]},
        {"type": "http.response.body", "body": b"data: 1\n\n", "more_body": True},
        {"type": "http.response.body", "body": b"data: [DONE]\n\n"},
    )

    def __post_init__(self) -> None:
        self.app = SSJFMiddleware(self._application)

    async def _application(self, scope: Any, receive: Any, send: Any) -> None:
        self.headers, self.body = list(scope["headers"]), b""
        more = scope["type"] == "http"
        while more:
            message = await receive()
            self.body += message.get("body", b"")
            more = message.get("more_body", False)
        if self.client_leaves:
            assert (await receive())["type"] == "http.disconnect"
        for message in self.answer:
            await send(message)

    async def post(
        self,
        body: bytes | dict[str, Any],
        *,
        path: str = "/v1/completions",
        headers: Sequence[tuple[bytes, bytes]] = (),
        chunk: int = 10_000_000,
        breaks_off: bool = False,
        method: str = "POST",
    ) -> int | None:
        """Send a request; returns the priority that it got."""
        data = body if isinstance(body, bytes) else json.dumps(body).encode()
        parts = [data[start : start + chunk] for start in range(0, len(data), chunk)] or [b""]
        messages: list[dict[str, Any]] = [
            {"type": "http.request", "body": part, "more_body": breaks_off or place < len(parts) - 1}
            for place, part in enumerate(parts)
        ]
        messages += [{"type": "http.disconnect"}] * 2
        self.sent = []

        async def receive() -> dict[str, Any]:
            return messages.pop(0)

        async def send(message: Any) -> None:
            self.sent.append(message)

        scope = {"type": "http", "method": method, "path": path, "headers": list(headers)}
        await self.app(scope, receive, send)
        found = [value for name, value in self.headers if name == b"x-vllm-priority"]
        assert len(found) <= 1
        return int(found[0]) if found else None

    @property
    def request_id(self) -> str:
        return dict(self.headers)[b"x-request-id"].decode()

    @property
    def kept(self) -> list[Request]:
        """Requests of which anything is remembered."""
        return [job.request for job in self.app._door._placer._live.values()]


@pytest.fixture
def predictor(monkeypatch: pytest.MonkeyPatch) -> WordCount:
    counting = WordCount()
    monkeypatch.setattr(middleware, "load_predictor", lambda _: counting)
    monkeypatch.setenv("SSJF_VLLM_POLICY", "ssjf")
    monkeypatch.setenv("SSJF_VLLM_SECONDS_PER_TOKEN", "1")
    monkeypatch.setenv("SSJF_VLLM_SECONDS_PER_INPUT_TOKEN", "0")
    monkeypatch.setenv("SSJF_VLLM_PREDICT_BUDGET_MS", "2000")
    return counting


@pytest.fixture
async def stack(predictor: WordCount) -> Stack:
    return Stack(predictor)


def _seconds(priority: int | None) -> float:
    assert priority is not None
    return priority / 10_000


CHAT = "/v1/chat/completions"
WORDS = [
    ("/v1/completions", {"prompt": "one two three"}, 3),
    ("/v1/completions", {"prompt": ["one two", "three"]}, 3),
    (CHAT, {"messages": [{"role": "user", "content": "one two"}]}, 2),
    (CHAT, {"messages": [{"role": "user", "content": [{"type": "text", "text": "one"}]}]}, 1),
    (CHAT, {"messages": [{"role": "system", "content": "one"}, {"role": "user", "content": "two"}]}, 4),
    ("/v1/responses", {"input": "one two"}, 2),
    ("/v1/responses", {"input": [{"role": "user", "content": [{"type": "input_text", "text": "one two"}]}]}, 2),
    ("/v1/responses", {"instructions": "one", "input": "two"}, 4),
]


@pytest.mark.parametrize(("path", "body", "words"), WORDS)
async def test_the_priority_is_the_key_of_what_is_predicted_from_the_prompt(
    stack: Stack, path: str, body: dict[str, Any], words: int
) -> None:
    assert _seconds(await stack.post(body, path=path)) == words


@pytest.mark.parametrize("chunk", [1, 7, 10_000])
async def test_the_body_arrives_byte_for_byte_however_it_came(stack: Stack, chunk: int) -> None:
    body = b'{ "prompt" : "one two", "unknown": [1e3, null] }\n'
    assert _seconds(await stack.post(body, chunk=chunk)) == 2
    assert stack.body == body


async def test_the_answer_is_not_touched(stack: Stack) -> None:
    await stack.post({"prompt": "one", "stream": True})
    assert tuple(stack.sent) == stack.answer
    assert all(sent is answered for sent, answered in zip(stack.sent, stack.answer, strict=True))


BAD = [b"", b"{", b"[1]", b'"text"', b"\xff\xfe", b'{"prompt": 5}', b'{"messages": {}}', b'{"input": 7}', b"null"]


@pytest.mark.parametrize("body", BAD)
@pytest.mark.parametrize("path", ["/v1/completions", CHAT, "/v1/responses"])
async def test_bodies_that_make_no_sense_are_left_to_vllm(stack: Stack, path: str, body: bytes) -> None:
    assert _seconds(await stack.post(body, path=path)) == 256  # nothing is known: the fallback
    assert stack.body == body


async def test_a_client_that_leaves_half_way_is_left_to_vllm(stack: Stack) -> None:
    assert await stack.post(b'{"prompt": "one"', breaks_off=True) is not None
    assert stack.body == b'{"prompt": "one"'


async def test_a_body_too_large_to_keep_passes_through_without_a_prediction(
    predictor: WordCount, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SSJF_VLLM_MAX_BODY_MB", "0.001")
    stack = Stack(predictor)
    body = json.dumps({"prompt": "word " * 1000}).encode()
    assert _seconds(await stack.post(body, chunk=100)) == 256
    assert stack.body == body


async def test_requests_to_other_endpoints_get_a_place_too(stack: Stack) -> None:
    assert _seconds(await stack.post({"text": "hello"}, path="/v1/messages")) == 256


async def test_what_is_no_request_for_work_is_left_alone(stack: Stack) -> None:
    assert await stack.post(b"", path="/v1/models", method="GET") is None
    assert stack.headers == []


async def test_the_client_s_header_is_dropped(stack: Stack) -> None:
    headers = [(b"x-vllm-priority", b"-5"), (b"x-vllm-priority", b"-6"), (b"authorization", b"Bearer key")]
    assert _seconds(await stack.post({"prompt": "one", "priority": -7}, headers=headers)) == 1
    assert (b"authorization", b"Bearer key") in stack.headers


async def test_a_client_s_priority_is_its_tier_where_that_is_allowed(
    predictor: WordCount, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SSJF_VLLM_ACCEPT_TIERS", "true")
    stack = Stack(predictor)
    plain = await stack.post({"prompt": "one"})
    by_body = await stack.post({"prompt": "one " * 50, "priority": -1})
    by_header = await stack.post({"prompt": "one", "priority": -1}, headers=[(b"x-vllm-priority", b"2")])
    nonsense = await stack.post({"prompt": "one", "priority": "high"}, headers=[(b"x-vllm-priority", b"high")])
    assert plain == nonsense
    assert plain is not None
    assert by_body is not None
    assert by_header is not None
    assert by_body < plain < by_header
    elsewhere = [await stack.post({"priority": tier}, path="/generative_scoring") for tier in (-1, 0, 1)]
    assert None not in elsewhere
    assert elsewhere == sorted(elsewhere, key=lambda priority: priority or 0)
    assert len(set(elsewhere)) == 3


@pytest.mark.parametrize(
    ("hint", "seconds"), [(b"7", 7), (b"7.5", 7.5), (b"-1", 1), (b"nan", 1), (b"x", 1), (b"inf", 1)]
)
async def test_a_hint_counts_where_it_is_allowed_and_makes_sense(
    predictor: WordCount, monkeypatch: pytest.MonkeyPatch, hint: bytes, seconds: float
) -> None:
    headers = [(b"x-ssjf-output-tokens", hint)]
    assert _seconds(await Stack(predictor).post({"prompt": "one"}, headers=headers)) == 1
    monkeypatch.setenv("SSJF_VLLM_ACCEPT_HINTS", "true")
    assert _seconds(await Stack(predictor).post({"prompt": "one"}, headers=headers)) == seconds


async def test_nobody_is_predicted_longer_than_the_client_s_cap(
    predictor: WordCount, monkeypatch: pytest.MonkeyPatch
) -> None:
    body = {"prompt": "one two three", "max_tokens": 2}
    assert _seconds(await Stack(predictor).post(body)) == 2
    monkeypatch.setenv("SSJF_VLLM_IGNORE_MAX_TOKENS", "true")
    assert _seconds(await Stack(predictor).post(body)) == 3


async def test_with_the_scheduler_class_behind_it_the_header_carries_tokens(
    predictor: WordCount, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SSJF_VLLM_TOKENS_IN_PRIORITY", "true")
    stack = Stack(predictor)
    assert await stack.post({"prompt": "one two three"}) == 3
    assert await stack.post({"prompt": ""}) == 0, "the scheduler class knows better than a mean"
    assert await stack.post({"prompt": "fail"}) == 0
    assert await stack.post({"priority": 7}, path="/generative_scoring") == 0
    assert json.loads(stack.body) == {"priority": 0}


async def test_a_predictor_that_fails_costs_a_request_nothing_but_its_place(
    predictor: WordCount, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SSJF_VLLM_PREDICT_BUDGET_MS", "5")
    stack = Stack(predictor)
    assert _seconds(await stack.post({"prompt": "fail"})) == 256
    assert len(stack.sent) == 3


async def _learned(stack: Stack, count: int) -> list[tuple[str, int]]:
    while len(stack.predictor.observed) < count:
        await stack.post({"prompt": "something to do"})  # lets the predictor's thread have its turn
    return stack.predictor.observed


async def test_what_vllm_tells_of_finished_requests_is_learned(stack: Stack) -> None:
    await stack.post({"prompt": "one"})
    tell(Finished(f"cmpl-{stack.request_id}-0", num_output_tokens=11, prefill_s=0.1, service_s=1.0))
    await stack.post({"messages": [{"role": "user", "content": "two"}]}, path=CHAT)
    tell(Finished(f"chatcmpl-{stack.request_id}", num_output_tokens=22, prefill_s=0.1, service_s=1.0))
    tell(Finished("chatcmpl-of-somebody-else", num_output_tokens=33, prefill_s=0.1, service_s=1.0))
    assert await _learned(stack, 2) == [("one", 11), ("two", 22)]


async def test_the_client_s_request_id_is_kept_and_several_answers_teach_nothing(stack: Stack) -> None:
    headers = [(b"x-request-id", b"mine")]
    await stack.post({"prompt": "one", "n": 2}, headers=headers)
    assert stack.request_id == "mine"
    tell(Finished("cmpl-mine-0", num_output_tokens=5, prefill_s=0.1, service_s=1.0))
    await stack.post({"prompt": "two"}, headers=headers)
    await stack.post({"prompt": "three"}, headers=headers)  # an id that is in use already
    tell(Finished("cmpl-mine-0", num_output_tokens=6, prefill_s=0.1, service_s=1.0))
    tell(Finished("cmpl-mine-0", num_output_tokens=7, prefill_s=0.1, service_s=1.0))
    assert await _learned(stack, 1) == [("two", 6)]


async def test_the_request_id_in_the_body_is_kept_unless_the_header_has_another(stack: Stack) -> None:
    await stack.post({"prompt": "one", "request_id": "mine"})
    assert b"x-request-id" not in dict(stack.headers), "vLLM would prefer it"
    tell(Finished("cmpl-mine-0", num_output_tokens=5, prefill_s=0.1, service_s=1.0))
    await stack.post({"prompt": "two", "request_id": "body"}, headers=[(b"x-request-id", b"header")])
    tell(Finished("cmpl-body-0", num_output_tokens=6, prefill_s=0.1, service_s=1.0))
    tell(Finished("cmpl-header-0", num_output_tokens=7, prefill_s=0.1, service_s=1.0))
    assert await _learned(stack, 2) == [("one", 5), ("two", 7)]


@pytest.mark.parametrize("request_id", ["x" * 257, 5, None, ["x"]])
async def test_a_request_id_that_makes_no_sense_is_left_to_vllm(stack: Stack, request_id: Any) -> None:
    body = json.dumps({"prompt": "one", "request_id": request_id}).encode()
    assert _seconds(await stack.post(body)) == 1
    assert stack.body == body
    assert all(len(request.request_id) < 257 for request in stack.kept)


@pytest.mark.parametrize("path", ["/v1/responses", "/v1/messages", "/v1/chat/completions/batch"])
async def test_no_request_id_is_added_where_nothing_will_be_told_of_it(stack: Stack, path: str) -> None:
    await stack.post({"input": "one", "request_id": "mine"}, path=path)
    assert b"x-request-id" not in dict(stack.headers)


def _answer(status: int) -> tuple[dict[str, Any], ...]:
    return {"type": "http.response.start", "status": status, "headers": []}, {"type": "http.response.body"}


@pytest.mark.parametrize("status", [400, 401, 404, 500])
@pytest.mark.parametrize("path", ["/v1/completions", CHAT])
async def test_nothing_is_kept_of_a_request_that_was_not_answered(stack: Stack, path: str, status: int) -> None:
    stack.answer = _answer(status)
    await stack.post({"prompt": "one", "messages": [{"role": "user", "content": "one"}]}, path=path)
    assert stack.kept == []


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/v1/completions", {"prompt": "one", "n": 2}),
        ("/v1/completions", {"prompt": ["one", "two"]}),
        ("/v1/completions", {"prompt": "one", "request_id": "x" * 257}),
        ("/v1/completions", b'{"prompt": "one'),
        ("/v1/responses", {"input": "one"}),
        ("/v1/messages", {"text": "one"}),
        ("/generative_scoring", {"query": "one"}),
    ],
)
async def test_nothing_is_kept_of_a_request_of_which_vllm_will_tell_nothing(
    stack: Stack, path: str, body: bytes | dict[str, Any]
) -> None:
    await stack.post(body, path=path)
    assert stack.kept == []


async def test_nothing_is_kept_of_a_request_whose_client_left_or_whose_answer_broke_off(stack: Stack) -> None:
    stack.client_leaves = True
    await stack.post({"prompt": "one"})
    assert stack.kept == []
    stack.client_leaves, stack.answer = False, stack.answer[:2]
    await stack.post({"prompt": "one"})
    assert stack.kept == []


async def test_of_answers_that_vllm_does_not_tell_of_the_latest_are_kept_for_a_while(stack: Stack) -> None:
    for index in range(1100):
        await stack.post({"prompt": f"one {index}"})
    assert [request.prompt for request in stack.kept] == [f"one {index}" for index in range(100, 1100)]
    tell(Finished(f"cmpl-{stack.request_id}-0", num_output_tokens=5, prefill_s=0.1, service_s=1.0))
    assert len(stack.kept) == len(stack.app._door._departed) == 999


async def test_of_a_very_long_prompt_head_and_tail_are_kept(stack: Stack) -> None:
    assert _seconds(await stack.post({"prompt": "head " + "word " * 50_000 + "tail"})) == 50_002
    (request,) = stack.kept
    assert len(request.prompt) < 70_000
    assert request.prompt.startswith("head word")
    assert request.prompt.endswith("word tail")


BODY_PATHS = [
    "/v1/chat/completions/batch",
    "/generative_scoring",
    "/inference/v1/generate",
    "/v1/systemone",
    "/cohere/v2/chat",
]


@pytest.mark.parametrize("path", BODY_PATHS)
async def test_where_vllm_heeds_no_header_the_priority_is_in_the_body(stack: Stack, path: str) -> None:
    body = {"query": "Grüße", "nested": [1.5, None, 2**80], "priority": -9}
    headers = [(b"content-length", b"%d" % len(json.dumps(body)))]
    priority = await stack.post(body, path=path, headers=headers, chunk=10)
    assert _seconds(priority) == 256
    assert json.loads(stack.body) == {**body, "priority": priority}
    assert dict(stack.headers)[b"content-length"] == b"%d" % len(stack.body)
    assert len(stack.headers) == 2


@pytest.mark.parametrize("body", ['{"a": NaN, "priority": -9}', '{"a": "\\ud800", "priority": -9}'])
@pytest.mark.parametrize("encoding", ["utf-8", "utf-16"])
async def test_no_priority_that_vllm_would_read_passes_by(stack: Stack, body: str, encoding: str) -> None:
    await stack.post(body.encode(encoding), path="/generative_scoring")
    assert json.loads(stack.body)["priority"] > 0


@pytest.mark.parametrize("body", BAD)
async def test_bodies_without_a_place_for_the_priority_are_left_to_vllm(stack: Stack, body: bytes) -> None:
    await stack.post(body, path="/generative_scoring")
    assert stack.body == body or json.loads(stack.body).keys() == json.loads(body).keys() | {"priority"}


async def test_what_was_not_predicted_is_counted_by_reason(
    predictor: WordCount, monkeypatch: pytest.MonkeyPatch
) -> None:
    def counts() -> dict[str, float]:
        reasons = ("text", "body", "endpoint", "error")
        found = {why: REGISTRY.get_sample_value("ssjf_prediction_fallbacks_total", {"reason": why}) for why in reasons}
        return {why: value or 0.0 for why, value in found.items()}

    monkeypatch.setenv("SSJF_VLLM_MAX_BODY_MB", "0.001")
    monkeypatch.setenv("SSJF_VLLM_ACCEPT_HINTS", "true")
    stack, before = Stack(predictor), counts()
    await stack.post({"prompt": "one"})
    await stack.post({"prompt": [5, 6, 7]})
    await stack.post({"prompt": [5, 6, 7]}, headers=[(b"x-ssjf-output-tokens", b"7")])
    await stack.post({"prompt": "word " * 1000}, chunk=100)
    await stack.post(b"{")
    for _ in range(3):
        await stack.post({"text": "hello"}, path="/v1/messages")
    assert {why: value - before[why] for why, value in counts().items()} == {
        "text": 1,
        "body": 2,
        "endpoint": 3,
        "error": 0,
    }


@pytest.mark.parametrize(
    ("variable", "value", "complaint"),
    [
        ("SSJF_VLLM_POLICY", "hrrn", "keys that move"),
        ("SSJF_VLLM_POLICY", "ssfj", "did you mean 'ssjf'"),
        ("SSJF_VLLM_PREDICTOR", "/no/such/folder", "no predictor and no folder"),
        ("SSJF_VLLM_POLICI", "ssjf", "did you mean 'SSJF_VLLM_POLICY'"),
    ],
)
def test_a_setting_that_cannot_work_is_an_error_when_vllm_asks_for_the_class(
    monkeypatch: pytest.MonkeyPatch, variable: str, value: str, complaint: str
) -> None:
    monkeypatch.setenv(variable, value)
    with pytest.raises(UserError, match=complaint):
        _ = vllm.SSJFMiddleware


def test_a_name_that_is_not_there_is_answered_with_those_that_are() -> None:
    with pytest.raises(AttributeError, match="did you mean 'SSJFMiddleware'"):
        _ = vllm.SSJFMiddelware
