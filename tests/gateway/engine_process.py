"""An engine of its own process: `python engine_process.py SOCKET`.

A prompt ``crash when FILE exists`` ends the process when that file is there; others are answered at once.
"""

import asyncio
import os
import sys
from pathlib import Path

from aiohttp import web


async def complete(request: web.Request) -> web.Response:
    prompt = (await request.json())["prompt"]
    if prompt.startswith("crash when "):
        while not os.path.exists(prompt.split()[2]):  # noqa: ASYNC240, PTH110 - another process makes it
            await asyncio.sleep(0.005)
        os._exit(3)
    usage = {"prompt_tokens": 1, "completion_tokens": 1, "total_tokens": 2}
    return web.json_response({"choices": [{"text": "ok", "finish_reason": "stop"}], "usage": usage})


async def models(_: web.Request) -> web.Response:
    return web.json_response({"data": [{"id": "tiny"}]})


async def health(_: web.Request) -> web.Response:
    return web.Response()


app = web.Application()
app.router.add_post("/v1/completions", complete)
app.router.add_get("/v1/models", models)
app.router.add_get("/health", health)
Path(sys.argv[1]).unlink(missing_ok=True)
web.run_app(app, path=sys.argv[1], print=None)
