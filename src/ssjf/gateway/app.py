"""The gateway's HTTP side: what clients may ask, and how an accepted request runs from acceptance to its outcome.

Law of this file: what was accepted by `submit` passes `end`, on every path, also one through an exception or a
cancellation; only the first pass counts. So no slot leaks and no request has two outcomes. A slot is free as soon as
the engine has done its part, however slowly the client reads the last bytes.
"""

import asyncio
import contextlib
import re
import secrets
import time
from dataclasses import dataclass, field
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
from ssjf.gateway.backend import EngineUnreachable, HTTPBackend, forwardable
from ssjf.gateway.child import SupervisedChild
from ssjf.gateway.dispatcher import Dispatcher, Exchange
from ssjf.gateway.incoming import HINT_HEADER, parse
from ssjf.gateway.relay import StreamReader, usage_of
from ssjf.gateway.telemetry import Telemetry
from ssjf.openai import JSONObject, error_body, request_error_body, sse_event

_REQUEST_ID = re.compile(r"[\x21-\x7e]{1,128}")
_MODELS_FRESH_S = 30.0
_MODELS_AGAIN_S = 1.0  # a model that is not on the list may have been loaded since
_EXIT_NOTICED_S = 1.0  # connections break sooner than the exit of the engine is known
_RETRY_AFTER_S = 5
# A body over the limit is read to its end all the same, up to this many bytes: a client that is still sending when the
# connection closes never sees why.
_MAX_DISCARDED_BYTES = 64 * 2**20


@dataclass(slots=True)
class Gateway:
    """Everything that the endpoints share.

    Attributes:
        dispatcher: who waits, who runs.
        backend: where admitted requests go.
        telemetry: counts everything.
        child: the embedded engine's process; None when the engine is not ours.
        accept_hints: clients may give the output length in a header.
        ignore_max_tokens: predictions are not to know the clients' caps.
        max_body_bytes: larger bodies are refused.
        draining: no new work is accepted.
        answers: those under way.
    """

    dispatcher: Dispatcher
    backend: HTTPBackend
    telemetry: Telemetry
    child: SupervisedChild | None = None
    accept_hints: bool = False
    ignore_max_tokens: bool = False
    max_body_bytes: int = 8 * 2**20
    draining: bool = False
    answers: "set[_Answer]" = field(default_factory=set)
    _models: tuple[float, list[JSONObject]] | None = None

    async def models(self, *, max_age_s: float = _MODELS_FRESH_S) -> list[JSONObject]:
        """The engine's models, asked anew when the last answer is old.

        Raises:
            BackendError: the engine cannot tell.
        """
        now = time.monotonic()
        if self._models is None or now - self._models[0] > max_age_s:
            self._models = (now, await self.backend.models())
        return self._models[1]

    async def check_model(self, name: str) -> None:
        """Refuse a model that the engine does not have; where the engine cannot tell, it decides itself.

        Raises:
            RequestError: no such model.
        """
        if not name:
            return
        known: list[str] = []
        for max_age_s in (_MODELS_FRESH_S, _MODELS_AGAIN_S):
            try:
                known = [str(entry["id"]) for entry in await self.models(max_age_s=max_age_s)]
            except BackendError:
                return
            if name in known:
                return
        raise RequestError(
            f"the model {name!r} does not exist; known: {', '.join(known)}",
            status=404,
            param="model",
            code="model_not_found",
        )

    def give_up(self) -> None:
        """End every answer that is under way, now; the clients are told."""
        for answer in self.answers:
            answer.give_up()


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
        engine = gateway.child.state if gateway.child is not None else "ready" if ready else "unreachable"
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
            body = await _read_body(receive, gateway.max_body_bytes)
            if gateway.draining:
                raise _Draining
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
        answers = self._gateway.answers
        answers.add(answer)
        gone = asyncio.create_task(_until_disconnect(receive))
        try:
            await asyncio.wait({answer.work, gone}, return_when=asyncio.FIRST_COMPLETED)
            if answer.given_up:
                await answer.fail("the server is shutting down", status=503, code="draining")
        finally:
            answers.discard(answer)
            gone.cancel()
            answer.work.cancel()
            await asyncio.wait({answer.work, gone})
        if not answer.work.cancelled():
            answer.work.result()  # a bug of ours must show


class _Answer:
    """One exchange's way to the engine and back.

    Attributes:
        work: the task that goes it.
        given_up: the server ends before the answer does.
    """

    def __init__(
        self, gateway: Gateway, exchange: Exchange, scope: Scope, send: Send, own_headers: dict[str, str]
    ) -> None:
        self._gateway = gateway
        self._exchange = exchange
        self._scope = scope
        self._send = send
        self._own_headers = own_headers
        self._started = self._finished = False
        self._reader: StreamReader | None = None
        self.given_up = False
        self.work = asyncio.create_task(self._give())
        # not in a `finally` of the task, which a task that is cancelled before its first step never enters
        self.work.add_done_callback(lambda task: self._end(Outcome.CANCELLED if task.cancelled() else Outcome.FAILED))

    def give_up(self) -> None:
        """End it, unfinished."""
        self.given_up = True
        self._end(Outcome.FAILED)
        self.work.cancel()

    def _end(self, outcome: Outcome) -> None:
        self._gateway.dispatcher.end(self._exchange, outcome)

    async def _give(self) -> None:
        """Wait for a slot, ask the engine, pass its answer on."""
        exchange, gateway = self._exchange, self._gateway
        incoming = exchange.incoming
        headers = forwardable(self._scope["headers"])
        while True:
            await exchange.admitted
            try:
                async with gateway.backend.request(
                    "POST", incoming.path, headers=headers, body=incoming.body
                ) as response:
                    in_pieces = incoming.stream and response.content_type != "application/json"
                    await (self._relay_stream(response) if in_pieces else self._relay_whole(response))
            except (BackendError, aiohttp.ClientError, TimeoutError) as error:
                # before the slot goes to the next: if the engine has died, nobody is to be sent to it
                died = gateway.child is not None and await gateway.child.ends_within(_EXIT_NOTICED_S)
                if died and isinstance(error, EngineUnreachable):
                    gateway.dispatcher.put_back(exchange)  # the next engine has it
                    continue
                broke_off = f"the engine broke off ({type(error).__name__})"
                await self.fail(str(error) if isinstance(error, BackendError) else broke_off)
            return

    async def _relay_stream(self, response: aiohttp.ClientResponse) -> None:
        exchange = self._exchange
        self._reader = reader = StreamReader(usage_wanted=exchange.incoming.usage_wanted)
        await self._start(response)
        async for data in response.content.iter_any():
            events = reader.feed(data)
            if exchange.first_token_at is None and reader.num_content_events:
                exchange.first_token_at = time.monotonic()
            if events:
                await self._chunk(events)
        if not (reader.complete or reader.failed):
            await self.fail("the engine ended the stream before its end")
            return
        exchange.num_prompt_tokens = reader.num_prompt_tokens
        exchange.num_output_tokens = reader.num_output_tokens or reader.num_content_events or None
        self._end(Outcome.FAILED if reader.failed else Outcome.COMPLETED)
        await self._chunk(reader.end(), last=True)

    async def _relay_whole(self, response: aiohttp.ClientResponse) -> None:
        payload = await response.read()
        self._end(self._judge(response.status, payload))
        await self._start(response, length=len(payload))
        await self._chunk(payload, last=True)

    def _judge(self, status: int, payload: bytes) -> Outcome:
        """What an answer in one piece comes to; its true lengths are noted."""
        if status >= HTTPStatus.INTERNAL_SERVER_ERROR:
            return Outcome.FAILED
        if status >= HTTPStatus.BAD_REQUEST:
            return Outcome.REFUSED
        with contextlib.suppress(orjson.JSONDecodeError):
            answer = orjson.loads(payload)
            if isinstance(answer, dict):
                self._exchange.num_prompt_tokens, self._exchange.num_output_tokens = usage_of(answer)
        return Outcome.COMPLETED

    async def _start(self, response: aiohttp.ClientResponse, *, length: int | None = None) -> None:
        exchange = self._exchange
        self._own_headers["x-ssjf-queue-ms"] = f"{1000 * exchange.queued_s:.3f}"
        if exchange.decided_by is not None and exchange.decided_by.source != "fallback":
            self._own_headers["x-ssjf-predicted-tokens"] = f"{exchange.decided_by.num_output_tokens:.1f}"
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
        self._finished = last
        await self._send({"type": "http.response.body", "body": data, "more_body": not last})

    async def fail(self, message: str, *, status: int = 502, code: str = "engine_error") -> None:
        """The answer ends here; tell the client, in the form that is still open."""
        self._end(Outcome.FAILED)
        error = error_body(message, kind="api_error", code=code)
        if self._finished:
            return
        if not self._started:
            await _json(error, status, self._own_headers)(self._scope, _never, self._send)
        else:
            cut_off = self._reader is not None and self._reader.mid_event
            await self._chunk((b"\n\n" if cut_off else b"") + sse_event(error), last=True)


class _ClientGone(Exception):
    """The client left before it had sent its request."""


class _Draining(Exception):
    """No new work is accepted."""


async def _read_body(receive: Receive, limit: int) -> bytes:
    """The request's body.

    Raises:
        RequestError: it is larger than the limit.
        _ClientGone: the client left.
    """
    parts: list[bytes] = []
    size, more = 0, True
    while more and size <= _MAX_DISCARDED_BYTES:
        message = await receive()
        if message["type"] == "http.disconnect":
            raise _ClientGone
        part = message.get("body", b"")
        size, more = size + len(part), message.get("more_body", False)
        if size <= limit:
            parts.append(part)
        else:
            parts.clear()
    if size > limit:
        raise RequestError(f"the request body is larger than {limit} bytes", status=413, code="body_too_large")
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
