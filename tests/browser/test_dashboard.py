"""The live page in a real browser; `make test-browser`."""

import asyncio
from pathlib import Path

import pytest

from tests.browser.chromium import executable, page
from tests.gateway.conftest import *  # noqa: F403 - the fixtures
from tests.gateway.conftest import MakeStack
from tests.gateway.test_backends import key_of

pytestmark = [
    pytest.mark.browser,
    pytest.mark.skipif(executable() is None, reason="no Chromium: install it, or name it in the variable CHROMIUM"),
]
EVIL = "<img src=x onerror=\"document.title='broken in'\">"


async def test_the_page_lives_and_asks_nobody_else(make_stack: MakeStack) -> None:
    async with make_stack() as stack:
        stack.engine.models.append(EVIL)
        sent = [stack.chat("runs", model="tiny")]
        await stack.engine.call(1)
        for member in stack.gateway.pool.members:
            member.listed_at -= 10
        sent += [stack.chat("x " * count, model=EVIL) for count in (5, 2, 9)]
        await stack.settled(requests_waiting=3)
        await stack.all_predicted()
        async with page(f"{stack.url}/dashboard") as tab:
            await tab.until("document.getElementById('num-waiting').textContent === '3'")
            assert await tab.text("#num-running") == "1"
            # names are shown as they are, and do nothing
            assert await tab.text("#waiting tbody tr td:nth-child(2)") == EVIL
            assert await tab.run("document.querySelectorAll('table img').length") == 0
            assert await tab.run("document.title") == "ssjf gateway"
            predicted = await tab.run(
                "[...document.querySelectorAll('#waiting tbody tr td:nth-child(5)')].map(cell => cell.textContent)"
            )
            assert predicted == ["2", "5", "9"]
            stack.engine.automatic = True
            for call in stack.engine.calls:
                call.finish.set()
            await asyncio.gather(*sent)
            await asyncio.gather(*(stack.chat("word " * (1 + i % 9)) for i in range(60)))
            await tab.until("document.getElementById('num-waiting').textContent === '0'")
            await tab.until("document.querySelectorAll('#scatter circle').length > 10")
            await tab.until("document.getElementById('gain').textContent !== '–'")
            assert await tab.run("document.querySelectorAll('#jct rect').length") == 14
            assert "over" in await tab.text("#jct-text")
            assert not tab.errors
            assert all(url.startswith((stack.url, "data:", "about:")) for url in tab.requested)
            width = await tab.run("document.documentElement.scrollWidth <= window.innerWidth")
            assert width is True


async def test_behind_keys_it_asks_for_one(make_stack: MakeStack) -> None:
    async with make_stack(keys=[key_of("boss", admin=True)]) as stack, page(f"{stack.url}/dashboard") as tab:
        await tab.until("!document.getElementById('login').hidden")
        assert await tab.run("document.getElementById('main').hidden") is True
        await tab.run("document.getElementById('key').value = 'boss'; document.querySelector('form button').click()")
        await tab.until("document.getElementById('connection').textContent === 'live'")
        assert await tab.run("document.getElementById('login').hidden") is True


async def test_it_says_when_the_gateway_is_gone_and_fits_a_phone(make_stack: MakeStack, tmp_path: Path) -> None:
    async with make_stack(automatic=True) as stack:
        await asyncio.gather(*(stack.chat("word " * (1 + i % 9)) for i in range(30)))
        async with page(f"{stack.url}/dashboard") as tab:
            await tab.until("document.getElementById('connection').textContent === 'live'")
            for name, size in (("phone", (390, 844)), ("desk", (1280, 900))):
                await tab.picture(tmp_path / f"{name}.png", width=size[0], height=size[1], dark=name == "desk")
                assert await tab.run("document.documentElement.scrollWidth <= window.innerWidth") is True
            await tab.send(
                "Network.emulateNetworkConditions", offline=True, latency=0, downloadThroughput=0, uploadThroughput=0
            )
            await tab.until("document.getElementById('connection').textContent.includes('does not answer')")
