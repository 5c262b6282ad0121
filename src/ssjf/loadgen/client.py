"""One streamed request to an OpenAI-compatible server, with the instants that matter.

This module never retries and knows nothing of other requests: what the server does to one is what is reported.
"""

import asyncio
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from typing import Any

import aiohttp
import orjson

from ssjf.core.types import Outcome
from ssjf.errors import BackendError
from ssjf.loadgen.plan import PlannedRequest

HINT_HEADER = "x-ssjf-output-tokens"
QUEUE_HEADER = "x-ssjf-queue-ms"
PREDICTION_HEADER = "x-ssjf-predicted-tokens"

REJECTED = "rejected"
COMPLETED = Outcome.COMPLETED.value
FAILED = Outcome.FAILED.value
CANCELLED = Outcome.CANCELLED.value

# Shorter than the 5 s after which uvicorn closes an idle connection: a request never meets one that is being closed.
_KEEPALIVE_S = 2.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Endpoint:
    """Where requests go, and how.

    Attributes:
        url: the server's address, with or without ``/v1``.
        model: the name of the model to ask.
        chat: whether chat or plain completions are asked; conversations need chat.
        api_key: sent as the bearer token; None sends none.
        timeout_s: a request not answered in full after so long has failed.
    """

    url: str
    model: str = ""
    chat: bool = True
    api_key: str | None = field(default=None, repr=False)
    timeout_s: float = 600.0

    def address(self, path: str) -> str:
        """The full URL of a path below ``/v1``."""
        base = self.url.rstrip("/")
        return f"{base if base.endswith('/v1') else base + '/v1'}/{path}"


@dataclass(slots=True, kw_only=True)
class Answer:
    """What one request came to. Instants are on the event loop's clock.

    Attributes:
        sent_at, first_token_at, finished_at: None for what never happened; a failed answer never finished.
        queue_s: how long the server says it let the request wait; None where it does not say.
        predicted_tokens: the prediction the server says it went by.
        input_tokens, output_tokens: the server's count; without one, None and the number of content chunks.
        status: ``completed``, ``failed``, ``rejected`` (HTTP 4xx) or ``cancelled``.
        error: what went wrong, short enough to count by; "" where nothing did.
    """

    sent_at: float
    first_token_at: float | None = None
    finished_at: float | None = None
    queue_s: float | None = None
    predicted_tokens: float | None = None
    input_tokens: int | None = None
    output_tokens: int = 0
    status: str = CANCELLED
    error: str = ""


def open_session(endpoint: Endpoint) -> aiohttp.ClientSession:
    """A session that holds back nothing: as many connections as there are requests."""
    headers = {"Authorization": f"Bearer {endpoint.api_key}"} if endpoint.api_key else {}
    return aiohttp.ClientSession(
        connector=aiohttp.TCPConnector(limit=0, keepalive_timeout=_KEEPALIVE_S),
        timeout=aiohttp.ClientTimeout(total=endpoint.timeout_s),
        headers=headers,
    )


async def first_model(endpoint: Endpoint) -> str:
    """The first model that the server lists.

    Raises:
        BackendError: nobody answers there, or not as an OpenAI-compatible server does.
    """
    address = endpoint.address("models")
    try:
        async with open_session(endpoint) as session, session.get(address) as response:
            body = await response.read()
    except (aiohttp.ClientError, TimeoutError, OSError) as error:
        raise BackendError(f"no server answers at {address}: {_reason(error)}") from None
    if response.status != 200:
        raise BackendError(f"{address} answers HTTP {response.status}: {_server_message(body)}")
    try:
        return str(orjson.loads(body)["data"][0]["id"])
    except (orjson.JSONDecodeError, LookupError, TypeError):
        raise BackendError(f"{address} lists no models; name one with --model") from None


def request_body(endpoint: Endpoint, request: PlannedRequest) -> bytes:
    """The JSON to post. Greedy, so that the same prompt gets the same answer under every policy."""
    body: dict[str, Any] = {
        "model": endpoint.model,
        "temperature": 0,
        "stream": True,
        "stream_options": {"include_usage": True},
    }
    if endpoint.chat:
        is_text = isinstance(request.prompt, str)
        body["messages"] = [{"role": "user", "content": request.prompt}] if is_text else request.prompt
    else:
        body["prompt"] = request.prompt
    if request.max_tokens is not None:
        body["max_tokens"] = request.max_tokens
    if request.fixed_output:
        body |= {"ignore_eos": True, "min_tokens": request.max_tokens}
    return orjson.dumps(body)


async def ask(session: aiohttp.ClientSession, endpoint: Endpoint, request: PlannedRequest, answer: Answer) -> None:
    """Send one request and read its answer to the end, filling in `answer` on the way.

    Whatever goes wrong is written into `answer`, except a cancellation: that leaves it as far as it came.
    """
    headers = {"Content-Type": "application/json"}
    if request.hint is not None:
        headers[HINT_HEADER] = str(request.hint)
    address = endpoint.address("chat/completions" if endpoint.chat else "completions")
    try:
        async with session.post(address, data=request_body(endpoint, request), headers=headers) as response:
            if response.status != 200:
                message = _server_message(await response.read())
                answer.status = REJECTED if 400 <= response.status < 500 else FAILED
                answer.error = f"HTTP {response.status}: {message}"
                return
            queue_ms = _number(response.headers.get(QUEUE_HEADER))
            answer.queue_s = None if queue_ms is None else queue_ms / 1000
            answer.predicted_tokens = _number(response.headers.get(PREDICTION_HEADER))
            await _read_stream(response, answer)
            answer.status = FAILED if answer.error else COMPLETED
    except (aiohttp.ClientError, TimeoutError, OSError) as error:
        answer.status = FAILED
        answer.error = f"no answer within {endpoint.timeout_s:g} s" if _is_timeout(error) else _reason(error)


async def _read_stream(response: aiohttp.ClientResponse, answer: Answer) -> None:
    """Follow the stream to its last byte: a client that hangs up at the last event looks like one that gave up."""
    clock = asyncio.get_running_loop().time
    ended = False
    async for data in _event_data(response):
        if data == b"[DONE]":
            answer.finished_at = clock()
        elif not answer.error:
            try:
                ended |= _read_event(orjson.loads(data), answer, clock)
            except (orjson.JSONDecodeError, AttributeError, LookupError, TypeError, ValueError):
                answer.error = "in the stream: an event that is no completion chunk"
    if not answer.error and not ended:
        answer.error = "the stream ended before the answer did"
    if answer.error:
        answer.finished_at = None
    elif answer.finished_at is None:  # not every server says [DONE]
        answer.finished_at = clock()


def _read_event(event: dict[str, Any], answer: Answer, clock: Callable[[], float]) -> bool:
    """Take one event into the answer; whether it ends the text."""
    if event.get("error"):
        answer.error = f"in the stream: {_message_of(event)}"
        return False
    ended = False
    for choice in event.get("choices") or ():
        ended |= choice.get("finish_reason") is not None
        if _has_content(choice):
            answer.output_tokens += 1
            if answer.first_token_at is None:
                answer.first_token_at = clock()
    usage = event.get("usage")
    if usage:
        answer.input_tokens = int(usage["prompt_tokens"])
        answer.output_tokens = int(usage["completion_tokens"])
    return ended


async def _event_data(response: aiohttp.ClientResponse) -> AsyncIterator[bytes]:
    """The data of the server-sent events; those of completions have one line each."""
    rest = b""
    async for piece in response.content.iter_any():
        *lines, rest = (rest + piece).split(b"\n")
        for line in lines:
            if line.startswith(b"data:"):
                yield line[5:].strip()


def _has_content(choice: dict[str, Any]) -> bool:
    delta = choice.get("delta") or {}
    return bool(choice.get("text") or delta.get("content") or delta.get("reasoning_content"))


def _number(text: str | None) -> float | None:
    try:
        return None if text is None else float(text)
    except ValueError:
        return None


def _server_message(body: bytes) -> str:
    """What the server says went wrong: OpenAI's error message, or the first line of whatever it sent."""
    try:
        return _message_of(orjson.loads(body))
    except (orjson.JSONDecodeError, LookupError, TypeError):
        return _first_line(body.decode(errors="replace"))


def _message_of(body: dict[str, Any]) -> str:
    return _first_line(str(body["error"]["message"]))


def _first_line(text: str) -> str:
    return text.strip().partition("\n")[0][:200] or "no message"


def _is_timeout(error: Exception) -> bool:
    # A connection timeout of the operating system is a TimeoutError too, but has an error number.
    return isinstance(error, TimeoutError) and getattr(error, "errno", None) is None


def _reason(error: Exception) -> str:
    return str(error) or type(error).__name__
