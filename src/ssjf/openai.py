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


def dump_json_object(fields: JSONObject) -> bytes:
    """The fields of a request as its body again.

    Raises:
        RequestError: they are nested deeper than JSON is written here, which is less deep than it is read.
    """
    try:
        return orjson.dumps(fields)
    except orjson.JSONEncodeError:
        raise RequestError("the request body is nested too deeply", code="invalid_json") from None


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
    return "\n\n".join(f"{_role(m)}: {message_text(m.get('content'))}" for m in turns)


def _role(message: JSONObject) -> str:
    role = message.get("role")
    return role if isinstance(role, str) else ""


OPTIONS = ("max_tokens", "tools", "thinking", "thinking_budget", "json")
"""Names of the numbers in `request_options`."""

_EFFORTS = {"none": 0.0, "minimal": 0.25, "low": 0.5, "medium": 1.0, "high": 1.5}
_BUDGETS = ("thinking_budget", "thinking_token_budget", "budget_tokens", "max_thinking_tokens")


def request_options(fields: JSONObject) -> tuple[tuple[str, float], ...]:
    """What a request asks for beside its prompt that may tell something of the answer's length; only what is there.

    ``max_tokens``: the client's cap; ``tools``: how many it offers; ``thinking``: how hard the model is to think, from
    0, not at all, over 1, as usual; ``thinking_budget``: tokens it may think for; ``json``: 1 if JSON is asked for.
    Field names are those of OpenAI, vLLM, SGLang, Anthropic and Qwen; fields that make no sense are left out.
    """
    template = fields.get("chat_template_kwargs")
    thinking = fields.get("thinking")
    places = [part for part in (fields, template, thinking) if isinstance(part, dict)]
    found: dict[str, float] = {}
    for name in ("max_tokens", "max_completion_tokens", "max_output_tokens"):
        found |= _number("max_tokens", fields.get(name))
    if isinstance(fields.get("tools"), list):
        found["tools"] = float(len(fields["tools"]))
    effort = fields.get("reasoning_effort")
    if isinstance(fields.get("reasoning"), dict):
        effort = fields["reasoning"].get("effort", effort)
    if isinstance(effort, str) and effort in _EFFORTS:
        found["thinking"] = _EFFORTS[effort]
    if isinstance(thinking, dict) and thinking.get("type") in ("enabled", "disabled"):
        found["thinking"] = float(thinking["type"] == "enabled")
    for part in places:
        if isinstance(part.get("enable_thinking"), bool):
            found["thinking"] = float(part["enable_thinking"])
        for name in _BUDGETS:
            found |= _number("thinking_budget", part.get(name))
    answer_format = fields.get("response_format")
    kind = answer_format.get("type") if isinstance(answer_format, dict) else None
    if isinstance(kind, str) and kind.startswith("json"):
        found["json"] = 1.0
    return tuple(found.items())


def _number(name: str, value: Any) -> dict[str, float]:
    whole = type(value) is int or (type(value) is float and value.is_integer())
    return {name: float(value)} if whole and 0 <= value < 1 << 40 else {}


_TURN = re.compile(r"(?:\A|\n\n)(system|developer|user|assistant|tool): ")


def rendered_turns(prompt: str) -> list[tuple[str, str]]:
    """The (role, text) pairs of a conversation that `render_messages` wrote; none for a bare prompt.

    Text that itself looks like the beginning of a turn is taken for one.
    """
    if not _TURN.match(prompt):
        return []
    _, *pieces = _TURN.split(prompt)
    return list(zip(pieces[::2], pieces[1::2], strict=True))
