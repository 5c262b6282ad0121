"""Clients of a server with one slot, and in which order it serves them."""

import asyncio
import re
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Any

import httpx
import openai


def client_of(url: str) -> openai.AsyncOpenAI:
    """The public client of OpenAI's interface, without retries."""
    return openai.AsyncOpenAI(base_url=f"{url}/v1", api_key="none", timeout=120, max_retries=0)


async def _until_waiting(client: httpx.AsyncClient, url: str, count: int) -> None:
    while True:
        text = (await client.get(f"{url}/metrics")).text
        found = re.search(r"^vllm:num_requests_waiting\{.*\} (\S+)$", text, re.MULTILINE)
        if found is not None and float(found[1]) == count:
            return
        await asyncio.sleep(0.02)


@asynccontextmanager
async def _slot_taken(client: openai.AsyncOpenAI) -> AsyncIterator[None]:
    """While the only slot is taken; after that it is waited for."""
    stream = await client.completions.create(
        model="tiny", prompt="Sea", max_tokens=900, stream=True, extra_body={"ignore_eos": True}
    )
    yield
    async for _ in stream:
        pass


async def is_overtaken(url: str, path: str, body: dict[str, Any]) -> bool:
    """Whether a request that waits is overtaken by one that comes later and is known to be short."""
    finished: list[str] = []
    async with client_of(url) as client, httpx.AsyncClient(timeout=120) as http:

        async def ask_first() -> None:
            (await http.post(url + path, json=body)).raise_for_status()
            finished.append("first")

        async def ask_later() -> None:
            headers = {"x-ssjf-output-tokens": "1"}
            await client.completions.create(model="tiny", prompt="Sea", max_tokens=1, extra_headers=headers)
            finished.append("later")

        async with _slot_taken(client):
            first = asyncio.create_task(ask_first())
            await _until_waiting(http, url, 1)
            later = asyncio.create_task(ask_later())
            await _until_waiting(http, url, 2)
        await asyncio.gather(first, later)
    return finished == ["later", "first"]


async def order_of_service(
    url: str, hints: Sequence[int], priorities: Sequence[int] = (0, -1, -2, -3), *, engine: str | None = None
) -> list[int]:
    """Indices in the order of finishing, of requests that come one after the other while the only slot is taken.

    Args:
        url: whom to ask.
        hints: output lengths to tell, one for each request.
        priorities: to send along, one for each request.
        engine: where vLLM tells how many wait; None is `url`.
    """
    finished: list[int] = []
    async with client_of(url) as client, httpx.AsyncClient(timeout=60) as metrics:

        async def ask(index: int) -> None:
            headers = {"x-ssjf-output-tokens": str(hints[index]), "x-vllm-priority": str(priorities[index])}
            await client.completions.create(model="tiny", prompt="Sea", max_tokens=40, extra_headers=headers)
            finished.append(index)

        tasks = []
        async with _slot_taken(client):
            for index in range(len(hints)):
                tasks.append(asyncio.create_task(ask(index)))
                await _until_waiting(metrics, engine or url, index + 1)
        await asyncio.gather(*tasks)
    return finished
