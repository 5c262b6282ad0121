"""The live page's addresses.

The page itself holds no data; its state does, and needs an admin's key where there are keys.
"""

from collections.abc import Callable
from pathlib import Path

from starlette.requests import Request as HTTPRequest
from starlette.responses import Response
from starlette.routing import Route

from ssjf.gateway.dashboard.recorder import Recorder
from ssjf.gateway.http.replies import reply
from ssjf.gateway.keys import Keys

_FILES = {
    "": ("page.html", "text/html"),
    "/page.js": ("page.js", "text/javascript"),
    "/page.css": ("page.css", "text/css"),
}
_HEADERS = {
    # nothing from elsewhere, nothing inline: what clients call their models is shown, and must never run
    "content-security-policy": "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; "
    "img-src 'self' data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
    "cache-control": "no-cache",
}


def routes(recorder: Recorder, keys: Keys) -> list[Route]:
    """`/dashboard` and what it loads."""

    async def state(request: HTTPRequest) -> Response:
        keys.admin(request.headers)
        return reply(recorder.state(), headers={"cache-control": "no-store"})

    def page(file: str, kind: str) -> Callable[[HTTPRequest], object]:
        content = (Path(__file__).parent / file).read_bytes()

        async def answer(_: HTTPRequest) -> Response:
            return Response(content, headers=_HEADERS, media_type=kind)

        return answer

    pages = [Route(f"/dashboard{path}", page(file, kind), methods=["GET"]) for path, (file, kind) in _FILES.items()]
    return [*pages, Route("/dashboard/state", state, methods=["GET"])]
