"""How an accepted request runs from acceptance to its outcome.

Law of this file: what was accepted passes `end`, on every path, also one through an exception or a cancellation; only
the first pass counts. So no slot leaks and no request has two outcomes. A slot is free as soon as the engine has done
its part, however slowly the client reads the last bytes.

As long as no byte has gone to the client, a request whose engine fails goes to another one that has not failed it.
"""

import asyncio
import contextlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from http import HTTPStatus

import aiohttp
import orjson
from starlette.types import Message, Scope, Send

from ssjf.core.places.servers import Server
from ssjf.core.types import Outcome, Status
from ssjf.errors import BackendError
from ssjf.gateway import clock
from ssjf.gateway.backends.http import EngineUnreachable, forwardable
from ssjf.gateway.backends.pool import Member, Pool
from ssjf.gateway.child import SupervisedChild
from ssjf.gateway.dispatcher import Dispatcher, Expired, Unavailable
from ssjf.gateway.exchange import Exchange
from ssjf.gateway.http.incoming import with_priority
from ssjf.gateway.http.relay import StreamReader, usage_of
from ssjf.gateway.http.replies import never, reply
from ssjf.openai import error_body, sse_event

_EVENT = b"data:"  # in every piece of a stream that brings something
_EXIT_NOTICED_S = 1.0  # connections break sooner than the exit of the engine is known
# such an answer says that this engine is not able, not that the request is wrong
_TRY_ELSEWHERE = {429, 500, 502, 503, 504}


@dataclass(frozen=True, slots=True)
class Patience:
    """How long one waits for whom, in seconds.

    Attributes:
        first_token_s: from dispatch to the first piece of a stream.
        stall_s: between two pieces of a stream, and for a client to take what it is sent.
        total_s: from acceptance to the end.
    """

    first_token_s: float = 600.0
    stall_s: float = 120.0
    total_s: float = 3600.0


@dataclass(frozen=True, slots=True)
class Way:
    """What all answers of a gateway share.

    Attributes:
        dispatcher: who waits, who runs.
        pool: the engines.
        patience: the limits.
        child: the embedded engine's process; None when the engine is not ours.
        retried: called for each attempt at another engine.
        under_way: answers that have been sent to an engine.
        keeps_keys: clients' API keys are the gateway's and go no further.
    """

    dispatcher: Dispatcher
    pool: Pool
    patience: Patience
    child: SupervisedChild | None
    retried: Callable[[], None]
    under_way: "set[Answer]"
    keeps_keys: bool


class _OutOfTime(BackendError):
    """The whole took too long."""


class _Refused(BackendError):
    """An engine's answer is an error, and another engine may have a better one."""


class Answer:
    """One exchange's way to an engine and back.

    Attributes:
        exchange: what was accepted.
        work: the task that goes it.
        given_up: the server ends before the answer does.
    """

    def __init__(self, way: Way, exchange: Exchange, scope: Scope, send: Send, own_headers: dict[str, str]) -> None:
        self.exchange = exchange
        self._way = way
        self._scope = scope
        self._to_client = send
        self._own_headers = own_headers
        self._started = self._finished = False
        self._reader: StreamReader | None = None
        self._overdue: BackendError | None = None
        self._refused_by: list[Member] = []
        self._status = 0
        self._sending_since: float | None = None
        self._heard_at = 0.0
        self.given_up = False
        self._asking = False
        self._expiry = self._set_expiry()
        self.work = asyncio.create_task(self._give())
        # not in a `finally` of the task, which a task that is cancelled before its first step never enters
        self.work.add_done_callback(self._done)

    def give_up(self) -> None:
        """End it, unfinished."""
        self.given_up = True
        self._end(Outcome.FAILED)
        self.work.cancel()

    def look(self, now: float) -> None:
        """Somebody may keep this answer waiting too long; called now and then while it is under way."""
        patience = self._way.patience
        out_of_time = now - self.exchange.job.request.arrival_time > patience.total_s
        if self._sending_since is not None:
            if out_of_time or now - self._sending_since > patience.stall_s:  # the client takes nothing, or too slowly
                self._end(Outcome.CANCELLED)
                self.work.cancel()
        elif self._asking and not self.exchange.ended and self._overdue is None:
            if out_of_time:
                self._overdue = _OutOfTime(f"the answer took longer than {patience.total_s:g} s")
            else:
                self._overdue = self._stalled(now)
            if self._overdue is not None:
                self.work.cancel()  # what it awaits; it goes on as after any failure of the engine

    def _stalled(self, now: float) -> BackendError | None:
        """What the engine has failed to do in time. Any event counts, of what kind it may be; comments do not."""
        exchange, patience = self.exchange, self._way.patience
        if not exchange.incoming.stream:
            return None
        silent_s = now - max(self._heard_at, exchange.dispatched_at)
        limit_s = patience.first_token_s if exchange.first_token_at is None else patience.stall_s
        return BackendError(f"the engine sent nothing for {limit_s:g} s") if silent_s > limit_s else None

    def _set_expiry(self) -> asyncio.TimerHandle:
        request = self.exchange.job.request
        latest = request.arrival_time + self._way.patience.total_s
        if request.deadline is not None:
            latest = min(latest, request.deadline)
        return asyncio.get_running_loop().call_later(max(latest - clock.now(), 0.0), self._expire)

    def _expire(self) -> None:
        if self.exchange.job.status is Status.WAITING:
            gone = Expired("the deadline passed while the request waited")
            self._way.dispatcher.refuse_waiting(self.exchange, gone)

    async def fail(self, message: str, *, status: int = 502, code: str = "engine_error") -> None:
        """The answer ends here; tell the client, in the form that is still open."""
        self._end(Outcome.EXPIRED if code == "deadline_exceeded" else Outcome.FAILED)
        error = error_body(message, kind="api_error", code=code)
        if self._finished:
            return
        if not self._started:
            await reply(error, status, self._own_headers)(self._scope, never, self._send)
        else:
            cut_off = self._reader is not None and self._reader.mid_event
            await self._chunk((b"\n\n" if cut_off else b"") + sse_event(error), last=True)

    def _done(self, work: asyncio.Task[None]) -> None:
        self._expiry.cancel()
        self._way.under_way.discard(self)
        self._end(Outcome.CANCELLED if work.cancelled() else Outcome.FAILED)

    def _end(self, outcome: Outcome) -> None:
        self._way.dispatcher.end(self.exchange, outcome)

    async def _give(self) -> None:
        """Wait for a slot, ask an engine, pass its answer on."""
        exchange, way = self.exchange, self._way
        tried: list[Server] = []
        while await self._is_admitted():
            way.under_way.add(self)
            assert exchange.server is not None
            member = way.pool.of(exchange.server)
            tried.append(exchange.server)
            failure = await self._attempt(member, tried)
            if failure is None:
                self._praise(member)
                return
            if isinstance(failure, _OutOfTime):  # that is no engine's fault alone, and no other has time left for it
                await self.fail(str(failure), status=504, code="timeout")
                return
            unreachable = isinstance(failure, EngineUnreachable)
            if way.child is not None:
                # before the slot goes to the next: if the engine has died, nobody is to be sent to it
                died = await way.child.ends_within(_EXIT_NOTICED_S)
                if died and unreachable:
                    self._wait_again(tried)  # for the next engine
                    continue
            elif isinstance(failure, _Refused):
                if self._status != HTTPStatus.TOO_MANY_REQUESTS:  # who has enough to do is not out of order
                    self._refused_by.append(member)
            else:
                way.pool.failed(member, unreachable=unreachable)
            if not self._started and way.dispatcher.move(exchange, tried):
                way.retried()
                exchange.first_token_at = None
                self._reader = None
                continue
            if unreachable and not way.pool.of(exchange.server).server.open and member.was_up:
                self._wait_again(tried)  # until it is back, or the pool has lost hope
                continue
            await self.fail(str(failure))
            return

    async def _is_admitted(self) -> bool:
        """Wait for a slot; False if there will be none, of which the client is told."""
        try:
            await self.exchange.admitted
        except Expired as error:
            await self.fail(str(error), status=504, code="deadline_exceeded")
        except Unavailable as error:
            self._own_headers["retry-after"] = str(self._way.dispatcher.retry_after_s())
            await self.fail(str(error), status=503, code="engine_unavailable")
        else:
            return True
        return False

    def _praise(self, member: Member) -> None:
        """An engine has answered. Others that had an error for the same request, where this one had none, failed it."""
        if self._status in _TRY_ELSEWHERE:
            return
        self._way.pool.served(member)
        for other in self._refused_by:
            self._way.pool.failed(other, unreachable=False)

    def _wait_again(self, tried: list[Server]) -> None:
        """Nothing has reached an engine: back into the queue."""
        tried.clear()
        self._way.under_way.discard(self)
        self._expiry.cancel()
        self._expiry = self._set_expiry()
        self._way.dispatcher.put_back(self.exchange)

    async def _attempt(self, member: Member, tried: Sequence[Server]) -> BackendError | None:
        """One engine's answer, passed on; the reason why it failed, if it did and nothing more was done about it."""
        self._asking = True
        try:
            await self._ask(member, tried)
        except BackendError as error:
            return error
        except (aiohttp.ClientError, TimeoutError) as error:
            return BackendError(f"the engine broke off ({type(error).__name__})")
        except asyncio.CancelledError:
            task = asyncio.current_task()
            assert task is not None
            if self._overdue is None or self.given_up or task.uncancel() > 0:
                raise
            overdue, self._overdue = self._overdue, None
            return overdue
        finally:
            self._asking = False
        return None

    async def _ask(self, member: Member, tried: Sequence[Server]) -> None:
        exchange = self.exchange
        incoming = exchange.incoming
        headers = forwardable(self._scope["headers"], keep_keys=self._way.keeps_keys)
        body = incoming.body if exchange.priority is None else with_priority(incoming.body, exchange.priority)
        async with member.http.request("POST", incoming.path, headers=headers, body=body) as response:
            self._status = response.status
            if response.status in _TRY_ELSEWHERE and self._has_other(tried):
                raise _Refused(f"the engine answered with status {response.status}")
            if _is_in_pieces(response, incoming.stream) and response.status < HTTPStatus.BAD_REQUEST:
                await self._relay_stream(response, member)
            else:
                await self._relay_whole(response, member)

    def _has_other(self, tried: Sequence[Server]) -> bool:
        return any(server.open and server not in tried for server in self.exchange.lane.servers.servers)

    async def _relay_stream(self, response: aiohttp.ClientResponse, member: Member) -> None:
        exchange = self.exchange
        incoming = exchange.incoming
        self._reader = reader = StreamReader(usage_wanted=incoming.usage_wanted or not incoming.stream)
        async for data in response.content.iter_any():
            now = clock.now()
            if _EVENT in data:
                self._heard_at = now
            events = reader.feed(data)
            if not self._started:
                # not at its headers: until the first piece comes, another engine may still do better
                if reader.nonsense:
                    raise BackendError("the engine answered with something that is no stream of events")
                await self._start(response)
            if exchange.first_token_at is None and reader.num_content_events:
                self._way.dispatcher.first_token(exchange, now)
                seconds = now - exchange.dispatched_at
                self._way.pool.first_token(member, seconds, in_flight=exchange.in_flight)
            if events:
                await self._chunk(events)
        if not (reader.complete or reader.failed):
            raise BackendError("the engine ended the stream before its end")
        exchange.num_prompt_tokens = reader.num_prompt_tokens
        exchange.num_output_tokens = reader.num_output_tokens or reader.num_content_events or None
        self._end(Outcome.FAILED if reader.failed else Outcome.COMPLETED)
        await self._chunk(reader.end(), last=True)

    async def _relay_whole(self, response: aiohttp.ClientResponse, member: Member) -> None:
        exchange = self.exchange
        payload = await response.read()
        outcome = self._judge(response.status, payload)
        if outcome is Outcome.COMPLETED and exchange.num_output_tokens is not None:
            seconds = clock.now() - exchange.dispatched_at
            self._way.pool.answered(member, exchange.num_output_tokens, seconds, in_flight=exchange.in_flight)
        self._end(outcome)
        await self._start(response, length=len(payload))
        await self._chunk(payload, last=True)

    def _judge(self, status: int, payload: bytes) -> Outcome:
        """What an answer in one piece comes to; its true lengths are noted.

        Raises:
            BackendError: it is no answer at all.
        """
        if status >= HTTPStatus.INTERNAL_SERVER_ERROR:
            return Outcome.FAILED
        if status >= HTTPStatus.BAD_REQUEST:
            return Outcome.REFUSED
        answer = None
        with contextlib.suppress(orjson.JSONDecodeError):
            answer = orjson.loads(payload)
        if not isinstance(answer, dict):
            raise BackendError("the engine answered with something that is not a JSON object")
        self.exchange.num_prompt_tokens, self.exchange.num_output_tokens = usage_of(answer)
        return Outcome.COMPLETED

    async def _start(self, response: aiohttp.ClientResponse, *, length: int | None = None) -> None:
        exchange = self.exchange
        self._own_headers["x-ssjf-queue-ms"] = f"{1000 * exchange.queued_s:.3f}"
        if exchange.decided_by is not None and exchange.decided_by.source != "fallback":
            self._own_headers["x-ssjf-predicted-tokens"] = f"{exchange.decided_by.num_output_tokens:.1f}"
        headers = [
            (name.lower(), value)
            for name, value in forwardable(response.raw_headers)
            if name.lower() != b"x-request-id"
        ]
        headers += [(name.encode(), value.encode()) for name, value in self._own_headers.items()]
        if length is not None:
            headers.append((b"content-length", str(length).encode()))
        self._started = True
        await self._send({"type": "http.response.start", "status": response.status, "headers": headers})

    async def _chunk(self, data: bytes, *, last: bool = False) -> None:
        self._finished = last
        await self._send({"type": "http.response.body", "body": data, "more_body": not last})

    async def _send(self, message: Message) -> None:
        self._sending_since = clock.now()
        await self._to_client(message)
        self._sending_since = None


def _is_in_pieces(response: aiohttp.ClientResponse, expected: bool) -> bool:
    """Whether an answer is a stream: the engine has the last word on what it was asked for."""
    if response.content_type == "text/event-stream":
        return True
    return expected and response.content_type != "application/json"
