"""The gateway's HTTP side: what clients may ask.

Chat completions and completions are scheduled; whatever else lies under /v1 passes through. How an accepted request
runs is told in `ssjf.gateway.http.answer`.
"""

import asyncio
import secrets
from http import HTTPStatus

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request as HTTPRequest
from starlette.responses import Response
from starlette.routing import Route

from ssjf.asgi import until_disconnect
from ssjf.errors import BackendError, RequestError
from ssjf.gateway import clock
from ssjf.gateway.dispatcher import Unavailable
from ssjf.gateway.exchange import Exchange
from ssjf.gateway.http.answer import Answer, Way
from ssjf.gateway.http.endpoint import Asked, Endpoint, Gateway
from ssjf.gateway.http.incoming import Caller, parse
from ssjf.gateway.http.openapi import openapi
from ssjf.gateway.http.passing import PassThrough
from ssjf.gateway.http.replies import reply
from ssjf.openai import error_body, request_error_body

_SCHEDULED = ("/v1/chat/completions", "/v1/completions")


def make_app(gateway: Gateway) -> Starlette:
    """The ASGI application."""
    completions, passing = _Completions(gateway), PassThrough(gateway)

    async def models(request: HTTPRequest) -> Response | PassThrough:
        gateway.keys.caller(request.headers)
        try:
            return reply({"object": "list", "data": await gateway.pool.models()})
        except BackendError as error:
            if not gateway.keys.required:
                return passing  # an engine may want the client's own key
            return reply(error_body(str(error), kind="api_error", code="engine_unavailable"), 503)

    async def health(_: HTTPRequest) -> Response:
        # from what is known: nobody without a key is to make the gateway ask its engines
        ready = {member.name: member.server.open for member in gateway.pool.members}
        status = "draining" if gateway.draining else "ok" if any(ready.values()) else "engine unavailable"
        engine = gateway.child.state if gateway.child is not None else "ready" if any(ready.values()) else "unreachable"
        state = {
            "status": status,
            "engine": engine,
            "backends": {name: "ready" if well else "unreachable" for name, well in ready.items()},
            "live_requests": gateway.dispatcher.num_live,
        }
        return reply(state, 200 if status == "ok" else 503)

    async def metrics(request: HTTPRequest) -> Response:
        gateway.keys.admin(request.headers)
        return Response(gateway.telemetry.page(), media_type="text/plain; version=0.0.4")

    return Starlette(
        routes=[
            *(Route(path, passing, methods=["OPTIONS"]) for path in _SCHEDULED),
            *(Route(f"{path}{slash}", completions) for path in _SCHEDULED for slash in ("", "/")),
            Route("/v1/models", models, methods=["GET"]),
            Route("/v1/{rest:path}", passing, methods=["GET", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"]),
            Route("/healthz", health, methods=["GET"]),
            Route("/health", health, methods=["GET"]),  # where clients of vLLM look for it
            Route("/metrics", metrics, methods=["GET"]),
            Route("/openapi.json", openapi, methods=["GET"]),
            *gateway.pages,
        ],
        exception_handlers={HTTPException: _http_error, RequestError: _refused, Exception: _bug},
    )


class _Completions(Endpoint):
    """The two scheduled endpoints."""

    async def serve(self, asked: Asked) -> None:
        """Accept a request and see it through; see `Endpoint.serve`."""
        scope = asked.scope
        if scope["method"] != "POST":
            asked.own_headers["allow"] = "POST"
            message = f"{scope['path']} does not take {scope['method']}"
            raise RequestError(message, status=405, code="method_not_allowed")
        caller = self._gateway.keys.caller(asked.headers)
        await self._run(asked, await self._accept(asked, caller))

    async def _accept(self, asked: Asked, caller: Caller) -> Exchange:
        gateway = self._gateway
        async with self.body(asked.receive) as body:
            incoming = parse(
                asked.scope["path"].rstrip("/"),
                body,
                asked.headers,
                # the scheduler's id is ours: clients may send the same x-request-id twice
                request_id=secrets.token_hex(8),
                client_id=asked.own_headers["x-request-id"],
                query=asked.query,
                caller=caller,
                ignore_max_tokens=gateway.ignore_max_tokens,
            )
            servers = await gateway.pool.servers_for(incoming.request.model)
            if all(clock.now() > gateway.pool.of(server).hopeless_at() for server in servers):
                raise Unavailable("no engine that could serve this request is in order")
            return gateway.dispatcher.submit(incoming, servers)

    async def _run(self, asked: Asked, exchange: Exchange) -> None:
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
        answer = Answer(way, exchange, asked.scope, asked.send, asked.own_headers)
        gateway.answers.add(answer)
        gone = asyncio.create_task(until_disconnect(asked.receive))
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
    body = error_body("internal error of the gateway", kind="api_error", code="internal_error")
    return reply(body, 500, {"connection": "close"})  # as the server does: the next request is to take another one
