"""What the live page is told, and who is told."""

import asyncio

import pytest

from ssjf.gateway.dashboard.recorder import _distribution
from tests.gateway.conftest import MakeStack, Stack
from tests.gateway.test_backends import bearer, key_of


async def state_of(stack: Stack, headers: dict[str, str] | None = None) -> dict[str, object]:
    async with stack.session.get(f"{stack.url}/dashboard/state", headers=headers) as response:
        assert response.status == 200
        return await response.json()  # type: ignore[no-any-return]


async def test_it_tells_who_waits_in_which_order_and_who_runs(make_stack: MakeStack) -> None:
    async with make_stack() as stack:
        sent = [stack.chat("runs")]
        await stack.engine.call(1)
        sent += [stack.chat("the longer one of two"), stack.chat("short")]
        await stack.settled(requests_waiting=2)
        await stack.all_predicted()
        state = await state_of(stack)
        assert (state["num_waiting"], state["num_running"]) == (2, 1)
        assert [waits["predicted_tokens"] for waits in state["waiting"]] == [1.0, 5.0]  # type: ignore[attr-defined]
        (runs,) = state["running"]  # type: ignore[misc]
        assert runs["backend"] == stack.gateway.pool.members[0].name
        assert "the longer one" not in str(state)  # no prompts
        stack.engine.automatic = True
        for call in stack.engine.calls:
            call.finish.set()
        await asyncio.gather(*sent)


async def test_it_tells_of_what_has_ended_and_estimates_what_fcfs_would_have_given(make_stack: MakeStack) -> None:
    async with make_stack(automatic=True) as stack:
        assert (await state_of(stack))["jct"]["n"] == 0  # type: ignore[index]
        await asyncio.gather(*(stack.chat("word " * (1 + i % 7)) for i in range(40)))
        await stack.settled(requests_running=0)
        state = await state_of(stack)
        assert state["jct"]["n"] == state["outcomes"]["completed"] == 40  # type: ignore[index]
        assert len(state["predictions"]["points"]) > 0  # type: ignore[index]
        while (estimate := (await state_of(stack))["fcfs_estimate"]) is None:
            pass
        assert estimate["num_jobs"] == 40  # type: ignore[index]
        assert estimate["mean_jct_s"] > 0  # type: ignore[index]


async def test_with_keys_the_numbers_are_for_admins_and_the_page_without_them_for_all(make_stack: MakeStack) -> None:
    async with make_stack(keys=[key_of("user"), key_of("boss", admin=True)]) as stack:
        for path in ("", "/page.js", "/page.css"):
            async with stack.session.get(f"{stack.url}/dashboard{path}") as response:
                assert response.status == 200
                assert "default-src 'none'" in response.headers["content-security-policy"]
                assert "http://" not in (await response.text()).replace("http://www.w3.org/2000/svg", "")
        for headers, status in (({}, 401), (bearer("user"), 403), (bearer("boss"), 200)):
            async with stack.session.get(f"{stack.url}/dashboard/state", headers=headers) as response:
                assert response.status == status


@pytest.mark.parametrize(
    ("values", "counts"),
    [([], {}), ([0.01, 0.05, 0.06, 999.0], {0: 1, 1: 2, 13: 1})],
)
def test_a_histogram_counts_each_value_once(values: list[float], counts: dict[int, int]) -> None:
    found = _distribution(values)
    assert {place: count for place, count in enumerate(found["counts"]) if count} == counts
    assert sum(found["counts"]) == found["n"] == len(values)
