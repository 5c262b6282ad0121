"""What requests that cost an engine something have in common: who may, how much, and what they are told if not."""

import asyncio
import contextlib
import re
import secrets
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass, field
from urllib.parse import unquote_to_bytes

from starlette.routing import Route
from starlette.types import Receive, Scope, Send

from ssjf.asgi import ClientGone, receive_body
from ssjf.errors import QueueFull, RequestError
from ssjf.gateway import clock
from ssjf.gateway.backends.pool import Pool
from ssjf.gateway.child import SupervisedChild
from ssjf.gateway.dispatcher import Dispatcher, Unavailable
from ssjf.gateway.http.answer import Answer, Patience
from ssjf.gateway.http.replies import reply
from ssjf.gateway.keys import Keys
from ssjf.gateway.telemetry import Telemetry
from ssjf.openai import error_body, request_error_body

_REQUEST_ID = re.compile(r"[\x21-\x7e]{1,128}")
_DRAINING_RETRY_S = 5
_BODY_S = 60.0  # for a client to send its body


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
        max_arriving_bytes: of all bodies that are being sent or pass through, together; more are refused.
        draining: no new work is accepted.
        pages: further addresses.
        answers: all that have not ended.
        under_way: those that have been sent to an engine.
        passing: answers that pass through unscheduled and have not ended.
        arriving_bytes: of bodies that have not been accepted yet, and of those that pass through.
    """

    dispatcher: Dispatcher
    pool: Pool
    telemetry: Telemetry
    keys: Keys
    patience: Patience = field(default_factory=Patience)
    child: SupervisedChild | None = None
    ignore_max_tokens: bool = False
    max_body_bytes: int = 8 * 2**20
    max_arriving_bytes: int = 256 * 2**20
    draining: bool = False
    pages: list[Route] = field(default_factory=list)
    answers: set[Answer] = field(default_factory=set)
    under_way: set[Answer] = field(default_factory=set)
    passing: set["asyncio.Task[None]"] = field(default_factory=set)
    arriving_bytes: int = 0

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

    async def wait_until_idle(self) -> None:
        """Return when nobody waits or runs."""
        await self.dispatcher.wait_until_idle()
        if self.passing:
            await asyncio.wait(self.passing)


class Draining(Exception):
    """No new work is accepted."""


@dataclass(slots=True)
class Asked:
    """One request as it came.

    Attributes:
        scope, receive, send: of ASGI.
        headers: by lower-case name.
        own_headers: those that the gateway adds to the answer.
        started: the client has got the beginning of an answer.
    """

    scope: Scope
    receive: Receive
    send: Send
    headers: Mapping[str, str]
    own_headers: dict[str, str]
    started: bool = False

    @property
    def path(self) -> str:
        """As it came, with its query."""
        raw: bytes = self.scope["raw_path"]
        return raw.decode("ascii") + self.query

    @property
    def query(self) -> str:
        """With its question mark; "" for none."""
        query = self.scope["query_string"].decode("latin-1")
        return f"?{query}" if query else ""


class Endpoint:
    """A plain ASGI application."""

    def __init__(self, gateway: Gateway) -> None:
        self._gateway = gateway

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request, or say why not."""
        headers = {name.decode("latin-1").lower(): value.decode("latin-1") for name, value in scope["headers"]}
        request_id = headers.get("x-request-id", "")
        if not _REQUEST_ID.fullmatch(request_id):
            request_id = f"req-{secrets.token_hex(8)}"
        own_headers = {"x-request-id": request_id}
        telemetry = self._gateway.telemetry
        try:
            _check_path(scope)
            await self.serve(Asked(scope, receive, send, headers, own_headers))
        except ClientGone:
            return
        except Draining:
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

    async def serve(self, asked: Asked) -> None:
        """Answer. Errors are raised before anything is sent, and not after.

        Raises:
            RequestError: this is not for us, or nobody could serve it.
            QueueFull: not now.
            Unavailable: nobody is there to serve it.
            Draining: it came too late.
            ClientGone: nobody is there to be answered.
        """
        raise NotImplementedError

    @contextlib.asynccontextmanager
    async def body(self, receive: Receive) -> AsyncIterator[bytes]:
        """The request's body, which has its part of the memory for bodies that arrive until the block ends.

        Raises:
            RequestError: it is larger than the limit, or comes too slowly.
            QueueFull: too much is being sent at once.
            Draining, ClientGone: as in `serve`.
        """
        arriving = _Arriving(self._gateway)
        try:
            try:
                async with asyncio.timeout(_BODY_S):
                    body = await receive_body(receive, self._gateway.max_body_bytes, taken=arriving.take)
            except TimeoutError:
                raise RequestError(
                    f"the request body did not come within {_BODY_S:g} s", status=408, code="body_too_slow"
                ) from None
            if self._gateway.draining:
                raise Draining
            yield body
        finally:
            self._gateway.arriving_bytes -= arriving.num_bytes


class _Arriving:
    """What has come of one body, beside all others."""

    def __init__(self, gateway: Gateway) -> None:
        self._gateway = gateway
        self.num_bytes = 0

    def take(self, num_bytes: int) -> None:
        self.num_bytes += num_bytes
        self._gateway.arriving_bytes += num_bytes
        if self._gateway.arriving_bytes > self._gateway.max_arriving_bytes:
            raise QueueFull("the requests that are being sent fill the memory set aside for them")


def _check_path(scope: Scope) -> None:
    """Refuse paths that an engine, or a proxy before it, may read as others.

    Raises:
        RequestError: it is such a path.
    """
    raw: bytes = scope["raw_path"]
    _, *segments, last = unquote_to_bytes(raw).split(b"/")
    if not raw.isascii() or any(segment in (b"", b".", b"..") for segment in segments) or last in (b".", b".."):
        raise RequestError("the path must not have empty segments, '.' or '..'", code="invalid_path")
