"""The front door before an ASGI application that remembers what it was sent."""

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import pytest

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
    """

    predictor: WordCount
    headers: list[tuple[bytes, bytes]] = field(default_factory=list)
    body: bytes = b""
    sent: list[dict[str, Any]] = field(default_factory=list)
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
    assert await Stack(predictor).post({"prompt": "one two three"}) == 3


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


async def test_nothing_is_kept_without_end_of_requests_of_which_vllm_tells_nothing(stack: Stack) -> None:
    for _ in range(1100):
        await stack.post({"text": "hello"}, path="/v1/messages")
    assert len(stack.app._door._placer._live) <= 1000


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
