"""The edge: what reaches the application, and what is turned away before.

uvicorn parses HTTP with llhttp, which is strict: two lengths, a length beside chunks, or bare line feeds are errors, so
that nobody before or behind this server can take one request for two. What it has no limit for has one here: the size
of a request's head and of whatever else is no body, the time that the head may take to come, the time for the last
bytes of an answer to be taken, and the number of connections. Trailers are dropped: nobody is to take them for headers.
Requests that are sent ahead, before an earlier one is answered, are not read: a connection has one request at a time,
so that a client who leaves is noticed; it is closed after that one, and its client may send the others again. Whatever
is turned away is told why in OpenAI's shape, and leaves no trace in the log.

This module does not know what the application does, nor keys; bodies are limited where they are read.
"""

import asyncio
import contextlib
import functools
import logging
import socket
from collections.abc import Iterator
from dataclasses import dataclass
from http import HTTPStatus
from typing import Any

import httptools
import orjson
import uvicorn
from starlette.types import ASGIApp
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from ssjf.openai import error_body

_log = logging.getLogger(__name__)
_FLUSH_S = 5  # for the last bytes of answers, once every request has ended
_KEEP_ALIVE_S = 75
_FRAMING = 16  # bytes for each byte of a body that comes in the smallest chunks
_MANY = 2**20  # connections, where the system sets no limit


@dataclass(frozen=True, slots=True)
class Limits:
    """What one connection may cost before the application hears of it.

    Attributes:
        head_bytes: request line and headers together; framing of a body may come to twice that and 16 times the body.
        head_s: from a request's first byte, or the connection's beginning, to the end of its headers.
        flush_s: for a client to take the last bytes of an answer on a connection that is being closed.
        connections: open at once, those of requests that wait included.
    """

    head_bytes: int = 64 * 2**10
    head_s: float = 30.0
    flush_s: float = 120.0
    connections: int = _MANY


class Refused(Exception):
    """A request that the application never hears of.

    Args:
        status: of the answer.
        message: for people.
        code: for programs.
    """

    def __init__(self, status: HTTPStatus, message: str, code: str) -> None:
        super().__init__(message)
        self.status = status
        self.code = code


class _SentAhead(Exception):
    """Another request, before the last one was answered."""


class Edge(HttpToolsProtocol):
    """One connection of a client."""

    def __init__(self, *args: Any, limits: Limits, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._limits = limits
        self._in_head = False
        self._head_bytes = 0
        self._fed_bytes = self._body_bytes = 0  # of the request under way
        self._deaf = False
        self._head_timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """A client has come."""
        super().connection_made(transport)
        self._await_head()

    def connection_lost(self, exc: Exception | None) -> None:
        """The client has gone, or was sent away."""
        self._head_is_here()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """A piece of whatever the client sends."""
        if self._deaf:
            return
        self._unset_keepalive_if_required()
        if self.cycle is None or self.cycle.response_complete:
            self._await_head()
        try:
            if len(self.connections) > self._limits.connections:
                message = "too many connections are open; try again later"
                raise Refused(HTTPStatus.SERVICE_UNAVAILABLE, message, "too_many_connections")
            self._feed(data)
        except httptools.HttpParserUpgrade:
            self.cycle.keep_alive = False  # answered as if it had not asked for another protocol; nothing comes after
        except httptools.HttpParserError as error:
            cause = error.__context__
            if isinstance(cause, Refused):
                self._refuse(cause)
            elif isinstance(cause, _SentAhead):
                self._deaf = True
                self.cycle.keep_alive = False
            else:
                self._refuse(Refused(HTTPStatus.BAD_REQUEST, "this is no valid HTTP request", "invalid_http"))
        except Refused as error:
            self._refuse(error)

    def _feed(self, data: bytes) -> None:
        head_goes_on = self._in_head
        self.parser.feed_data(data)
        if head_goes_on and self._in_head:
            self._count(len(data))
        self._fed_bytes += len(data)
        if self._fed_bytes - self._body_bytes > 2 * self._limits.head_bytes + _FRAMING * self._body_bytes:
            raise Refused(HTTPStatus.BAD_REQUEST, "the request is mostly framing", "too_much_framing")

    def on_message_begin(self) -> None:
        """The parser has seen the first byte of a request."""
        if self.cycle is not None and not self.cycle.response_complete:
            raise _SentAhead
        self._in_head = True
        self._head_bytes = self._fed_bytes = self._body_bytes = 0
        super().on_message_begin()

    def on_header(self, name: bytes, value: bytes) -> None:
        """The parser has seen a header, or a trailer."""
        if self._in_head:
            super().on_header(name, value)

    def on_body(self, body: bytes) -> None:
        """The parser has seen a piece of a body."""
        self._body_bytes += len(body)
        super().on_body(body)

    def on_response_complete(self) -> None:
        """The application has sent all of an answer."""
        super().on_response_complete()
        self._end_flushing()

    def timeout_keep_alive_handler(self) -> None:
        """No other request has come for a while."""
        super().timeout_keep_alive_handler()
        self._end_flushing()

    def _end_flushing(self) -> None:
        """Who does not take the last bytes on a connection that is being closed keeps it open no longer than this."""
        if self.transport.is_closing():
            self.loop.call_later(self._limits.flush_s, self.transport.abort)

    def on_headers_complete(self) -> None:
        """The parser has seen the whole head of a request."""
        self._in_head = False
        self._head_bytes = 0  # now it is known exactly
        self._count(len(self.url) + sum(len(name) + len(value) for name, value in self.headers))
        self._head_is_here()
        super().on_headers_complete()

    def _count(self, num_bytes: int) -> None:
        self._head_bytes += num_bytes
        limit = self._limits.head_bytes
        if self._head_bytes > limit:
            message = f"the request line and the headers are larger than {limit} bytes"
            raise Refused(HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE, message, "headers_too_large")

    def _await_head(self) -> None:
        if self._head_timer is None:
            self._head_timer = self.loop.call_later(self._limits.head_s, self._too_slow)

    def _head_is_here(self) -> None:
        if self._head_timer is not None:
            self._head_timer.cancel()
            self._head_timer = None

    def _too_slow(self) -> None:
        self._head_timer = None
        message = f"the headers did not come within {self._limits.head_s:g} s"
        self._refuse(Refused(HTTPStatus.REQUEST_TIMEOUT, message, "headers_too_slow"))

    def _refuse(self, error: Refused) -> None:
        """Tell why, unless bytes of an answer are under way, and close the connection."""
        self._head_is_here()
        if self.transport.is_closing():
            return
        cycle = self.cycle
        if cycle is None or cycle.response_complete or not cycle.response_started:
            if cycle is not None:  # it has begun to run when its body turned out to be none
                cycle.disconnected = True
                cycle.message_event.set()
            kind = "invalid_request_error" if error.status < HTTPStatus.INTERNAL_SERVER_ERROR else "api_error"
            body = orjson.dumps(error_body(str(error), kind=kind, code=error.code))
            head = (
                f"HTTP/1.1 {error.status.value} {error.status.phrase}\r\ncontent-type: application/json\r\n"
                f"content-length: {len(body)}\r\nconnection: close\r\n\r\n"
            )
            self.transport.write(head.encode("ascii") + body)
        self.transport.close()
        self._end_flushing()


class Server(uvicorn.Server):
    """uvicorn, with signals left to us: it would close the port at once, and clients are to get a 503."""

    def __init__(self, app: ASGIApp, limits: Limits) -> None:
        config = uvicorn.Config(
            app,
            http=functools.partial(Edge, limits=limits),  # type: ignore[arg-type]
            ws="none",
            log_level="warning",
            access_log=False,
            lifespan="off",
            proxy_headers=False,  # nobody asks where a client is
            server_header=False,
            date_header=False,  # the engine's own headers pass through
            timeout_keep_alive=_KEEP_ALIVE_S,
            timeout_graceful_shutdown=_FLUSH_S,
        )
        super().__init__(config)

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Handle none."""
        yield

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Listen, and say where."""
        await super().startup(sockets)
        for sock in sockets or ():
            host, port = sock.getsockname()[:2]
            _log.info("listening on http://%s:%d", f"[{host}]" if ":" in host else host, port)


def connections_allowed() -> int:
    """Raise this process's limit on open files as far as it goes; how many connections of clients that leaves room for.

    A quarter is set aside for connections to engines and for files.
    """
    try:
        import resource  # noqa: PLC0415 - not to be had on Windows
    except ImportError:
        return _MANY
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    if most == resource.RLIM_INFINITY:
        return _MANY
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    return max(3 * most // 4, 1)
