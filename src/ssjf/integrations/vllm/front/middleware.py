"""The front door as ASGI middleware: every POST that passes gets the header `X-Vllm-Priority`, overwritten or new.

Laws of this file:
1. What vLLM receives is what the client sent, byte for byte, but for that header and for `X-Request-Id`, which is added
   where the client sent none. What vLLM answers is not touched at all.
2. Nothing is refused here, and nothing fails here: bodies that are too large or make no sense pass through, and get the
   place of a request of which nothing is known.

A request without a priority would have 0, which is before everybody else where keys are arrival times; so requests to
other endpoints get a place as well.
"""

import math
import time
import uuid
from collections.abc import Awaitable, Callable, MutableMapping
from importlib.util import find_spec
from typing import Any

from ssjf.integrations.vllm.compat import FRONT_DOOR_PROBES, check
from ssjf.integrations.vllm.front.bodies import read_body
from ssjf.integrations.vllm.front.door import FrontDoor
from ssjf.integrations.vllm.front.lessons import LessonBook, SharedPredictor
from ssjf.integrations.vllm.settings import VLLMSettings, load_settings
from ssjf.predict.artefact import load_predictor
from ssjf.predict.base import Predictor

Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
App = Callable[[MutableMapping[str, Any], Receive, Send], Awaitable[None]]

PRIORITY_HEADER, REQUEST_ID_HEADER, HINT_HEADER = b"x-vllm-priority", b"x-request-id", b"x-ssjf-output-tokens"
# endpoints whose bodies are read, and what vLLM makes of a request's id there; for responses it makes up one of its own
_REQUEST_IDS = {"/v1/completions": "cmpl-{}-0", "/v1/chat/completions": "chatcmpl-{}", "/v1/responses": "{}"}


class SSJFMiddleware:
    """Puts the front door before an ASGI application.

    Args:
        app: vLLM's.

    Raises:
        UserError: a setting is wrong or the predictor cannot be loaded; `check` says so earlier.
    """

    def __init__(self, app: App) -> None:
        self._app = app
        settings = load_settings()
        predictor = make_predictor(settings)
        if isinstance(predictor, SharedPredictor):
            predictor.catch_up()
        self._door = FrontDoor(settings, predictor)
        self._max_body_bytes = int(settings.max_body_mb * 2**20)

    @staticmethod
    def check() -> None:
        """Find out whether a front door can be made of the settings, and whether this vLLM heeds it.

        Raises:
            UserError: it cannot, or it does not.
        """
        settings = load_settings()
        if find_spec("vllm") is not None:  # it can be tried before any ASGI application
            check(FRONT_DOOR_PROBES, any_version=settings.any_version)
        FrontDoor(settings, make_predictor(settings))

    async def __call__(self, scope: MutableMapping[str, Any], receive: Receive, send: Send) -> None:
        """One connection."""
        if scope["type"] != "http" or scope["method"] != "POST":
            await self._app(scope, receive, send)
            return
        path = scope["path"].removeprefix(scope.get("root_path", ""))
        headers = dict(scope["headers"])
        body, receive = await self._buffered(receive) if path in _REQUEST_IDS else (None, receive)
        known = None if body is None else read_body(path, body)
        given_id = headers.get(REQUEST_ID_HEADER)
        own_id = uuid.uuid4().hex.encode() if given_id is None else given_id
        request_id = _REQUEST_IDS.get(path, "{}").format(own_id.decode("latin-1"))
        if known is None or not known.single or request_id in self._door:
            request_id = uuid.uuid4().hex  # one of which vLLM will tell nothing, or not only of it
        priority = await self._door.priority(
            request_id,
            known,
            hint=_number(headers.get(HINT_HEADER)),
            tier=_whole(headers.get(PRIORITY_HEADER)),
        )
        kept = [pair for pair in scope["headers"] if pair[0] != PRIORITY_HEADER]
        added = [(PRIORITY_HEADER, b"%d" % priority)]
        if given_id is None:
            added.append((REQUEST_ID_HEADER, own_id))
        try:
            await self._app({**scope, "headers": kept + added}, receive, send)
        finally:
            self._door.left(request_id)

    async def _buffered(self, receive: Receive) -> tuple[bytes | None, Receive]:
        """The whole body, or None when it is too large or breaks off; and a `receive` that gives all of it again."""
        messages: list[Message] = []
        size, complete = 0, False
        while not complete and size <= self._max_body_bytes:
            messages.append(message := await receive())
            if message["type"] != "http.request":
                break
            size += len(message.get("body", b""))
            complete = not message.get("more_body", False)

        async def again() -> Message:
            return messages.pop(0) if messages else await receive()

        body = b"".join(message.get("body", b"") for message in messages) if complete else None
        return body, again


def make_predictor(settings: VLLMSettings) -> Predictor:
    """The predictor of the settings, with the memory that they name.

    Raises:
        UserError: it cannot be loaded, or the file of lessons not be used.
    """
    predictor = load_predictor(settings.predictor)
    if settings.lessons is None:
        return predictor
    return SharedPredictor(predictor, LessonBook(settings.lessons), time.monotonic)


def _number(text: bytes | None) -> float | None:
    """A finite number of at least 0, or None."""
    try:
        number = float(text or b"nan")
    except ValueError:
        return None
    return number if 0 <= number < math.inf else None


def _whole(text: bytes | None) -> int | None:
    try:
        return int(text or b"")
    except ValueError:
        return None
