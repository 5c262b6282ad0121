import asyncio
import logging

import pytest
from starlette.responses import PlainTextResponse
from starlette.types import Receive, Scope, Send

from ssjf.gateway.backends.http import forwardable
from ssjf.gateway.http.server import Limits, connections_allowed
from tests.gateway.http.edge import edge, error_of, read_all, talk

BODY = b"content-length: 4\r\n\r\nabcd"


class App:
    """Answers at once, or when it is told to; remembers which requests reached it whole."""

    def __init__(self) -> None:
        self.paths: list[str] = []
        self.go_on = asyncio.Event()
        self.go_on.set()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        while (message := await receive()).get("more_body"):
            pass
        if message["type"] == "http.disconnect":
            return
        self.paths.append(scope["path"])
        await self.go_on.wait()
        await PlainTextResponse("fine")(scope, receive, send)


@pytest.mark.parametrize(
    "request_bytes",
    [
        b"POST /a HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\ncontent-length: 4\r\n\r\n0\r\n\r\n",
        b"POST /a HTTP/1.1\r\nhost: x\r\ncontent-length: 4\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n",
        b"POST /a HTTP/1.1\r\nhost: x\r\ncontent-length: 5\r\n" + BODY,
        b"POST /a HTTP/1.1\r\nhost: x\r\ntransfer-encoding: xchunked\r\n\r\n0\r\n\r\n",
        b"POST /a HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked, identity\r\n\r\n0\r\n\r\n",
        b"POST /a HTTP/1.1\r\nhost: x\r\ncontent-length : 4\r\n\r\nabcd",
        b"POST /a HTTP/1.1\r\nhost: x\r\nx: 1\r\n content-length: 4\r\n\r\nabcd",
        b"POST /a HTTP/1.1\nhost: x\ncontent-length: 4\n\nabcd",
        b"POST /a HTTP/1.1\r\nhost: x\r\ncontent-length: +4\r\n\r\nabcd",
    ],
)
async def test_what_two_servers_could_read_in_two_ways_is_refused(request_bytes: bytes) -> None:
    app = App()
    async with edge(app) as (_, port):
        status, error = error_of(await talk(port, request_bytes))
    assert (status, error["code"], error["type"]) == (400, "invalid_http", "invalid_request_error")
    assert app.paths == []


@pytest.mark.parametrize(
    "request_bytes",
    [
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",  # a client that speaks TLS
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
        b"CONNECT example.com:443 HTTP/1.1\r\nhost: x\r\n\r\n",
        b"GET http://[ HTTP/1.1\r\nhost: x\r\n\r\n",
        b"GET / HTTP/1.1\r\nhost: a\x00b\r\n\r\n",
    ],
)
async def test_what_is_no_request_for_us_is_refused_without_a_line_in_the_log(
    request_bytes: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    app = App()
    with caplog.at_level(logging.DEBUG):
        async with edge(app) as (_, port):
            status, error = error_of(await talk(port, request_bytes))
    assert (status, error["code"]) == (400, "invalid_http")
    assert app.paths == []
    assert [record for record in caplog.records if record.levelno >= logging.WARNING] == []


async def test_a_head_without_an_end_is_refused_before_it_fills_the_memory() -> None:
    async with edge(App(), Limits(head_bytes=1000)) as (_, port):
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(b"GET / HTTP/1.1\r\n")
        answer = asyncio.create_task(read_all(reader))
        while not answer.done():
            writer.write(b"x-more: " + b"a" * 50 + b"\r\n")
            await asyncio.sleep(0)
        status, error = error_of(await answer)
        writer.close()
    assert (status, error["code"]) == (431, "headers_too_large")


async def test_a_large_head_is_refused_also_when_it_comes_at_once() -> None:
    app = App()
    async with edge(app, Limits(head_bytes=1000)) as (_, port):
        small = b"GET /small HTTP/1.1\r\nhost: x\r\nconnection: close\r\nx: " + b"a" * 900 + b"\r\n\r\n"
        assert (await talk(port, small)).endswith(b"fine")
        large = b"GET /large HTTP/1.1\r\nhost: x\r\nx: " + b"a" * 1000 + b"\r\n\r\n"
        status, error = error_of(await talk(port, large))
    assert (status, error["code"]) == (431, "headers_too_large")
    assert app.paths == ["/small"]


@pytest.mark.parametrize("begun", [b"", b"GET / HTTP/1.1\r\nhost:", b"\r\n"])
async def test_who_does_not_send_a_head_in_time_is_sent_away(begun: bytes) -> None:
    async with edge(App(), Limits(head_s=0.05)) as (server, port):
        status, error = error_of(await talk(port, begun))
        assert not server.server_state.connections
    assert (status, error["code"]) == (408, "headers_too_slow")


async def test_the_time_for_a_head_begins_anew_with_each_request_and_ends_with_it() -> None:
    app = App()
    async with edge(app, Limits(head_s=0.05)) as (_, port):
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        app.go_on.clear()
        writer.write(b"GET /slow HTTP/1.1\r\nhost: x\r\n\r\n")
        await asyncio.sleep(0.1)  # an answer may take longer than a head
        app.go_on.set()
        assert b"200 OK" in await reader.readuntil(b"fine")
        writer.write(b"\r\n")  # no request yet, but no idle connection either
        status, error = error_of(await read_all(reader))
        writer.close()
    assert (status, error["code"]) == (408, "headers_too_slow")


async def test_connections_beyond_the_limit_are_told_to_come_again() -> None:
    app = App()
    async with edge(app, Limits(connections=1)) as (_, port):
        app.go_on.clear()
        first = asyncio.create_task(talk(port, b"GET /first HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n"))
        while not app.paths:
            await asyncio.sleep(0)
        status, error = error_of(await talk(port, b"GET /second HTTP/1.1\r\nhost: x\r\n\r\n"))
        app.go_on.set()
        assert (await first).endswith(b"fine")
    assert (status, error["code"], error["type"]) == (503, "too_many_connections", "api_error")
    assert app.paths == ["/first"]


async def test_what_is_sent_ahead_is_not_read_and_the_connection_is_closed_after_the_first_answer() -> None:
    app = App()
    async with edge(app) as (_, port):
        answers = await talk(port, b"".join(b"GET /%d HTTP/1.1\r\nhost: x\r\n\r\n" % n for n in range(100)))
    assert answers.count(b"fine") == 1
    assert app.paths == ["/0"]


async def test_a_client_who_has_sent_ahead_and_leaves_is_noticed() -> None:
    gone = asyncio.Event()

    async def app(_scope: Scope, receive: Receive, _send: Send) -> None:
        while (await receive())["type"] != "http.disconnect":
            pass
        gone.set()

    async with edge(app) as (_, port):
        _, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(b"GET /0 HTTP/1.1\r\nhost: x\r\n\r\n" * 2)
        await writer.drain()
        writer.close()
        async with asyncio.timeout(60):
            await gone.wait()


async def test_trailers_are_no_headers_and_have_no_room_to_grow() -> None:
    seen: list[list[tuple[bytes, bytes]]] = []

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        while (message := await receive()).get("more_body"):
            pass
        if message["type"] == "http.request":
            seen.append(list(scope["headers"]))
            await PlainTextResponse("fine")(scope, receive, send)

    head = b"POST / HTTP/1.1\r\nhost: x\r\nx-team: a\r\nconnection: close\r\ntransfer-encoding: chunked\r\n\r\n"
    head += b"4\r\nabcd\r\n0\r\n"
    async with edge(app, Limits(head_bytes=1000)) as (_, port):
        assert (await talk(port, head + b"x-team: b\r\n\r\n")).endswith(b"fine")
        assert [value for name, value in seen[0] if name == b"x-team"] == [b"a"]
        for endless in (b"x-more: " + b"a" * 50 + b"\r\n", b"a" * 50):
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            writer.write(head + b"x: ")
            answer = asyncio.create_task(read_all(reader))
            while not answer.done():
                writer.write(endless)
                await asyncio.sleep(0)
            status, error = error_of(await answer)
            writer.close()
            assert (status, error["code"]) == (400, "too_much_framing")
    assert len(seen) == 1


async def test_many_small_chunks_are_a_body_all_the_same() -> None:
    body = b"1\r\na\r\n" * 5000 + b"0\r\n\r\n"
    head = b"POST /small HTTP/1.1\r\nhost: x\r\nconnection: close\r\ntransfer-encoding: chunked\r\n\r\n"
    async with edge(App(), Limits(head_bytes=1000)) as (_, port):
        assert (await talk(port, head, body)).endswith(b"fine")


async def test_who_does_not_take_an_answer_does_not_keep_the_connection() -> None:
    async def app(_scope: Scope, _receive: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": [(b"connection", b"close")]})
        await send({"type": "http.response.body", "body": b"a" * 50_000_000})

    async with edge(app, Limits(flush_s=0.05)) as (server, port):
        reader, writer = await asyncio.open_connection("127.0.0.1", port, limit=1)
        writer.write(b"GET / HTTP/1.1\r\nhost: x\r\n\r\n")
        await writer.drain()
        while not server.server_state.connections:
            await asyncio.sleep(0)
        async with asyncio.timeout(60):
            while server.server_state.connections:
                await asyncio.sleep(0.01)
        assert len(await read_all(reader)) < 50_000_000
        writer.close()


async def test_garbage_behind_a_request_does_not_get_into_its_answer() -> None:
    garbage_is_here = asyncio.Event()

    async def app(_scope: Scope, _receive: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b"half of", "more_body": True})
        await garbage_is_here.wait()
        await send({"type": "http.response.body", "body": b" it"})

    async with edge(app) as (_, port):
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(b"GET / HTTP/1.1\r\nhost: x\r\n\r\n")
        assert b"200 OK" in await reader.readuntil(b"half of\r\n")
        writer.write(b"\x00\x01\x02")
        await writer.drain()
        garbage_is_here.set()
        # whether it was read before the answer ended or after
        assert (await read_all(reader)).startswith(b"3\r\n it\r\n0\r\n\r\n")
        writer.close()


async def test_who_asks_for_another_protocol_is_answered_in_this_one() -> None:
    async with edge(App()) as (_, port):
        upgrade = b"GET / HTTP/1.1\r\nhost: x\r\nconnection: upgrade\r\nupgrade: websocket\r\n\r\n"
        answer = await talk(port, upgrade)
    assert answer.startswith(b"HTTP/1.1 200 OK")
    assert answer.endswith(b"fine")


def test_headers_of_one_hop_are_not_passed_on_and_those_that_connection_names_neither() -> None:
    headers = [
        (b"Connection", b"close, X-Secret"),
        (b"connection", b"x-other"),
        (b"X-Secret", b"1"),
        (b"X-Other", b"1"),
        (b"Keep-Alive", b"timeout=5"),
        (b"TE", b"trailers"),
        (b"Trailer", b"x"),
        (b"Expect", b"100-continue"),
        (b"Upgrade", b"h2c"),
        (b"Proxy-Connection", b"keep-alive"),
        (b"X-Kept", b"1"),
    ]
    assert forwardable(headers) == [(b"X-Kept", b"1")]


def test_there_is_room_for_connections_to_engines_too() -> None:
    allowed = connections_allowed()
    assert allowed >= 1
    resource = pytest.importorskip("resource")
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    assert hard == resource.RLIM_INFINITY or (soft == hard and allowed < hard)
