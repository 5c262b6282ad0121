"""What is not scheduled: sent on to an engine as it came, answered as it is answered."""

import asyncio
from collections.abc import Mapping

import aiohttp
import orjson

from ssjf.asgi import until_disconnect
from ssjf.errors import BackendError
from ssjf.gateway import clock
from ssjf.gateway.backends.http import EngineUnreachable, forwardable
from ssjf.gateway.backends.pool import Member
from ssjf.gateway.dispatcher import Unavailable
from ssjf.gateway.http.endpoint import Asked, Endpoint
from ssjf.gateway.http.incoming import Caller
from ssjf.gateway.http.replies import reply
from ssjf.gateway.keys import NOBODY
from ssjf.openai import dump_json_object, error_body

_ASKS_WHETHER = "OPTIONS"
_MODELS = "/v1/models/"  # what follows is a model's name


class PassThrough(Endpoint):
    """Everything under /v1 but completions."""

    async def serve(self, asked: Asked) -> None:
        """Send it on; see `Endpoint.serve`."""
        gateway, scope = self._gateway, asked.scope
        # browsers ask, without a key, whether they may ask
        caller = NOBODY if scope["method"] == _ASKS_WHETHER else gateway.keys.caller(asked.headers)
        async with self.body(asked.receive) as sent:
            await self._see_through(asked, b"" if caller is NOBODY else sent, caller)

    async def _see_through(self, asked: Asked, sent: bytes, caller: Caller) -> None:
        gateway, scope = self._gateway, asked.scope
        body, model = _read(sent, asked.headers, keep_priority=caller.hints)
        if scope["path"].startswith(_MODELS):
            model = scope["path"].removeprefix(_MODELS)
        servers = [server for server in await gateway.pool.servers_for(model) if server.open]
        if not servers:
            raise Unavailable("no engine that could serve this request is in order")
        now = clock.now()
        members = [gateway.pool.of(s) for s in sorted(servers, key=lambda server: server.work_left_s(now))]
        passing = asyncio.create_task(self._pass(asked, members, body))
        gone = asyncio.create_task(until_disconnect(asked.receive))
        gateway.passing.add(passing)
        try:
            await asyncio.wait({passing, gone}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            gateway.passing.discard(passing)
            passing.cancel()
            gone.cancel()
            await asyncio.wait({passing, gone})
        if not passing.cancelled():
            passing.result()

    async def _pass(self, asked: Asked, members: list[Member], body: bytes) -> None:
        """Try one engine after the other, as long as they cannot even be reached."""
        gateway = self._gateway
        failure = "the engine failed"
        for member in members:
            try:
                async with asyncio.timeout(gateway.patience.total_s):
                    await self._ask(asked, member, body)
            except (BackendError, aiohttp.ClientError, TimeoutError) as error:
                if asked.started:
                    raise _BrokenOff from error  # the server closes the connection: the client sees that it is cut off
                failure = f"the engine failed ({type(error).__name__})"
                if not isinstance(error, EngineUnreachable):
                    break  # it may have begun with it
                if gateway.child is None:
                    gateway.pool.failed(member, unreachable=True)
            else:
                return
        gateway.telemetry.passed_through(502)
        told = error_body(failure, kind="api_error", code="engine_error")
        await reply(told, 502, asked.own_headers)(asked.scope, asked.receive, asked.send)

    async def _ask(self, asked: Asked, member: Member, body: bytes) -> None:
        patience = self._gateway.patience
        method = asked.scope["method"]
        headers = forwardable(asked.scope["headers"], keep_keys=self._gateway.keys.required)
        own_key = method != _ASKS_WHETHER  # nobody asks with our key who has not shown one
        async with asyncio.timeout(patience.first_token_s) as limit:
            async with member.http.request(method, asked.path, headers=headers, body=body, own_key=own_key) as response:
                limit.reschedule(None)
                self._gateway.telemetry.passed_through(response.status)
                await _start(asked, response)
                loop = asyncio.get_running_loop()
                limit.reschedule(loop.time() + patience.stall_s)
                async for data in response.content.iter_any():
                    await asked.send({"type": "http.response.body", "body": data, "more_body": True})
                    limit.reschedule(loop.time() + patience.stall_s)
                await asked.send({"type": "http.response.body", "body": b""})


async def _start(asked: Asked, response: aiohttp.ClientResponse) -> None:
    headers = [(name, value) for name, value in forwardable(response.raw_headers) if name.lower() != b"x-request-id"]
    headers += [(name.encode(), value.encode()) for name, value in asked.own_headers.items()]
    asked.started = True
    await asked.send({"type": "http.response.start", "status": response.status, "headers": headers})


class _BrokenOff(Exception):
    """An engine broke off in the middle of an answer that passes through."""


def _read(body: bytes, headers: Mapping[str, str], *, keep_priority: bool) -> tuple[bytes, str]:
    """A body of unknown kind, without a priority if that is not the client's to give, and the model it names, or ""."""
    if not body or "json" not in headers.get("content-type", "json").lower():
        return body, ""
    try:
        fields = orjson.loads(body)
    except orjson.JSONDecodeError:
        return body, ""
    if not isinstance(fields, dict):
        return body, ""
    if not keep_priority and "priority" in fields:
        del fields["priority"]
        body = dump_json_object(fields)
    model = fields.get("model")
    return body, model if isinstance(model, str) else ""
