"""The gateway's HTTP side: what clients may ask, and how an accepted request runs from acceptance to its outcome.

Law of this file: between `submit` and `end` every path, also one through an exception or a cancellation, passes
`end` exactly once; so no slot leaks and no request has two outcomes.
"""

import asyncio
import contextlib
import re
import secrets
import time
from collections.abc import Callable
from dataclasses import dataclass
from http import HTTPStatus

import aiohttp
import orjson
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request as HTTPRequest
from starlette.responses import Response
from starlette.routing import Route
from starlette.types import Message, Receive, Scope, Send

from ssjf.core.types import Outcome
from ssjf.errors import BackendError, QueueFull, RequestError
from ssjf.gateway.backend import HTTPBackend, forwardable
from ssjf.gateway.dispatcher import Dispatcher, Exchange
from ssjf.gateway.incoming import HINT_HEADER, Incoming, parse
from ssjf.gateway.relay import StreamReader, usage_of
from ssjf.gateway.telemetry import Telemetry
from ssjf.openai import JSONObject, error_body, request_error_body, sse_event

_REQUEST_ID = re.compile(r"[\x21-\x7e]{1,128}")
_MODELS_FRESH_S = 30.0
_RETRY_AFTER_S = 5


@dataclass(slots=True)
class Gateway:
    """Everything that the endpoints share.

    Attributes:
        dispatcher: who waits, who runs.
        backend: where admitted requests go.
        telemetry: counts everything.
        engine_state: what is known of the embedded engine, for /healthz; None when the engine is not ours.
        accept_hints: clients may give the output length in a header.
        ignore_max_tokens: predictions are not to know the clients' caps.
        max_body_bytes: larger bodies are refused.
        draining: no new work is accepted.
    """

    dispatcher: Dispatcher
    backend: HTTPBackend
    telemetry: Telemetry
    engine_state: Callable[[], str] | None = None
    accept_hints: bool = False
    ignore_max_tokens: bool = False
    max_body_bytes: int = 8 * 2**20
    draining: bool = False
    _models: tuple[float, list[JSONObject]] | None = None

    async def models(self) -> list[JSONObject]:
        """The engine's models, asked anew when the last answer is old.

        Raises:
            BackendError: the engine cannot tell.
        """
        now = time.monotonic()
        if self._models is None or now - self._models[0] > _MODELS_FRESH_S:
            self._models = (now, await self.backend.models())
        return self._models[1]

    async def check_model(self, name: str) -> None:
        """Refuse a model that the engine does not have; where the engine cannot tell, it decides itself.

        Raises:
            RequestError: no such model.
        """
        if not name:
            return
        try:
            known = [str(entry["id"]) for entry in await self.models()]
        except BackendError:
            return
        if name not in known:
            raise RequestError(
                f"the model {name!r} does not exist; known: {', '.join(known)}",
                status=404,
                param="model",
                code="model_not_found",
            )


def make_app(gateway: Gateway) -> Starlette:
    """The ASGI application."""
    completions = _Completions(gateway)

    async def models(_: HTTPRequest) -> Response:
        try:
            return _json({"object": "list", "data": await gateway.models()})
        except BackendError as error:
            return _json(error_body(str(error), kind="api_error", code="engine_unavailable"), 503)

    async def health(_: HTTPRequest) -> Response:
        ready = await gateway.backend.healthy()
        status = "draining" if gateway.draining else "ok" if ready else "engine unavailable"
        engine = gateway.engine_state() if gateway.engine_state is not None else "ready" if ready else "unreachable"
        state = {"status": status, "engine": engine, "live_requests": gateway.dispatcher.num_live}
        return _json(state, 200 if status == "ok" else 503)

    async def metrics(_: HTTPRequest) -> Response:
        return Response(gateway.telemetry.page(), media_type="text/plain; version=0.0.4")

    return Starlette(
        routes=[
            Route("/v1/chat/completions", completions, methods=["POST"]),
            Route("/v1/completions", completions, methods=["POST"]),
            Route("/v1/models", models, methods=["GET"]),
            Route("/healthz", health, methods=["GET"]),
            Route("/metrics", metrics, methods=["GET"]),
        ],
        exception_handlers={HTTPException: _http_error, Exception: _bug},
    )


class _Completions:
    """The two scheduled endpoints, as a plain ASGI application."""

    def __init__(self, gateway: Gateway) -> None:
        self._gateway = gateway

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        headers = {name.decode("latin-1"): value.decode("latin-1") for name, value in scope["headers"]}
        request_id = headers.get("x-request-id", "")
        if not _REQUEST_ID.fullmatch(request_id):
            request_id = f"req-{secrets.token_hex(8)}"
        own_headers = {"x-request-id": request_id}
        gateway = self._gateway
        try:
            if gateway.draining:
                raise _Draining
            body = await _read_body(receive, headers, gateway.max_body_bytes)
            hint = headers.get(HINT_HEADER) if gateway.accept_hints else None
            # the scheduler's id is ours: clients may send the same x-request-id twice
            incoming = parse(
                scope["path"],
                body,
                request_id=secrets.token_hex(8),
                hint=hint,
                ignore_max_tokens=gateway.ignore_max_tokens,
            )
            await gateway.check_model(incoming.request.model)
            exchange = gateway.dispatcher.submit(incoming)
        except _ClientGone:
            return
        except _Draining:
            gateway.telemetry.rejected("draining")
            body_ = error_body("the server is shutting down", kind="api_error", code="draining")
            await _json(body_, 503, own_headers | {"retry-after": str(_RETRY_AFTER_S)})(scope, receive, send)
            return
        except RequestError as error:
            gateway.telemetry.rejected("invalid")
            await _json(request_error_body(error), error.status, own_headers)(scope, receive, send)
            return
        except QueueFull as error:
            gateway.telemetry.rejected("queue_full")
            retry = {"retry-after": str(_RETRY_AFTER_S), "retry-after-ms": str(1000 * _RETRY_AFTER_S)}
            body_ = error_body(f"{error}; try again later", kind="rate_limit_error", code="queue_full")
            await _json(body_, 429, own_headers | retry)(scope, receive, send)
            return
        await self._run(exchange, scope, receive, send, own_headers)

    async def _run(
        self, exchange: Exchange, scope: Scope, receive: Receive, send: Send, own_headers: dict[str, str]
    ) -> None:
        """See an accepted exchange through, whatever client and engine do."""
        answer = _Answer(self._gateway, exchange, scope, send, own_headers)
        work = asyncio.create_task(answer.give())
        gone = asyncio.create_task(_until_disconnect(receive))
        outcome = Outcome.CANCELLED
        try:
            await asyncio.wait({work, gone}, return_when=asyncio.FIRST_COMPLETED)
            if work.done():
                outcome = work.result()
        finally:
            work.cancel()
            gone.cancel()
            await asyncio.gather(work, gone, return_exceptions=True)
            self._gateway.dispatcher.end(exchange, outcome)


class _Answer:
    """One exchange's way to the engine and back."""

    def __init__(
        self, gateway: Gateway, exchange: Exchange, scope: Scope, send: Send, own_headers: dict[str, str]
    ) -> None:
        self._gateway = gateway
        self._exchange = exchange
        self._scope = scope
        self._send = send
        self._own_headers = own_headers
        self._started = False

    async def give(self) -> Outcome:
        """Wait for a slot, ask the engine, pass its answer on."""
        exchange = self._exchange
        await exchange.admitted
        self._own_headers["x-ssjf-queue-ms"] = f"{1000 * exchange.queued_s:.3f}"
        if exchange.decided_by is not None and exchange.decided_by.source != "fallback":
            self._own_headers["x-ssjf-predicted-tokens"] = f"{exchange.decided_by.num_output_tokens:.1f}"
        incoming = exchange.incoming
        headers = forwardable(self._scope["headers"])
        try:
            async with self._gateway.backend.request(
                "POST", incoming.path, headers=headers, body=incoming.body
            ) as response:
                if response.status == HTTPStatus.OK and incoming.stream:
                    return await self._relay_stream(response)
                return await self._relay_whole(response, incoming)
        except (aiohttp.ClientError, TimeoutError) as error:
            return await self._fail(f"the engine broke off ({type(error).__name__})")
        except BackendError as error:
            return await self._fail(str(error))

    async def _relay_stream(self, response: aiohttp.ClientResponse) -> Outcome:
        exchange = self._exchange
        reader = StreamReader(usage_wanted=exchange.incoming.usage_wanted)
        await self._start(response)
        async for data in response.content.iter_any():
            events = reader.feed(data)
            if exchange.first_token_at is None and reader.num_content_events:
                exchange.first_token_at = time.monotonic()
            if events:
                await self._chunk(events)
        if not reader.complete:
            return await self._fail("the engine ended the stream before its end")
        exchange.num_prompt_tokens = reader.num_prompt_tokens
        exchange.num_output_tokens = (
            reader.num_content_events if reader.num_output_tokens is None else reader.num_output_tokens
        )
        await self._chunk(reader.rest(), last=True)
        return Outcome.COMPLETED

    async def _relay_whole(self, response: aiohttp.ClientResponse, incoming: Incoming) -> Outcome:
        payload = await response.read()
        await self._start(response, length=len(payload))
        await self._chunk(payload, last=True)
        if response.status >= HTTPStatus.INTERNAL_SERVER_ERROR:
            return Outcome.FAILED
        if response.status >= HTTPStatus.BAD_REQUEST:
            return Outcome.REFUSED
        with contextlib.suppress(orjson.JSONDecodeError):
            answer = orjson.loads(payload)
            if isinstance(answer, dict):
                self._exchange.num_prompt_tokens, self._exchange.num_output_tokens = usage_of(answer)
        return Outcome.COMPLETED

    async def _start(self, response: aiohttp.ClientResponse, *, length: int | None = None) -> None:
        headers = [
            (name.lower().encode("latin-1"), value.encode("latin-1"))
            for name, value in forwardable(response.raw_headers)
            if name.lower() != "x-request-id"
        ]
        headers += [(name.encode(), value.encode()) for name, value in self._own_headers.items()]
        if length is not None:
            headers.append((b"content-length", str(length).encode()))
        self._started = True
        await self._send({"type": "http.response.start", "status": response.status, "headers": headers})

    async def _chunk(self, data: bytes, *, last: bool = False) -> None:
        await self._send({"type": "http.response.body", "body": data, "more_body": not last})

    async def _fail(self, message: str) -> Outcome:
        """Tell the client, in the form that is still open."""
        error = error_body(message, kind="api_error", code="engine_error")
        if self._started:
            await self._chunk(sse_event(error), last=True)
        else:
            await _json(error, 502, self._own_headers)(self._scope, _never, self._send)
        return Outcome.FAILED


class _ClientGone(Exception):
    """The client left before it had sent its request."""


class _Draining(Exception):
    """No new work is accepted."""


async def _read_body(receive: Receive, headers: dict[str, str], limit: int) -> bytes:
    """The request's body.

    Raises:
        RequestError: it is larger than the limit.
        _ClientGone: the client left.
    """
    too_large = RequestError(f"the request body is larger than {limit} bytes", status=413, code="body_too_large")
    declared = headers.get("content-length", "0")
    if declared.isdigit() and int(declared) > limit:
        raise too_large
    parts: list[bytes] = []
    size = 0
    while True:
        message = await receive()
        if message["type"] == "http.disconnect":
            raise _ClientGone
        part: bytes = message.get("body", b"")
        size += len(part)
        if size > limit:
            raise too_large
        parts.append(part)
        if not message.get("more_body", False):
            return b"".join(parts)


async def _until_disconnect(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


async def _never() -> Message:
    await asyncio.Future()  # a plain response asks for nothing
    raise AssertionError("unreachable")


def _json(payload: JSONObject, status: int = 200, headers: dict[str, str] | None = None) -> Response:
    return Response(orjson.dumps(payload), status, headers, media_type="application/json")


async def _http_error(request: HTTPRequest, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    messages = {
        404: f"there is no {request.method} {request.url.path} here",
        405: f"{request.url.path} does not take {request.method}",
    }
    message = messages.get(error.status_code, error.detail)
    body = error_body(message, kind="invalid_request_error", code=HTTPStatus(error.status_code).name.lower())
    return _json(body, error.status_code, dict(error.headers or {}))


async def _bug(_request: HTTPRequest, _error: Exception) -> Response:
    return _json(error_body("internal error of the gateway", kind="api_error", code="internal_error"), 500)
