"""Several engines behind one gateway: routing, failing over, being told priorities."""

import asyncio
import contextlib
import hashlib
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Any

import aiohttp
import pytest
from aiohttp import web

from ssjf.config import BackendSettings, KeySettings, ServeSettings, TenantSettings
from ssjf.errors import ConfigError
from ssjf.gateway.backends import pool
from ssjf.gateway.backends.dialects import SGLANG, UNKNOWN, Dialect
from ssjf.gateway.http.app import Gateway
from ssjf.gateway.serve import running_gateway
from ssjf.plugins import make_policy
from tests.gateway.conftest import Stack, WordCount, listening
from tests.gateway.fake_engine import FakeEngine


@dataclass(eq=False)
class Site(Stack):
    """A gateway before several engines."""

    engines: list[FakeEngine]

    async def ask(self, prompt: str = "hello", *, headers: dict[str, str] | None = None, **body: Any) -> Any:
        """Status, headers and JSON of an answer in one piece."""
        messages = [{"role": "user", "content": prompt}]
        async with self.post(messages=messages, headers=headers, **body) as response:
            return response.status, response.headers, await response.json()


@contextlib.asynccontextmanager
async def site(
    num_engines: int = 2, *, automatic: bool = True, models: list[list[str]] | None = None, **settings: Any
) -> AsyncIterator[Site]:
    async with contextlib.AsyncExitStack() as stack:
        engines = []
        for index in range(num_engines):
            engine = FakeEngine(automatic=automatic)
            if models is not None:
                engine.models = models[index]
            engines.append(await stack.enter_async_context(engine.running()))
        options = ServeSettings(
            **({"backend": [engine.url for engine in engines], "slots": 1, "policy": "ssjf"} | settings)
        )
        gateway: Gateway = await stack.enter_async_context(
            running_gateway(
                options,
                policy=lambda: make_policy(options.policy),
                shadow=None,
                predictor=WordCount(),
                engine_command=None,
            )
        )
        url = await stack.enter_async_context(listening(gateway))
        session = await stack.enter_async_context(aiohttp.ClientSession())
        yield Site(url, engines[0] if engines else FakeEngine(), gateway, session, engines)


def key_of(name: str, **rights: Any) -> KeySettings:
    return KeySettings(name=name, sha256=hashlib.sha256(name.encode()).hexdigest(), **rights)


def bearer(name: str) -> dict[str, str]:
    return {"authorization": f"Bearer {name}"}


# --- routing ----------------------------------------------------------------------------------------------------------
async def test_a_request_goes_to_an_engine_that_has_its_model_and_models_are_merged() -> None:
    async with site(2, models=[["a", "shared"], ["b", "shared"]]) as there:
        for model, place in (("a", 0), ("b", 1), ("b", 1)):
            assert (await there.ask(f"for {model}", model=model))[0] == 200
            assert there.engines[place].calls[-1].prompt == f"for {model}"
        async with there.session.get(f"{there.url}/v1/models") as response:
            assert [entry["id"] for entry in (await response.json())["data"]] == ["a", "shared", "b"]
        for member in there.gateway.pool.members:
            member.dialect = SGLANG  # which serves what it lists
        status, _, body = await there.ask(model="c")
        assert (status, body["error"]["code"]) == (404, "model_not_found")


@pytest.mark.parametrize("dialect", [SGLANG, UNKNOWN])
async def test_a_model_that_was_loaded_meanwhile_is_found(dialect: Dialect) -> None:
    async with site(2, models=[["a"], ["b"]]) as there:
        there.engines[1].models.append("c")
        for member in there.gateway.pool.members:
            member.dialect = dialect
            member.listed_at -= 10
        for _ in range(4):
            assert (await there.ask(model="c"))[0] == 200
        assert len(there.engines[1].calls) == 4


async def test_a_name_that_any_engine_may_take_does_not_wait_for_a_slow_list(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pool, "_BRIEFLY_S", 0.0)
    async with site(2, models=[["a"], ["b"]]) as there:
        for member in there.gateway.pool.members:
            member.dialect = UNKNOWN
            member.listed_at -= 10

        async def never() -> list[dict[str, object]]:
            await asyncio.Event().wait()
            return []

        slow = there.gateway.pool.members[1]
        monkeypatch.setattr(slow.http, "models", never)
        assert (await there.ask(model="alias"))[0] == 200
        assert slow.asking is not None
        slow.asking.cancel()


async def test_an_engine_of_unknown_kind_is_asked_for_models_that_nobody_lists() -> None:
    async with site(2, models=[["a"], ["b"]]) as there:
        there.gateway.pool.members[0].dialect = SGLANG
        assert (await there.ask(model="alias"))[0] == 200
        assert [call.body["model"] for call in there.engines[1].calls] == ["alias"]
        assert (await there.ask(model="a"))[0] == 200
        assert [call.body["model"] for call in there.engines[0].calls] == ["a"]


async def test_a_single_engine_says_itself_what_it_does_not_have() -> None:
    async with site(1) as there:
        there.gateway.pool.members[0].dialect = SGLANG
        there.engine.status = 404
        status, _, body = await there.ask(model="unheard-of")
        assert (status, body["error"]["message"]) == (404, "no")


async def test_a_model_that_waits_for_its_engine_keeps_no_other_model_waiting() -> None:
    async with site(2, automatic=False, models=[["a"], ["b"]]) as there:
        sent = [there.chat(f"a{i}", model="a") for i in range(3)]
        await there.settled(requests_waiting=2)
        there.engines[1].automatic = True
        assert (await there.ask(model="b"))[0] == 200
        for number in (1, 2, 3):
            (await there.engines[0].call(number)).finish.set()
        assert [status for status, _ in await asyncio.gather(*sent)] == [200] * 3


async def test_models_of_the_same_engines_wait_in_one_queue() -> None:
    async with site(1, automatic=False, models=[["a", "b"]]) as there:
        sent = [there.chat("x", model="a")]
        await there.engine.call(1)
        sent += [there.chat("a longer one", model="a"), there.chat("short", model="b")]
        await there.settled(requests_waiting=2)
        await there.all_predicted()
        served = []
        for number in range(1, 4):
            call = await there.engine.call(number)
            served.append(call.prompt)
            call.finish.set()
        assert [status for status, _ in await asyncio.gather(*sent)] == [200] * 3
        assert served == ["x", "short", "a longer one"]


async def test_lanes_that_overlap_take_turns() -> None:
    async with site(2, automatic=False, models=[["a", "b"], ["b"]]) as there:
        sent = [there.chat("x", model="b"), there.chat("x", model="b")]
        await there.engines[0].call(1)
        await there.engines[1].call(1)
        sent += [there.chat("x", model=model) for model in ("b", "b", "a", "a")]
        await there.settled(requests_waiting=4)
        served = []
        for number in range(1, 5):
            (await there.engines[0].call(number)).finish.set()
            served.append((await there.engines[0].call(number + 1)).body["model"])
            if served.count("a") == 2:
                break
        assert served[:2] in (["b", "a"], ["a", "b"])  # neither lane shuts the other out
        for engine in there.engines:
            engine.automatic = True
            for call in engine.calls:
                call.finish.set()
        assert [status for status, _ in await asyncio.gather(*sent)] == [200] * 6


async def test_settings_may_name_the_models_of_an_engine() -> None:
    async with site(1) as other:
        backends = [BackendSettings(url=other.engine.url, name="named", models=["only"])]
        async with site(1, backends=backends) as there:
            assert (await there.ask("x", model="only"))[0] == 200
            assert [call.prompt for call in other.engine.calls] == ["x"]


async def test_two_backends_of_one_name_are_refused() -> None:
    with pytest.raises(ConfigError, match="two backends are called 'x'"):
        async with site(0, backends=[BackendSettings(url=f"http://127.0.0.1:{i}", name="x") for i in (1, 2)]):
            pass


# --- failing over -----------------------------------------------------------------------------------------------------
async def test_an_engine_that_is_not_there_is_left_out_and_taken_back(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pool, "_FIRST_BACKOFF_S", 0.01)
    monkeypatch.setattr(pool, "_CHECK_S", 0.01)
    async with site(2) as there, contextlib.AsyncExitStack() as again:
        first, member = there.engines[0], there.gateway.pool.members[0]
        monkeypatch.setattr(member.http, "_base", "http://127.0.0.1:9")
        assert [(await there.ask())[0] for _ in range(6)] == [200] * 6
        while member.server.open:
            await there.metrics()
        assert (await there.metrics())[f'ssjf_backend_up{{backend="{member.name}"}}'] == 0
        monkeypatch.setattr(member.http, "_base", first.url)
        while not member.server.open:
            await there.metrics()
        before = len(first.calls)
        there.gateway.pool.shut(there.gateway.pool.members[1])
        assert (await there.ask())[0] == 200
        assert len(first.calls) == before + 1
        again.pop_all()


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("status", [500, 503, 429])
async def test_what_one_engine_cannot_do_another_may_and_the_client_sees_one_answer(status: int, stream: bool) -> None:
    async with site(2) as there:
        there.engines[0].status = status
        for _ in range(4):
            async with there.post(stream=stream) as response:
                assert response.status == 200
                assert b"word" in await response.read()
        metrics = await there.metrics()
        assert metrics["ssjf_retries_total"] >= 1
        assert metrics['ssjf_requests_total{outcome="completed"}'] == 4


@pytest.mark.parametrize("status", [429, 500, 503])
async def test_when_all_engines_fail_the_last_word_is_passed_on_and_none_is_blamed(status: int) -> None:
    async with site(2) as there:
        for engine in there.engines:
            engine.status = status
        for _ in range(5):
            found, _, body = await there.ask()
            assert (found, body["error"]["message"]) == (status, "no")
        assert [member.server.open for member in there.gateway.pool.members] == [True, True]
        outcome = "refused" if status == 429 else "failed"
        assert (await there.metrics())[f'ssjf_requests_total{{outcome="{outcome}"}}'] == 5


async def test_an_engine_that_fails_what_another_does_is_left_out_in_the_end() -> None:
    async with site(2, slots=4) as there:
        there.engines[0].status = 500
        for number in range(10):
            assert (await there.ask(f"request {number}"))[0] == 200
        assert [member.server.open for member in there.gateway.pool.members] == [False, True]
        assert len(there.engines[0].calls) == 3


async def test_who_runs_out_of_time_is_told_and_no_other_engine_begins_for_nothing() -> None:
    async with site(2, automatic=False, total_timeout_s=0.5) as there:
        for number in range(1, 4):
            status, _, body = await there.ask(f"request {number}")
            assert (status, body["error"]["code"]) == (504, "timeout")
        assert sum(len(engine.calls) for engine in there.engines) == 3
        assert all(member.server.open for member in there.gateway.pool.members)
        assert (await there.metrics())['ssjf_requests_total{outcome="failed"}'] == 3


async def test_comments_are_no_sign_of_life(monkeypatch: pytest.MonkeyPatch) -> None:
    async def only_comments(_: FakeEngine, request: Any, __: Any) -> Any:
        response = web.StreamResponse(headers={"content-type": "text/event-stream"})
        await response.prepare(request)
        while True:
            await response.write(b": ping\n\n")
            await asyncio.sleep(0.01)

    monkeypatch.setattr(FakeEngine, "_stream", only_comments)
    async with site(1, first_token_timeout_s=0.2) as there, there.post(stream=True) as response:
        assert "sent nothing for 0.2 s" in await response.text()


async def test_in_priority_mode_too_no_more_wait_than_may() -> None:
    settings = {"mode": "priority", "max_waiting": 3, "predict_budget_ms": 60_000, "predictor": "constant"}
    async with site(1, automatic=False, **settings) as there:
        sent = [there.chat(f"request {number}") for number in range(8)]
        while sum(task.done() for task in sent) < 2:
            await asyncio.sleep(0)
        refused = [task.result() for task in sent if task.done()]
        assert {status for status, _ in refused} == {429}
        assert {body["error"]["code"] for _, body in refused} == {"queue_full"}
        for number in range(1, 9 - len(refused)):
            (await there.engine.call(number)).finish.set()
        assert [status for status, _ in await asyncio.gather(*sent)].count(200) == 8 - len(refused)


async def test_after_the_first_byte_nothing_is_tried_again() -> None:
    async with site(2) as there:
        for engine in there.engines:
            engine.break_after = 2
        async with there.post(stream=True) as response:
            text = await response.text()
        assert "engine_error" in text
        assert sum(len(engine.calls) for engine in there.engines) == 1


async def test_a_stream_that_does_not_begin_in_time_begins_elsewhere() -> None:
    async with site(2, automatic=False, first_token_timeout_s=0.2) as there:

        async def silent(_: Any) -> Any:
            await asyncio.Future()

        there.engines[0]._stream = silent  # type: ignore[method-assign, assignment]
        there.engines[1].automatic = True
        answers = [await there.post(stream=True) for _ in range(2)]
        for response in answers:
            assert response.status == 200
            assert (await response.text()).endswith("[DONE]\n\n")
        assert len(there.engines[1].calls) == 2


async def test_a_stream_that_stalls_later_is_ended_with_an_error() -> None:
    async with site(1, automatic=False, stall_timeout_s=0.2) as there:
        async with there.post(stream=True) as response:
            assert "sent nothing for 0.2 s" in await response.text()
        await there.engine.calls[0].cancelled.wait()
        metrics = await there.settled(requests_running=0)
        assert metrics['ssjf_requests_total{outcome="failed"}'] == 1


async def test_who_waits_for_an_engine_that_went_away_is_told_when_there_is_no_hope(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async with site(1, automatic=False) as there:
        (member,) = there.gateway.pool.members
        runs = there.chat("runs")
        await there.engine.call(1)
        waits = there.chat("waits")
        await there.settled(requests_waiting=1)
        there.gateway.pool.shut(member)
        there.engine.calls[0].finish.set()
        assert (await runs)[0] == 200
        assert (await there.metrics())["ssjf_requests_waiting"] == 1  # it may be back soon
        monkeypatch.setattr(pool, "_GRACE_S", 0.0)
        status, body = await waits
        assert (status, body["error"]["code"]) == (503, "engine_unavailable")
        status, headers, _ = await there.ask()
        assert status == 503
        assert int(headers["retry-after"]) > 0


# --- waiting ----------------------------------------------------------------------------------------------------------
async def test_a_deadline_that_passes_in_the_queue_is_a_504_and_one_that_is_met_is_not() -> None:
    async with site(1, automatic=False) as there:
        runs = there.chat("runs")
        await there.engine.call(1)
        status, _, body = await there.ask(headers={"x-ssjf-deadline-s": "0.05"})
        assert (status, body["error"]["code"]) == (504, "deadline_exceeded")
        there.engine.calls[0].finish.set()
        assert (await runs)[0] == 200
        there.engine.automatic = True
        assert (await there.ask(headers={"x-ssjf-deadline-s": "60"}))[0] == 200
        assert (await there.ask(headers={"x-ssjf-deadline-s": "soon"}))[0] == 400
        assert (await there.metrics())['ssjf_requests_total{outcome="expired"}'] == 1


async def test_retry_after_tells_of_the_work_that_waits() -> None:
    async with site(1, automatic=False, max_waiting=2, accept_hints=True) as there:
        sent = [there.chat("runs", hint=1)]
        await there.engine.call(1)
        sent += [there.chat("waits", hint=tokens) for tokens in (4000, 6000)]  # 200 s by the prior speed
        await there.settled(requests_waiting=2)
        status, headers, body = await there.ask()
        assert (status, body["error"]["code"]) == (429, "queue_full")
        assert headers["retry-after"] == "21"  # a tenth of it, and what reading the prompts takes
        assert headers["retry-after-ms"] == "21000"
        there.engine.automatic = True
        there.engine.calls[0].finish.set()
        await asyncio.gather(*sent)


async def test_the_bodies_of_all_who_wait_are_bounded() -> None:
    async with site(1, automatic=False, max_waiting_mb=0.01) as there:
        runs = there.chat("x" * 8000)
        await there.engine.call(1)
        status, _, body = await there.ask("x" * 8000)
        assert (status, body["error"]["code"]) == (429, "queue_full")
        there.engine.calls[0].finish.set()
        assert (await runs)[0] == 200


# --- priorities -------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(("dialect", "sign"), [(UNKNOWN, 1), (SGLANG, -1)])
async def test_in_priority_mode_all_go_in_and_the_engine_is_told_the_order(dialect: Any, sign: int) -> None:
    async with site(1, automatic=False, mode="priority", accept_hints=True, predict_budget_ms=60_000) as there:
        there.gateway.pool.members[0].dialect = dialect
        sent = [there.chat(text) for text in ("a b c d", "a", "a b")]
        sent.append(there.chat("hinted", hint=3))
        await there.engine.call(4)  # all are in before the first ends, which changes the measured speed
        for call in there.engine.calls:
            call.finish.set()
        assert [status for status, _ in await asyncio.gather(*sent)] == [200] * 4
        by_priority = sorted(there.engine.calls, key=lambda call: sign * call.body["priority"])
        assert [call.prompt for call in by_priority] == ["a", "a b", "hinted", "a b c d"]


async def test_priorities_that_clients_send_are_dropped_unless_they_may() -> None:
    keys = [key_of("anybody"), key_of("trusted", hints=True)]
    async with site(1, keys=keys) as there:
        assert (await there.ask(headers=bearer("anybody"), priority=-9, seed=7))[0] == 200
        assert (await there.ask(headers=bearer("trusted"), priority=-9))[0] == 200
        first, second = there.engine.calls
        assert "priority" not in first.body
        assert first.body["seed"] == 7
        assert second.body["priority"] == -9


async def test_a_better_tier_goes_first_whatever_its_length() -> None:
    async with site(1, automatic=False, keys=[key_of("free", tier=1), key_of("paid")]) as there:
        sent = [asyncio.create_task(there.ask("runs", headers=bearer("free")))]
        await there.engine.call(1)
        sent.append(asyncio.create_task(there.ask("short", headers=bearer("free"))))
        sent.append(asyncio.create_task(there.ask("a much longer prompt than that", headers=bearer("paid"))))
        while there.gateway.dispatcher.num_live < 3:
            await asyncio.sleep(0)
        order = []
        for number in (1, 2, 3):
            call = await there.engine.call(number)
            order.append(call.prompt)
            call.finish.set()
        assert order == ["runs", "a much longer prompt than that", "short"]
        assert [status for status, _, _ in await asyncio.gather(*sent)] == [200] * 3


# --- callers ----------------------------------------------------------------------------------------------------------
async def test_without_a_known_key_nothing_is_served_and_with_one_it_goes_no_further() -> None:
    async with site(1, keys=[key_of("secret")]) as there:
        for headers in ({}, bearer("wrong"), {"authorization": "Basic secret"}, bearer("")):
            status, _, body = await there.ask(headers=headers)
            assert (status, body["error"]["code"]) == (401, "invalid_api_key")
        async with there.session.get(f"{there.url}/v1/models") as response:
            assert response.status == 401
        assert there.engine.calls == []
        assert (await there.ask(headers=bearer("secret")))[0] == 200
        assert "authorization" not in {name.lower() for name in there.engine.calls[0].headers}


async def test_metrics_are_for_admins_and_health_is_for_all() -> None:
    async with site(1, keys=[key_of("user"), key_of("boss", admin=True)]) as there:
        for headers, expected in (({}, 401), (bearer("user"), 403), (bearer("boss"), 200)):
            async with there.session.get(f"{there.url}/metrics", headers=headers) as response:
                assert response.status == expected
        async with there.session.get(f"{there.url}/healthz") as response:
            assert response.status == 200


async def test_where_others_may_come_in_pages_of_the_gateway_need_a_key_or_leave() -> None:
    for settings, status in (({}, 403), ({"admin_without_key": True}, 200)):
        async with site(1, host="0.0.0.0", **settings) as there:
            for page in ("/metrics", "/dashboard/state"):
                async with there.session.get(there.url + page) as response:
                    assert response.status == status
            async with there.session.get(f"{there.url}/healthz") as response:
                assert response.status == 200


async def test_the_key_of_an_engine_replaces_the_clients(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ENGINE_KEY", "inside")
    async with site(1) as other:
        backends = [BackendSettings(url=other.engine.url, api_key_env="ENGINE_KEY")]
        async with site(0, backends=backends) as there:
            assert (await there.ask(headers=bearer("outside")))[0] == 200
        assert other.engine.calls[0].headers["Authorization"] == "Bearer inside"
    with pytest.raises(ConfigError, match="NO_SUCH_KEY is not set"):
        async with site(0, backends=[BackendSettings(url="http://x", api_key_env="NO_SUCH_KEY")]):
            pass


async def test_a_tenant_may_have_no_more_than_its_share_of_the_queue() -> None:
    limits = {"small": TenantSettings(max_live=2)}
    async with site(1, automatic=False, tenant_header="x-team", tenants=limits) as there:
        small, large = {"x-team": "small"}, {"x-team": "large"}
        sent = [asyncio.create_task(there.ask(headers=small)) for _ in range(2)]
        await there.settled(requests_waiting=1)
        status, _, body = await there.ask(headers=small)
        assert (status, body["error"]["code"]) == (429, "queue_full")
        sent.append(asyncio.create_task(there.ask(headers=large)))
        await there.settled(requests_waiting=2)
        for number in (1, 2, 3):
            (await there.engine.call(number)).finish.set()
        assert [status for status, _, _ in await asyncio.gather(*sent)] == [200] * 3


async def test_fair_tenants_are_served_by_their_shares() -> None:
    async with site(1, automatic=False, tenant_header="x-team", fair=True, accept_hints=True) as there:

        def ask(team: str, prompt: str, tokens: int) -> "asyncio.Task[Any]":
            return asyncio.create_task(there.ask(prompt, headers={"x-team": team, "x-ssjf-output-tokens": str(tokens)}))

        sent = [ask("flood", "runs", 0)]
        await there.engine.call(1)
        sent += [ask("flood", f"flood {i}", 1) for i in range(6)]
        await there.settled(requests_waiting=6)
        sent.append(ask("other", "a long one of the other team", 1000))
        await there.settled(requests_waiting=7)
        order = []
        for number in range(1, 9):
            call = await there.engine.call(number)
            order.append(call.prompt)
            call.finish.set()
        assert order.index("a long one of the other team") <= 2
        await asyncio.gather(*sent)


# --- what is not scheduled --------------------------------------------------------------------------------------------
async def test_everything_else_under_v1_passes_through_as_it_came_and_as_it_is_answered() -> None:
    async with site(2, models=[["a"], ["b"]]) as there:
        body = b'{"model": "b",  "input": "x", "unknown":1}'
        kind = {"content-type": "application/json"}
        async with there.session.post(f"{there.url}/v1/embeddings?q=%20a", data=body, headers=kind) as response:
            assert response.status == 404  # as the engine says
            assert "x-request-id" in response.headers
        assert (await there.metrics())['ssjf_requests_passed_through_total{status="404"}'] == 1
        for member in there.gateway.pool.members:
            member.dialect = SGLANG  # which serves what it lists
        async with there.session.post(f"{there.url}/v1/embeddings", data=b'{"model": "c"}', headers=kind) as response:
            assert response.status == 404
            assert (await response.json())["error"]["code"] == "model_not_found"
        for member in there.gateway.pool.members:
            there.gateway.pool.shut(member)
        async with there.session.get(f"{there.url}/v1/files") as response:
            assert response.status == 503


# --- how many at once -------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("tells", [True, False])
async def test_slots_auto_follows_what_the_engine_says_or_counts(monkeypatch: pytest.MonkeyPatch, tells: bool) -> None:
    monkeypatch.setattr(pool, "_LOOK_S", 0.001)
    page = "ssjf_engine_num_requests_running {running}\nssjf_engine_num_requests_waiting {queued}\n" + (
        "ssjf_engine_max_num_seqs 3\n" if tells else ""
    )
    async with site(1, automatic=False, slots="auto") as there:
        (member,) = there.gateway.pool.members

        async def metrics_page(_: str) -> bytes:
            in_hand = member.server.num_running
            return page.format(running=min(in_hand, 3), queued=max(in_hand - 3, 0)).encode()

        monkeypatch.setattr(member.http, "page", metrics_page)
        await there.gateway.pool.meet(member)
        assert member.server.slots == (3 if tells else 4)
        sent = [there.chat(f"request {i}") for i in range(30)]
        while member.server.slots != 3 or member.server.num_running > 3:
            if len(there.engine.calls) > 3 and not there.engine.calls[0].finish.is_set():
                there.engine.calls[0].finish.set()
            await there.metrics()
        there.engine.automatic = True
        for call in there.engine.calls:
            call.finish.set()
        assert [status for status, _ in await asyncio.gather(*sent)] == [200] * 30
