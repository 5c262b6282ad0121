"""Clients of a server with one slot, and in which order it serves them."""

import asyncio
import re
from collections.abc import Sequence

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

        stream = await client.completions.create(
            model="tiny", prompt="Sea", max_tokens=900, stream=True, extra_body={"ignore_eos": True}
        )
        tasks = []
        for index in range(len(hints)):
            tasks.append(asyncio.create_task(ask(index)))
            await _until_waiting(metrics, engine or url, index + 1)
        async for _ in stream:
            pass
        await asyncio.gather(*tasks)
    return finished
