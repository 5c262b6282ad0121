"""What a length predictor needs to know of a request's body, as far as there is any of it.

Nothing is refused here: bodies that make no sense are vLLM's to answer. The module does no I/O.
"""

import json
from dataclasses import dataclass
from typing import Any

from ssjf.errors import RequestError
from ssjf.openai import JSONObject, parse_json_object, render_messages

_CHARS_PER_TOKEN = 4  # English text under common vocabularies
_CAPS = ("max_completion_tokens", "max_tokens", "max_output_tokens")


@dataclass(frozen=True, slots=True)
class Body:
    """What is asked.

    Attributes:
        prompt: as text; "" where there is none, or token ids are in its place.
        num_prompt_tokens: their number, estimated where they are text.
        max_tokens: the client's cap on output tokens; 0 where it gave none.
        model: the model's name; "" where it gave none.
        priority: that the client gave; None where it gave none.
        single: one answer to one prompt, so that the length of one answer is what was predicted.
        request_id: that the client gave; None where it gave none.
    """

    prompt: str = ""
    num_prompt_tokens: int = 0
    max_tokens: int = 0
    model: str = ""
    priority: int | None = None
    single: bool = False
    request_id: str | None = None


def read_body(path: str, body: bytes) -> Body | None:
    """A body sent to one of OpenAI's endpoints for text; None when nothing can be made of it."""
    try:
        fields = parse_json_object(body)
    except RequestError:
        return None
    prompt = _prompt(path, fields)
    text = prompt if isinstance(prompt, str) else ""
    caps = [value for name in _CAPS if type(value := fields.get(name)) is int and value > 0]
    model, priority, request_id = fields.get("model"), fields.get("priority"), fields.get("request_id")
    return Body(
        prompt=text,
        num_prompt_tokens=max(1, len(text) // _CHARS_PER_TOKEN) if isinstance(prompt, str) else len(prompt),
        max_tokens=caps[0] if caps else 0,
        model=model if isinstance(model, str) else "",
        priority=priority if type(priority) is int else None,
        single=fields.get("n") in (None, 1) and fields.get("best_of") in (None, 1) and not _is_batch(fields),
        request_id=request_id if isinstance(request_id, str) else None,
    )


def with_priority(body: bytes, priority: int) -> bytes:
    """A JSON object with this ``priority``, whatever the client put there; what is none stays as it is.

    Read as vLLM reads it, NaN and UTF-16 included, so that nothing which it understands passes by.
    """
    try:
        fields = json.loads(body)
        return json.dumps({**fields, "priority": priority}).encode() if isinstance(fields, dict) else body
    except (ValueError, RecursionError):
        return body


def _prompt(path: str, fields: JSONObject) -> str | list[Any]:
    """The prompt as text, or as token ids."""
    if path.endswith("/chat/completions"):
        return render_messages(fields.get("messages"))
    if path.endswith("/responses"):
        return _responses_prompt(fields)
    prompt = fields.get("prompt")
    if isinstance(prompt, str):
        return prompt
    if not isinstance(prompt, list):
        return ""
    if _is_batch(fields):
        return "\n".join(part for part in prompt if isinstance(part, str))
    return prompt


def _responses_prompt(fields: JSONObject) -> str:
    asked, instructions = fields.get("input"), fields.get("instructions")
    turns = [{"role": "user", "content": asked}] if isinstance(asked, str) else asked
    if not isinstance(turns, list):
        return ""
    if isinstance(instructions, str) and instructions:
        turns = [{"role": "system", "content": instructions}, *turns]
    return render_messages(turns)


def _is_batch(fields: JSONObject) -> bool:
    """Several prompts in one request, rather than one as text or as token ids."""
    prompt = fields.get("prompt")
    return isinstance(prompt, list) and bool(prompt) and not isinstance(prompt[0], int)
