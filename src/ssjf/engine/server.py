"""The engine's HTTP interface: OpenAI's completions, health and metrics, as an ASGI application.

It waits for `Engine` and formats what comes; it does not know how answers are made, which requests go first, or how
the process starts and ends. A client that goes away is noticed at once, before the first byte as well as after it,
because somebody always listens on the receiving side while an answer is made.
"""

import asyncio
import contextlib
import time
import uuid
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterable
from typing import Any

import orjson
from prometheus_client import CollectorRegistry, ProcessCollector, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route
from starlette.types import Receive, Scope, Send

from ssjf.asgi import ClientGone, receive_body, until_disconnect
from ssjf.engine.params import Call, PromptTokenizer, parse_call
from ssjf.engine.worker import Engine, Generation
from ssjf.errors import BackendError, RequestError
from ssjf.openai import DONE_EVENT, JSONObject, error_body, parse_json_object, request_error_body, sse_event

MAX_BODY_BYTES = 8 * 2**20
"""A request's body may have so many bytes; a context of 10^6 tokens takes about half of it."""


class Service:
    """What the routes share.

    Args:
        engine: serves the requests.
        tokenizer: of the model.
        model_name: how clients call the model.
        max_model_len: tokens that prompt and answer may have together.

    Attributes:
        draining: whether the process is about to end, so that nothing new is taken.
        num_requests: requests that are over, by how they ended.
    """

    def __init__(self, engine: Engine, tokenizer: PromptTokenizer, *, model_name: str, max_model_len: int) -> None:
        self.engine = engine
        self.tokenizer = tokenizer
        self.model_name = model_name
        self.max_model_len = max_model_len
        self.draining = False
        self.num_requests: Counter[str] = Counter()
        self.started_at = int(time.time())


def create_app(service: Service) -> Starlette:
    """The ASGI application."""
    registry = CollectorRegistry()
    registry.register(_EngineCollector(service))
    ProcessCollector(registry=registry)  # the process' resident memory: the library's is known to grow slowly

    async def health(_: Request) -> Response:
        engine = service.engine
        status = "failed" if engine.fault else "draining" if service.draining else "ok"
        state = {"status": status, "model": service.model_name, "max_num_seqs": engine.max_num_seqs}
        return _json_response(state, status=200 if status == "ok" else 503)

    async def models(_: Request) -> Response:
        model = {
            "id": service.model_name,
            "object": "model",
            "created": service.started_at,
            "owned_by": "ssjf",
            "max_model_len": service.max_model_len,
        }
        return _json_response({"object": "list", "data": [model]})

    async def metrics(_: Request) -> Response:
        return Response(generate_latest(registry), media_type="text/plain; version=0.0.4; charset=utf-8")

    return Starlette(
        routes=[
            Route("/v1/chat/completions", _Completions(service, chat=True), methods=["POST"]),
            Route("/v1/completions", _Completions(service, chat=False), methods=["POST"]),
            Route("/v1/models", models),
            Route("/health", health),
            Route("/healthz", health),
            Route("/metrics", metrics),
        ],
        exception_handlers={HTTPException: _http_error, Exception: _internal_error},
    )


class _Completions:
    """One of the two endpoints that answer, as an ASGI application."""

    def __init__(self, service: Service, *, chat: bool) -> None:
        self._service = service
        self._chat = chat

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        request = Request(scope)
        headers = {"x-request-id": request.headers["x-request-id"]} if "x-request-id" in request.headers else {}
        response: Response | None
        try:
            body = await receive_body(receive, MAX_BODY_BYTES)
            response = await self._answer(parse_json_object(body), receive, send, headers)
        except ClientGone:
            return
        except RequestError as error:
            response = _json_response(request_error_body(error), status=error.status)
        except BackendError as error:
            response = _engine_error(error)
        if response is not None:
            response.headers.update(headers)
            await response(scope, receive, send)

    async def _answer(self, body: JSONObject, receive: Receive, send: Send, headers: dict[str, str]) -> Response | None:
        """Serve a request; None when everything has been sent, or nobody listens any more."""
        service = self._service
        if service.draining:
            response = _json_response(error_body("the server is shutting down", kind="service_unavailable"), status=503)
            response.headers["retry-after"] = "1"
            return response
        call = parse_call(
            body,
            service.tokenizer,
            model_name=service.model_name,
            max_model_len=service.max_model_len,
            chat=self._chat,
        )
        generation = service.engine.submit(call.prompt_token_ids, call.params)
        shape = _Shape(call, chat=self._chat, model=service.model_name)
        outcome = "error"
        try:
            async with _watched(receive, lambda: service.engine.cancel(generation)):
                if call.stream:
                    outcome = await _stream(generation, shape, send, headers)
                    return None
                text, outcome, num_output_tokens = await _whole(generation)
            if outcome == "cancelled":
                return None
            return _json_response(shape.answer(text, outcome, num_output_tokens))
        finally:
            service.engine.cancel(generation)  # does nothing when it is done; a handler that fails must free the slot
            service.num_requests[outcome] += 1


class _Shape:
    """How one answer looks in JSON."""

    def __init__(self, call: Call, *, chat: bool, model: str) -> None:
        self._call = call
        self._chat = chat
        self._base = {
            "id": f"{'chatcmpl' if chat else 'cmpl'}-{uuid.uuid4().hex}",
            "object": "chat.completion" if chat else "text_completion",
            "created": int(time.time()),
            "model": model,
        }

    def answer(self, text: str, finish_reason: str, num_output_tokens: int) -> JSONObject:
        """A whole answer."""
        content: JSONObject = {"message": {"role": "assistant", "content": text}} if self._chat else {"text": text}
        choice = {"index": 0, **content, "logprobs": None, "finish_reason": finish_reason}
        return {**self._base, "choices": [choice], "usage": self._usage(num_output_tokens)}

    def events(self, text: str, finish_reason: str | None, num_output_tokens: int, *, first: bool) -> bytes:
        """The server-sent events for a piece of a streamed answer; with the last piece, also those that end it."""
        base: JSONObject = self._base
        content: JSONObject = {"text": text}
        if self._chat:
            base = base | {"object": "chat.completion.chunk"}
            content = {"delta": {"role": "assistant", "content": text} if first else {"content": text}}
        choice = {"index": 0, **content, "logprobs": None, "finish_reason": finish_reason}
        piece: JSONObject = {**base, "choices": [choice]}
        if self._call.include_usage:
            piece["usage"] = None
        events = sse_event(piece)
        if finish_reason is not None:
            if self._call.include_usage:
                events += sse_event({**base, "choices": [], "usage": self._usage(num_output_tokens)})
            events += DONE_EVENT
        return events

    def _usage(self, num_output_tokens: int) -> JSONObject:
        num_prompt_tokens = len(self._call.prompt_token_ids)
        return {
            "prompt_tokens": num_prompt_tokens,
            "completion_tokens": num_output_tokens,
            "total_tokens": num_prompt_tokens + num_output_tokens,
        }


async def _whole(generation: Generation) -> tuple[str, str, int]:
    """Wait for the whole answer: its text, how it ended, its tokens."""
    texts = []
    while (delta := await generation.read()) is not None:
        texts.append(delta.text)
        if delta.finish_reason is not None:
            return "".join(texts), delta.finish_reason, delta.num_output_tokens
    return "", "cancelled", 0


async def _stream(generation: Generation, shape: _Shape, send: Send, headers: dict[str, str]) -> str:
    """Send the answer as it comes; returns how it ended. The status waits for the first piece: it may be an error."""
    fields = {"content-type": "text/event-stream; charset=utf-8", "cache-control": "no-cache", **headers}
    started, outcome = False, None
    while outcome is None:
        try:
            delta = await generation.read()
        except BackendError as error:
            if not started:
                raise
            events, outcome = sse_event(_engine_error_body(error)), "error"
        else:
            if delta is None:
                return "cancelled"
            outcome = delta.finish_reason
            events = shape.events(delta.text, outcome, delta.num_output_tokens, first=not started)
        if not started:
            raw = [(name.encode("latin-1"), value.encode("latin-1")) for name, value in fields.items()]
            await send({"type": "http.response.start", "status": 200, "headers": raw})
            started = True
        await send({"type": "http.response.body", "body": events, "more_body": outcome is None})
    return outcome


@contextlib.asynccontextmanager
async def _watched(receive: Receive, on_gone: Callable[[], None]) -> AsyncIterator[None]:
    """Call `on_gone` when the client goes away in the meantime."""

    async def watch() -> None:
        await until_disconnect(receive)
        on_gone()

    watcher = asyncio.create_task(watch())
    try:
        yield
    finally:
        watcher.cancel()


class _EngineCollector(Collector):
    """Reads the engine's state when somebody asks for metrics; serving requests costs nothing for it."""

    def __init__(self, service: Service) -> None:
        self._service = service

    def collect(self) -> Iterable[Metric]:
        engine = self._service.engine
        gauges = {
            "num_requests_running": (engine.num_running, "Requests that hold a slot."),
            "num_requests_waiting": (engine.num_waiting, "Requests that wait for a slot."),
            "max_num_seqs": (engine.max_num_seqs, "Slots."),
        }
        counters = {
            "prompt_tokens": (engine.num_prompt_tokens, "Prompt tokens of the requests started."),
            "generation_tokens": (engine.num_generation_tokens, "Tokens generated."),
            "steps": (
                engine.num_steps,
                "Steps, each for all running requests.",
            ),
        }
        for name, (value, meaning) in gauges.items():
            yield GaugeMetricFamily(f"ssjf_engine_{name}", meaning, value=value)
        for name, (value, meaning) in counters.items():
            yield CounterMetricFamily(f"ssjf_engine_{name}", meaning, value=value)
        ended = CounterMetricFamily("ssjf_engine_requests", "Requests that are over.", labels=["outcome"])
        for outcome in ("stop", "length", "cancelled", "error"):
            ended.add_metric([outcome], self._service.num_requests[outcome])
        yield ended


def _json_response(body: JSONObject, *, status: int = 200) -> Response:
    return Response(orjson.dumps(body), status_code=status, media_type="application/json")


def _engine_error_body(error: BackendError) -> JSONObject:
    return error_body(str(error), kind="server_error", code="engine_error")


def _engine_error(error: BackendError) -> Response:
    return _json_response(_engine_error_body(error), status=500)


async def _http_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    messages = {404: f"there is no {request.url.path}", 405: f"{request.method} is not allowed on {request.url.path}"}
    codes = {404: "unknown_url", 405: "method_not_allowed"}
    message = messages.get(error.status_code, error.detail)
    body: Any = error_body(message, kind="invalid_request_error", code=codes.get(error.status_code))
    response = _json_response(body, status=error.status_code)
    response.headers.update(error.headers or {})
    return response


async def _internal_error(_: Request, __: Exception) -> Response:
    response = _json_response(error_body("internal error", kind="server_error", code="internal_error"), status=500)
    response.headers["connection"] = "close"  # as the server does after a bug: the next request is to take another one
    return response
