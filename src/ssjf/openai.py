"""The parts of OpenAI's HTTP interface that the gateway and the embedded engine share.

Only shapes: this module does not know who serves a request, and does no I/O.
"""

import re
from typing import Any

import orjson

from ssjf.errors import RequestError

DONE_EVENT = b"data: [DONE]\n\n"

JSONObject = dict[str, Any]


def error_body(message: str, *, kind: str, param: str | None = None, code: str | None = None) -> JSONObject:
    """An error in OpenAI's shape; `kind` is its ``type``, for example ``invalid_request_error``."""
    return {"error": {"message": message, "type": kind, "param": param, "code": code}}


def request_error_body(error: RequestError) -> JSONObject:
    """A refused request in OpenAI's shape."""
    return error_body(str(error), kind="invalid_request_error", param=error.param, code=error.code)


def sse_event(payload: JSONObject) -> bytes:
    """One server-sent event with a JSON payload."""
    return b"data: " + orjson.dumps(payload) + b"\n\n"


def parse_json_object(body: bytes) -> JSONObject:
    """The request body as a JSON object. NaN, infinities and invalid UTF-8 are no JSON.

    Raises:
        RequestError: it is something else.
    """
    try:
        value = orjson.loads(body)
    except orjson.JSONDecodeError as error:
        raise RequestError(f"the request body is not valid JSON: {error}", code="invalid_json") from None
    if not isinstance(value, dict):
        raise RequestError("the request body must be a JSON object", code="invalid_json")
    return value


def message_text(content: Any) -> str:
    """The text of a chat message's content: a string, or the text parts of a list of parts."""
    if isinstance(content, str):
        return content
    if isinstance(content, list):
        return "\n".join(
            part["text"] for part in content if isinstance(part, dict) and isinstance(part.get("text"), str)
        )
    return ""


def render_messages(messages: Any) -> str:
    """A conversation as plain text for a length predictor: one ``role: text`` block per message.

    A conversation of a single user message is that message's text, so that a predictor trained on bare prompts
    sees what it was trained on. Anything that is not a list of messages is the empty string.
    """
    if not isinstance(messages, list):
        return ""
    turns = [m for m in messages if isinstance(m, dict)]
    if len(turns) == 1 and turns[0].get("role") == "user":
        return message_text(turns[0].get("content"))
    return "\n\n".join(f"{m.get('role', '')}: {message_text(m.get('content'))}" for m in turns)


_TURN = re.compile(r"(?:\A|\n\n)(system|developer|user|assistant|tool): ")


def rendered_turns(prompt: str) -> list[tuple[str, str]]:
    """The (role, text) pairs of a conversation that `render_messages` wrote; none for a bare prompt.

    Text that itself looks like the beginning of a turn is taken for one.
    """
    if not _TURN.match(prompt):
        return []
    _, *pieces = _TURN.split(prompt)
    return list(zip(pieces[::2], pieces[1::2], strict=True))
