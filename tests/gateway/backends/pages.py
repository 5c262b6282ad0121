"""An HTTP server of fixed pages, in the test's own event loop."""

import contextlib
from collections.abc import AsyncIterator, Mapping

from aiohttp import web

from ssjf.gateway.backends.http import HTTPBackend


@contextlib.asynccontextmanager
async def serving(pages: Mapping[str, str]) -> AsyncIterator[HTTPBackend]:
    """A backend whose engine answers GET with these pages, and 404 with everything else."""
    app = web.Application()

    def page(text: str) -> "web.AbstractView":
        async def answer(_: web.Request) -> web.Response:
            return web.Response(text=text)

        return answer  # type: ignore[return-value]

    for path, text in pages.items():
        app.router.add_get(path, page(text))
    runner = web.AppRunner(app, shutdown_timeout=0)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    backend = HTTPBackend(f"http://127.0.0.1:{runner.addresses[0][1]}")
    await backend.open()
    try:
        yield backend
    finally:
        await backend.close()
        await runner.cleanup()
