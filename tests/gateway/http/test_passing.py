"""What is not scheduled, and ways that must not lead around the schedule."""

import asyncio
import contextlib
import hashlib
from collections.abc import AsyncIterator, Callable
from typing import Any

import aiohttp
import orjson
import pytest
from aiohttp import web

from ssjf.config import BackendSettings, KeySettings, ServeSettings
from ssjf.gateway.http.app import make_app
from ssjf.gateway.http.endpoint import Gateway
from ssjf.gateway.keys import new_key
from ssjf.gateway.serve import running_gateway
from ssjf.plugins import make_policy
from tests.gateway.conftest import WordCount
from tests.gateway.http.edge import edge, error_of, talk

JSON = {"content-type": "application/json"}


class Engine:
    """Tells what reached it, or does what it is told to."""

    def __init__(self) -> None:
        self.seen: list[tuple[str, str, dict[str, str], bytes]] = []
        self.behave: Callable[[web.Request], Any] | None = None
        self.url = ""

    @contextlib.asynccontextmanager
    async def running(self) -> AsyncIterator["Engine"]:
        app = web.Application()
        app.router.add_get("/health", self._healthy)
        app.router.add_route("*", "/{rest:.*}", self._any)
        runner = web.AppRunner(app, handler_cancellation=True, shutdown_timeout=0.1)
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        self.url = f"http://127.0.0.1:{runner.addresses[0][1]}"
        try:
            yield self
        finally:
            await runner.cleanup()

    async def _healthy(self, _: web.Request) -> web.Response:
        return web.Response()

    async def _any(self, request: web.Request) -> web.StreamResponse:
        if request.path == "/v1/models":
            return web.json_response({"data": [{"id": "tiny"}]})
        body = await request.read()
        if request.path not in ("/metrics", "/props", "/api/version", "/get_server_info"):  # whence its kind is known
            self.seen.append((request.method, request.raw_path, dict(request.headers), body))
        if self.behave is not None:
            answer: web.StreamResponse = await self.behave(request)
            return answer
        return web.json_response({"ok": True}, headers={"x-engine": "mine"})


@contextlib.asynccontextmanager
async def before(*engines: Engine, **settings: Any) -> AsyncIterator[tuple[Gateway, int]]:
    """A gateway behind its real edge."""
    options = ServeSettings(
        **({"backend": [engine.url for engine in engines], "slots": 1, "policy": "ssjf"} | settings)
    )
    async with (
        running_gateway(
            options, policy=lambda: make_policy("ssjf"), shadow=None, predictor=WordCount(), engine_command=None
        ) as gateway,
        edge(make_app(gateway)) as (_, port),
    ):
        yield gateway, port


@pytest.mark.parametrize(
    "path",
    [
        "/v1/../metrics",
        "/v1/%2e%2e/metrics",
        "/v1/.%2E/flush_cache",
        "/v1/x/../chat/completions",
        "/v1/./chat/completions",
        "/v1//chat/completions",
        "/v1/chat%2F..%2Fcompletions",
        "/v1/embeddings/..",
    ],
)
async def test_no_path_leads_around_the_queue_or_out_of_v1(path: str) -> None:
    async with Engine().running() as engine, before(engine) as (_, port):
        request = f"POST {path} HTTP/1.1\r\nhost: x\r\ncontent-length: 2\r\nconnection: close\r\n\r\n{{}}"
        status, error = error_of(await talk(port, request.encode()))
        assert (status, error["code"]) == (400, "invalid_path")
        assert engine.seen == []


async def test_paths_queries_and_headers_arrive_as_they_came() -> None:
    async with Engine().running() as engine, before(engine) as (_, port), aiohttp.ClientSession() as session:
        url = f"http://127.0.0.1:{port}/v1/files/a%3Ab%2Fc?q=%20x&r=a%2Fb"
        import yarl  # noqa: PLC0415 - to send what no client would send unasked

        async with session.get(
            yarl.URL(url, encoded=True), headers={"x-title": "Café"}, skip_auto_headers=["content-type"]
        ) as response:
            assert response.headers["x-engine"] == "mine"
        ((method, path, headers, _),) = engine.seen
        assert (method, path) == ("GET", "/v1/files/a%3Ab%2Fc?q=%20x&r=a%2Fb")
        assert headers["x-title"] == "Café"
        assert "Content-Type" not in headers


async def test_a_cookie_that_an_engine_gives_one_client_is_not_shown_by_another() -> None:
    async def give_a_cookie(_: web.Request) -> web.StreamResponse:
        return web.json_response({"ok": True}, headers={"set-cookie": "session=alice; Path=/"})

    async with Engine().running() as engine:
        engine.behave = give_a_cookie
        url = engine.url.replace("127.0.0.1", "localhost")  # cookie jars take none from addresses
        async with before(backend=[url]) as (_, port):
            for cookie in ({}, {}, {"cookie": "session=bob"}):
                async with (
                    aiohttp.ClientSession() as client,
                    client.post(f"http://127.0.0.1:{port}/v1/embeddings", json={}, headers=cookie) as response,
                ):
                    assert response.headers["set-cookie"].startswith("session=alice")
        assert [headers.get("Cookie") for _, _, headers, _ in engine.seen] == [None, None, "session=bob"]


@pytest.mark.parametrize("path", ["/v1/chat/completions", "/v1/embeddings"])
async def test_headers_of_an_answer_arrive_byte_for_byte(path: str) -> None:
    async def answer_raw(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = await reader.readuntil(b"\r\n\r\n")
        body = b'{"data": [{"id": "tiny"}], "usage": {"completion_tokens": 2}}'
        if head.startswith((b"GET /v1/models", b"POST")):
            head = b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\n"
            head += b"x-utf8: \xe6\x97\xa5\xe6\x9c\xac\r\nx-latin: caf\xe9\r\n"
        else:
            head = b"HTTP/1.1 200 OK\r\n" if head.startswith(b"GET /health") else b"HTTP/1.1 404 Not Found\r\n"
        writer.write(head + b"connection: close\r\ncontent-length: %d\r\n\r\n" % len(body) + body)
        await writer.drain()
        writer.close()

    async with await asyncio.start_server(answer_raw, "127.0.0.1", 0) as server:
        url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
        async with before(backend=[url]) as (_, port):
            body = b'{"model": "tiny", "messages": [{"role": "user", "content": "hi"}]}'
            head = b"POST %s HTTP/1.1\r\nhost: x\r\nconnection: close\r\ncontent-length: %d\r\n\r\n" % (
                path.encode(),
                len(body),
            )
            answer = await talk(port, head + body)
    assert answer.startswith(b"HTTP/1.1 200 OK")
    assert b"x-utf8: \xe6\x97\xa5\xe6\x9c\xac\r\n" in answer
    assert b"x-latin: caf\xe9\r\n" in answer


@pytest.mark.parametrize("path", ["/v1/chat/completions/", "/v1/chat/completions?x=1"])
async def test_a_slash_or_a_query_is_no_way_around_the_queue_either(path: str) -> None:
    async with Engine().running() as engine, before(engine) as (gateway, port), aiohttp.ClientSession() as session:
        body = {"model": "tiny", "messages": [{"role": "user", "content": "hi"}], "priority": None}
        async with session.post(f"http://127.0.0.1:{port}{path}", json=body) as response:
            assert response.status == 200
        assert "x-ssjf-queue-ms" in response.headers
        ((_, seen, _, sent),) = engine.seen
        assert seen == path.replace("/?", "?").removesuffix("/")
        assert "priority" not in orjson.loads(sent)
        assert b'ssjf_requests_total{outcome="completed"} 1.0' in gateway.telemetry.page()


@pytest.mark.parametrize("kind", ["application/json", "Application/JSON; charset=utf-8"])
@pytest.mark.parametrize("hints", [False, True])
async def test_a_priority_passes_through_only_from_those_who_may_give_one(hints: bool, kind: str) -> None:
    async with (
        Engine().running() as engine,
        before(engine, accept_hints=hints) as (_, port),
        aiohttp.ClientSession() as session,
    ):
        body = {"model": "tiny", "input": "hi", "priority": -5}
        url, headers = f"http://127.0.0.1:{port}/v1/responses", {"content-type": kind}
        async with session.post(url, data=orjson.dumps(body), headers=headers) as response:
            assert response.status == 200
        sent = orjson.loads(engine.seen[0][3])
        assert sent == (body if hints else {"model": "tiny", "input": "hi"})


async def test_what_is_nested_too_deeply_to_be_rewritten_is_refused() -> None:
    async with Engine().running() as engine, before(engine) as (_, port), aiohttp.ClientSession() as session:
        deep = '{"priority": 1, "x": ' + "[" * 500 + "]" * 500 + "}"
        async with session.post(f"http://127.0.0.1:{port}/v1/responses", data=deep, headers=JSON) as response:
            assert (response.status, (await response.json())["error"]["code"]) == (400, "invalid_json")
        assert engine.seen == []


@pytest.mark.parametrize("ours", [False, True])
async def test_an_engine_that_wants_a_clients_own_key_is_asked_with_it_for_its_models(ours: bool) -> None:
    class Closed(Engine):
        async def _any(self, request: web.Request) -> web.StreamResponse:
            if request.headers.get("authorization") != "Bearer the-engine's":
                return web.json_response({"error": {"message": "no key"}}, status=401)
            return web.json_response({"object": "list", "data": [{"id": "tiny"}]})

    key = KeySettings(name="a", sha256=hashlib.sha256(b"the-engine's").hexdigest())
    async with (
        Closed().running() as engine,
        before(engine, keys=[key] if ours else []) as (_, port),
        aiohttp.ClientSession(headers={"authorization": "Bearer the-engine's"}) as session,
        session.get(f"http://127.0.0.1:{port}/v1/models") as response,
    ):
        if ours:  # keys of ours go no further
            assert (response.status, (await response.json())["error"]["code"]) == (503, "engine_unavailable")
        else:
            assert (response.status, (await response.json())["data"]) == (200, [{"id": "tiny"}])


async def test_another_engine_is_asked_when_one_cannot_be_reached_and_not_when_it_broke_off() -> None:
    async def break_off(request: web.Request) -> web.StreamResponse:
        assert request.transport is not None
        request.transport.abort()
        return web.Response()

    gone = Engine()
    async with Engine().running() as there:
        async with gone.running():
            settings = {"backend": [gone.url, there.url]}
            stack = contextlib.AsyncExitStack()
            gateway, port = await stack.enter_async_context(before(**settings))
        async with stack, aiohttp.ClientSession() as session:
            url = f"http://127.0.0.1:{port}/v1/embeddings"
            async with session.post(url, json={"input": "hi"}) as response:
                assert response.status == 200
            assert [member.server.open for member in gateway.pool.members] == [False, True]
            there.behave = break_off
            async with session.post(url, json={"input": "hi"}) as response:
                assert (response.status, (await response.json())["error"]["code"]) == (502, "engine_error")
            assert len(there.seen) == 2


@pytest.mark.parametrize("after", ["nothing", "headers"])
async def test_an_engine_that_is_silent_is_not_waited_for_for_ever(after: str) -> None:
    async def be_silent(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse()
        if after == "headers":
            await response.prepare(request)
            await response.write(b"begun")
        await asyncio.Event().wait()
        return response

    async with (
        Engine().running() as engine,
        # only the limit that is meant may be short: a busy machine is not to meet the other one
        before(
            engine,
            first_token_timeout_s=0.2 if after == "nothing" else 60.0,
            stall_timeout_s=0.2 if after == "headers" else 60.0,
        ) as (gateway, port),
        aiohttp.ClientSession() as session,
    ):
        engine.behave = be_silent
        if after == "nothing":
            async with session.post(f"http://127.0.0.1:{port}/v1/embeddings", json={}) as response:
                assert response.status == 502
        else:
            with pytest.raises(aiohttp.ClientError):
                async with session.post(f"http://127.0.0.1:{port}/v1/embeddings", json={}) as response:
                    await response.read()
        assert not gateway.passing


async def test_what_passes_through_is_waited_for_before_the_server_ends() -> None:
    go_on, begun = asyncio.Event(), asyncio.Event()

    async def wait(_: web.Request) -> web.StreamResponse:
        begun.set()
        await go_on.wait()
        return web.json_response({"ok": True})

    async with Engine().running() as engine, before(engine) as (gateway, port), aiohttp.ClientSession() as session:
        engine.behave = wait
        asking = asyncio.create_task(session.post(f"http://127.0.0.1:{port}/v1/responses", json={}))
        await begun.wait()
        idle = asyncio.create_task(gateway.wait_until_idle())
        for _ in range(10):
            await asyncio.sleep(0)
        assert not idle.done()
        go_on.set()
        await idle
        assert (await asking).status == 200


async def test_browsers_may_ask_without_a_key_whether_they_may_ask() -> None:
    async def allow(_: web.Request) -> web.StreamResponse:
        return web.Response(headers={"access-control-allow-origin": "*"}, status=204)

    _, digest = new_key()
    async with (
        Engine().running() as engine,
        before(engine, keys=[KeySettings(name="a", sha256=digest)]) as (_, port),
        aiohttp.ClientSession() as session,
    ):
        engine.behave = allow
        for path in ("/v1/chat/completions", "/v1/embeddings"):
            async with session.options(f"http://127.0.0.1:{port}{path}") as response:
                assert (response.status, response.headers["access-control-allow-origin"]) == (204, "*")
            async with session.post(f"http://127.0.0.1:{port}{path}", json={}) as response:
                assert response.status == 401


async def test_who_asks_without_a_key_sends_an_engine_neither_a_body_nor_our_key(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("ENGINE_KEY", "ours")
    secret, digest = new_key()
    async with Engine().running() as engine:
        backends = [BackendSettings(url=engine.url, api_key_env="ENGINE_KEY")]
        keys = [KeySettings(name="a", sha256=digest)]
        async with before(backend=[], backends=backends, keys=keys) as (_, port), aiohttp.ClientSession() as session:
            url = f"http://127.0.0.1:{port}/v1/embeddings"
            async with session.options(url, data=b'{"input": "hi"}', headers=JSON) as response:
                assert response.status == 200
            async with session.post(url, data=b"{}", headers=JSON | {"authorization": f"Bearer {secret}"}) as response:
                assert response.status == 200
    assert [(method, headers.get("Authorization"), body) for method, _, headers, body in engine.seen] == [
        ("OPTIONS", None, b""),
        ("POST", "Bearer ours", b"{}"),
    ]


async def test_a_body_that_passes_through_has_its_room_until_it_is_answered() -> None:
    go_on, begun = asyncio.Event(), asyncio.Event()

    async def wait(_: web.Request) -> web.StreamResponse:
        begun.set()
        await go_on.wait()
        return web.json_response({"ok": True})

    async with (
        Engine().running() as engine,
        before(engine, max_waiting_mb=0.001) as (gateway, port),
        aiohttp.ClientSession() as session,
    ):
        engine.behave = wait
        url = f"http://127.0.0.1:{port}/v1/embeddings"
        asking = asyncio.create_task(session.post(url, data=b"a" * 800))
        await begun.wait()
        async with session.post(url, data=b"a" * 800) as response:
            assert (response.status, (await response.json())["error"]["code"]) == (429, "queue_full")
        go_on.set()
        assert (await asking).status == 200
        while gateway.arriving_bytes:
            await asyncio.sleep(0)
        assert len(engine.seen) == 1


async def test_bodies_that_are_being_sent_have_no_more_room_than_those_that_wait() -> None:
    async with Engine().running() as engine, before(engine, max_waiting_mb=0.001) as (gateway, port):
        head = b"POST /v1/embeddings HTTP/1.1\r\nhost: x\r\ncontent-length: 900\r\n\r\n"
        _, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(head + b"a" * 800)
        while gateway.arriving_bytes < 800:
            await asyncio.sleep(0)
        status, error = error_of(
            await talk(port, head.replace(b"\r\n\r\n", b"\r\nconnection: close\r\n\r\n") + b"a" * 900)
        )
        assert (status, error["code"]) == (429, "queue_full")
        writer.close()
        while gateway.arriving_bytes:
            await asyncio.sleep(0)
