"""The gateway's HTTP side: what clients may ask.

Chat completions and completions are scheduled; whatever else lies under /v1 passes through. How an accepted request
runs is told in `ssjf.gateway.http.answer`.
"""

import asyncio
import re
import secrets
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from http import HTTPStatus

import aiohttp
import orjson
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request as HTTPRequest
from starlette.responses import Response
from starlette.routing import Route
from starlette.types import Receive, Scope, Send

from ssjf.errors import BackendError, QueueFull, RequestError
from ssjf.gateway import clock
from ssjf.gateway.backends.http import forwardable
from ssjf.gateway.backends.pool import Pool
from ssjf.gateway.child import SupervisedChild
from ssjf.gateway.dispatcher import Dispatcher, Exchange, Unavailable
from ssjf.gateway.http.answer import Answer, Patience, Way
from ssjf.gateway.http.incoming import parse
from ssjf.gateway.http.keys import Keys
from ssjf.gateway.http.openapi import openapi
from ssjf.gateway.http.replies import reply
from ssjf.gateway.telemetry import Telemetry
from ssjf.openai import error_body, request_error_body

_REQUEST_ID = re.compile(r"[\x21-\x7e]{1,128}")
_DRAINING_RETRY_S = 5
_BODY_S = 60.0  # for a client to send its body
# A body over the limit is read to its end all the same, up to this many bytes: a client that is still sending when the
# connection closes never sees why.
_MAX_DISCARDED_BYTES = 64 * 2**20


@dataclass(slots=True)
class Gateway:
    """Everything that the endpoints share.

    Attributes:
        dispatcher: who waits, who runs.
        pool: where admitted requests go.
        telemetry: counts everything.
        keys: who may come in.
        patience: how long one waits for whom.
        child: the embedded engine's process; None when the engine is not ours.
        ignore_max_tokens: predictions are not to know the clients' caps.
        max_body_bytes: larger bodies are refused.
        draining: no new work is accepted.
        pages: further addresses.
        answers: all that have not ended.
        under_way: those that have been sent to an engine.
    """

    dispatcher: Dispatcher
    pool: Pool
    telemetry: Telemetry
    keys: Keys
    patience: Patience = field(default_factory=Patience)
    child: SupervisedChild | None = None
    ignore_max_tokens: bool = False
    max_body_bytes: int = 8 * 2**20
    draining: bool = False
    pages: list[Route] = field(default_factory=list)
    answers: set[Answer] = field(default_factory=set)
    under_way: set[Answer] = field(default_factory=set)

    def give_up(self) -> None:
        """End every answer that is under way, now; the clients are told."""
        for answer in self.answers:
            answer.give_up()

    def look(self) -> None:
        """Find who has kept an answer waiting too long; called a few times a second."""
        now = clock.now()
        for answer in list(self.under_way):
            answer.look(now)
        for lane in self.dispatcher.lanes:
            members = [self.pool.of(server) for server in lane.servers.servers]
            if lane.scheduler.waiting and all(now > member.hopeless_at() for member in members):
                gone = Unavailable("no engine that could serve this request is in order")
                for exchange in self.dispatcher.live:
                    if exchange.lane is lane:
                        self.dispatcher.refuse_waiting(exchange, gone)


def make_app(gateway: Gateway) -> Starlette:
    """The ASGI application."""

    async def models(request: HTTPRequest) -> Response:
        gateway.keys.caller(request.headers)
        try:
            return reply({"object": "list", "data": await gateway.pool.models()})
        except BackendError as error:
            return reply(error_body(str(error), kind="api_error", code="engine_unavailable"), 503)

    async def health(_: HTTPRequest) -> Response:
        members = gateway.pool.members
        ready = [await member.http.healthy() for member in members]
        status = "draining" if gateway.draining else "ok" if any(ready) else "engine unavailable"
        engine = gateway.child.state if gateway.child is not None else "ready" if any(ready) else "unreachable"
        state = {
            "status": status,
            "engine": engine,
            "backends": {m.name: "ready" if well else "unreachable" for m, well in zip(members, ready, strict=True)},
            "live_requests": gateway.dispatcher.num_live,
        }
        return reply(state, 200 if status == "ok" else 503)

    async def metrics(request: HTTPRequest) -> Response:
        gateway.keys.admin(request.headers)
        return Response(gateway.telemetry.page(), media_type="text/plain; version=0.0.4")

    completions = _Completions(gateway)
    methods = ["GET", "POST", "PUT", "PATCH", "DELETE"]
    return Starlette(
        routes=[
            Route("/v1/chat/completions", completions),
            Route("/v1/completions", completions),
            Route("/v1/models", models, methods=["GET"]),
            Route("/v1/{rest:path}", _PassThrough(gateway), methods=methods),
            Route("/healthz", health, methods=["GET"]),
            Route("/health", health, methods=["GET"]),  # where clients of vLLM look for it
            Route("/metrics", metrics, methods=["GET"]),
            Route("/openapi.json", openapi, methods=["GET"]),
            *gateway.pages,
        ],
        exception_handlers={HTTPException: _http_error, RequestError: _refused, Exception: _bug},
    )


class _Endpoint:
    """What requests that cost an engine something have in common, as a plain ASGI application."""

    def __init__(self, gateway: Gateway) -> None:
        self._gateway = gateway

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        headers = {name.decode("latin-1").lower(): value.decode("latin-1") for name, value in scope["headers"]}
        request_id = headers.get("x-request-id", "")
        if not _REQUEST_ID.fullmatch(request_id):
            request_id = f"req-{secrets.token_hex(8)}"
        own_headers = {"x-request-id": request_id}
        telemetry = self._gateway.telemetry
        try:
            go_on = await self._accept(scope, receive, headers, own_headers)
        except _ClientGone:
            return
        except _Draining:
            telemetry.rejected("draining")
            own_headers["retry-after"] = str(_DRAINING_RETRY_S)
            body = error_body("the server is shutting down", kind="api_error", code="draining")
            await reply(body, 503, own_headers)(scope, receive, send)
        except RequestError as error:
            telemetry.rejected("unauthorized" if error.status in (401, 403) else "invalid")
            await reply(request_error_body(error), error.status, own_headers)(scope, receive, send)
        except Unavailable as error:
            telemetry.rejected("no_backend")
            own_headers["retry-after"] = str(_DRAINING_RETRY_S)
            body = error_body(str(error), kind="api_error", code="engine_unavailable")
            await reply(body, 503, own_headers)(scope, receive, send)
        except QueueFull as error:
            telemetry.rejected("queue_full")
            seconds = self._gateway.dispatcher.retry_after_s()
            own_headers |= {"retry-after": str(seconds), "retry-after-ms": str(1000 * seconds)}
            body = error_body(f"{error}; try again later", kind="rate_limit_error", code="queue_full")
            await reply(body, 429, own_headers)(scope, receive, send)
        else:
            await go_on(scope, receive, send, own_headers)

    async def _accept(
        self, scope: Scope, receive: Receive, headers: Mapping[str, str], own_headers: dict[str, str]
    ) -> "_GoOn":
        raise NotImplementedError

    async def _body(self, receive: Receive) -> bytes:
        body = await _read_body(receive, self._gateway.max_body_bytes)
        if self._gateway.draining:
            raise _Draining
        return body


_GoOn = Callable[[Scope, Receive, Send, dict[str, str]], Awaitable[None]]


class _Completions(_Endpoint):
    """The two scheduled endpoints."""

    async def _accept(
        self, scope: Scope, receive: Receive, headers: Mapping[str, str], own_headers: dict[str, str]
    ) -> _GoOn:
        gateway = self._gateway
        if scope["method"] != "POST":
            own_headers["allow"] = "POST"
            message = f"{scope['path']} does not take {scope['method']}"
            raise RequestError(message, status=405, code="method_not_allowed")
        caller = gateway.keys.caller(headers)
        incoming = parse(
            scope["path"],
            await self._body(receive),
            headers,
            # the scheduler's id is ours: clients may send the same x-request-id twice
            request_id=secrets.token_hex(8),
            client_id=own_headers["x-request-id"],
            caller=caller,
            ignore_max_tokens=gateway.ignore_max_tokens,
        )
        servers = await gateway.pool.servers_for(incoming.request.model)
        if all(clock.now() > gateway.pool.of(server).hopeless_at() for server in servers):
            raise Unavailable("no engine that could serve this request is in order")
        exchange = gateway.dispatcher.submit(incoming, servers)

        async def run(scope: Scope, receive: Receive, send: Send, own_headers: dict[str, str]) -> None:
            await self._run(exchange, scope, receive, send, own_headers)

        return run

    async def _run(
        self, exchange: Exchange, scope: Scope, receive: Receive, send: Send, own_headers: dict[str, str]
    ) -> None:
        """See an accepted exchange through, whatever client and engine do."""
        gateway = self._gateway
        way = Way(
            gateway.dispatcher,
            gateway.pool,
            gateway.patience,
            gateway.child,
            gateway.telemetry.retried,
            gateway.under_way,
            gateway.keys.required,
        )
        answer = Answer(way, exchange, scope, send, own_headers)
        gateway.answers.add(answer)
        gone = asyncio.create_task(_until_disconnect(receive))
        try:
            await asyncio.wait({answer.work, gone}, return_when=asyncio.FIRST_COMPLETED)
            if answer.given_up:
                await answer.fail("the server is shutting down", status=503, code="draining")
        finally:
            gateway.answers.discard(answer)
            gone.cancel()
            answer.work.cancel()
            await asyncio.wait({answer.work, gone})
        if not answer.work.cancelled():
            answer.work.result()  # a bug of ours must show


class _PassThrough(_Endpoint):
    """Everything else under /v1: sent on as it came, answered as it is answered."""

    async def _accept(
        self, scope: Scope, receive: Receive, headers: Mapping[str, str], own_headers: dict[str, str]
    ) -> _GoOn:
        gateway = self._gateway
        gateway.keys.caller(headers)
        body = await self._body(receive)
        servers = [server for server in await gateway.pool.servers_for(_model_in(body, headers)) if server.open]
        if not servers:
            raise Unavailable("no engine that could serve this request is in order")
        now = clock.now()
        member = gateway.pool.of(min(servers, key=lambda server: server.work_left_s(now)))
        query = scope["query_string"]
        path = scope["raw_path"].decode("latin-1") + (f"?{query.decode('latin-1')}" if query else "")

        async def run(scope: Scope, receive: Receive, send: Send, own_headers: dict[str, str]) -> None:
            sent = forwardable(scope["headers"], keep_keys=gateway.keys.required)
            started = False
            try:
                async with member.http.request(scope["method"], path, headers=sent, body=body) as response:
                    answered = [
                        (name.encode("latin-1"), value.encode("latin-1"))
                        for name, value in forwardable(response.raw_headers)
                        if name.lower() != "x-request-id"
                    ]
                    answered += [(name.encode(), value.encode()) for name, value in own_headers.items()]
                    started = True
                    gateway.telemetry.passed_through(response.status)
                    await send({"type": "http.response.start", "status": response.status, "headers": answered})
                    async with asyncio.timeout(gateway.patience.total_s):
                        async for data in response.content.iter_any():
                            await send({"type": "http.response.body", "body": data, "more_body": True})
                    await send({"type": "http.response.body", "body": b""})
            except (BackendError, aiohttp.ClientError, TimeoutError) as error:
                if started:
                    raise _BrokenOff from error  # the server closes the connection: the client sees that it is cut off
                gateway.telemetry.passed_through(502)
                failure = error_body(
                    f"the engine failed ({type(error).__name__})", kind="api_error", code="engine_error"
                )
                await reply(failure, 502, own_headers)(scope, receive, send)

        async def until_gone(scope: Scope, receive: Receive, send: Send, own_headers: dict[str, str]) -> None:
            passing = asyncio.create_task(run(scope, receive, send, own_headers))
            gone = asyncio.create_task(_until_disconnect(receive))
            try:
                await asyncio.wait({passing, gone}, return_when=asyncio.FIRST_COMPLETED)
            finally:
                passing.cancel()
                gone.cancel()
                await asyncio.wait({passing, gone})
            if not passing.cancelled():
                passing.result()

        return until_gone


class _ClientGone(Exception):
    """The client left before it had sent its request."""


class _Draining(Exception):
    """No new work is accepted."""


class _BrokenOff(Exception):
    """An engine broke off in the middle of an answer that passes through."""


def _model_in(body: bytes, headers: Mapping[str, str]) -> str:
    """The model that a body of unknown kind names; "" if none."""
    if not body or "json" not in headers.get("content-type", "json"):
        return ""
    try:
        fields = orjson.loads(body)
    except orjson.JSONDecodeError:
        return ""
    model = fields.get("model") if isinstance(fields, dict) else None
    return model if isinstance(model, str) else ""


async def _read_body(receive: Receive, limit: int) -> bytes:
    """The request's body.

    Raises:
        RequestError: it is larger than the limit, or comes too slowly.
        _ClientGone: the client left.
    """
    try:
        async with asyncio.timeout(_BODY_S):
            return await _receive_body(receive, limit)
    except TimeoutError:
        raise RequestError(
            f"the request body did not come within {_BODY_S:g} s", status=408, code="body_too_slow"
        ) from None


async def _receive_body(receive: Receive, limit: int) -> bytes:
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


async def _http_error(request: HTTPRequest, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    messages = {
        404: f"there is no {request.method} {request.url.path} here",
        405: f"{request.url.path} does not take {request.method}",
    }
    message = messages.get(error.status_code, error.detail)
    body = error_body(message, kind="invalid_request_error", code=HTTPStatus(error.status_code).name.lower())
    return reply(body, error.status_code, dict(error.headers or {}))


async def _refused(_request: HTTPRequest, error: Exception) -> Response:
    assert isinstance(error, RequestError)
    return reply(request_error_body(error), error.status)


async def _bug(_request: HTTPRequest, _error: Exception) -> Response:
    return reply(error_body("internal error of the gateway", kind="api_error", code="internal_error"), 500)
