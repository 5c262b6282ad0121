"""The front door as ASGI middleware: every POST that passes gets the header `X-Vllm-Priority`, overwritten or new.

Laws of this file:
1. What vLLM receives is what the client sent, byte for byte, but for that header, for `X-Request-Id`, which is added
   where an answer's length will be learned and the client named no id, and for `priority` in the bodies of those
   endpoints that look for it nowhere else. What vLLM answers is not touched at all.
2. Nothing is refused here, and nothing fails here: bodies that are too large or make no sense pass through, and get the
   place of a request of which nothing is known.
3. Once a response is over nothing is kept of its request, unless vLLM will still tell how long its answer was. Keys of
   an API are asked for behind this door: whoever has none must not fill the memory.

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
from ssjf.integrations.vllm.front.bodies import Body, read_body, with_priority
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
# endpoints whose bodies are predicted from, and what vLLM's books make of a request's id there; those of responses have
# an id for each turn
_REQUEST_IDS = {"/v1/completions": "cmpl-{}-0", "/v1/chat/completions": "chatcmpl-{}", "/v1/responses": None}
# endpoints of models that generate which look for the priority in the body alone
_PRIORITY_IN_BODY = {
    "/v1/chat/completions/batch",
    "/generative_scoring",
    "/inference/v1/generate",
    "/v1/systemone",
    "/cohere/v2/chat",
}
_LONGEST_ID = 256  # of those that clients choose; requests with a longer one are not learned from


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
        predicted, rewritten = path in _REQUEST_IDS, path in _PRIORITY_IN_BODY
        messages, body = await self._buffered(receive) if predicted or rewritten else ([], None)
        known = None if body is None else read_body(path, body)
        unread = "endpoint" if not predicted else "body" if known is None else "text"
        if rewritten and known is not None:
            known = Body(priority=known.priority)  # which may be its tier; the rest has other meanings there
        request_id, added = self._identity(path, known, headers.get(REQUEST_ID_HEADER))
        told = request_id is not None
        request_id = request_id or uuid.uuid4().hex
        priority = await self._door.priority(
            request_id,
            known,
            hint=_number(headers.get(HINT_HEADER)),
            tier=_whole(headers.get(PRIORITY_HEADER)),
            unread=unread,
        )
        added = [*added, (PRIORITY_HEADER, b"%d" % priority)]
        if rewritten and body is not None:
            body = with_priority(body, priority)
            messages = [{"type": "http.request", "body": body, "more_body": False}]
            added.append((b"content-length", b"%d" % len(body)))
        replaced = {name for name, _ in added}
        kept = [pair for pair in scope["headers"] if pair[0] not in replaced]
        exchange = _Exchange(messages, receive, send)
        try:
            await self._app({**scope, "headers": kept + added}, exchange.receive, exchange.send)
        finally:
            self._door.left(request_id, complete=told and exchange.complete)

    def _identity(
        self, path: str, known: Body | None, given: bytes | None
    ) -> tuple[str | None, list[tuple[bytes, bytes]]]:
        """Under which id vLLM's books will have the request's answer, and what to add to the headers for it.

        There is none where they will have nothing of it, or not only that.
        """
        form = _REQUEST_IDS.get(path)
        if form is None or known is None or not known.single:
            return None, []
        own_id = known.request_id if given is None else given.decode("latin-1")  # vLLM too puts the header first
        added = []
        if own_id is None:
            own_id = uuid.uuid4().hex
            added.append((REQUEST_ID_HEADER, own_id.encode()))
        request_id = form.format(own_id)
        return (None, []) if len(own_id) > _LONGEST_ID or request_id in self._door else (request_id, added)

    async def _buffered(self, receive: Receive) -> tuple[list[Message], bytes | None]:
        """What was received, and the whole body of it, or None when that is too large or breaks off."""
        messages: list[Message] = []
        size, complete = 0, False
        while not complete and size <= self._max_body_bytes:
            messages.append(message := await receive())
            if message["type"] != "http.request":
                break
            size += len(message.get("body", b""))
            complete = not message.get("more_body", False)
        return messages, b"".join(message.get("body", b"") for message in messages) if complete else None


class _Exchange:
    """A request and its response on their way through.

    Attributes:
        complete: the response was an answer to its end, and the client was there for it. Whose client leaves is
            aborted, and vLLM's books tell nothing of it.

    Args:
        messages: of the request, to be received first.
        receive: gives those after them.
        send: takes the response's.
    """

    def __init__(self, messages: list[Message], receive: Receive, send: Send) -> None:
        self.complete = False
        self._messages, self._receive, self._send = messages, receive, send
        self._gone = self._answered = False

    async def receive(self) -> Message:
        """See ASGI."""
        message = self._messages.pop(0) if self._messages else await self._receive()
        self._gone = self._gone or message["type"] == "http.disconnect"
        return message

    async def send(self, message: Message) -> None:
        """See ASGI."""
        if message["type"] == "http.response.start":
            self._answered = 200 <= message["status"] < 300
        elif message["type"] == "http.response.body" and not message.get("more_body", False):
            self.complete = self._answered and not self._gone
        await self._send(message)


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
