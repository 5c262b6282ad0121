"""What a client sent, as far as scheduling needs to know it.

Only what every engine would refuse is refused here; all other fields pass through untouched, unknown ones too.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass

from ssjf.core.types import Request
from ssjf.errors import RequestError
from ssjf.gateway import clock
from ssjf.openai import JSONObject, dump_json_object, parse_json_object, render_messages, request_options

HINT_HEADER = "x-ssjf-output-tokens"
TIER_HEADER = "x-ssjf-tier"
DEADLINE_HEADER = "x-ssjf-deadline-s"
_MAX_TIER = 100
# how truth is spelled for pydantic, with which vLLM and others read requests; 1 equals True
_TRUE, _FALSE = (True, "true", "t", "yes", "y", "on", "1"), (False, "false", "f", "no", "n", "off", "0")
_CHARS_PER_TOKEN = 4  # English text under common vocabularies; only until the engine tells the true count


@dataclass(frozen=True, slots=True, kw_only=True)
class Incoming:
    """One completion request.

    Attributes:
        request: what policies and predictors see.
        client_id: what the client, or the gateway for it, calls this request.
        path: where it was sent, ``/v1/chat/completions`` or ``/v1/completions``, with its query.
        body: what is sent on, byte for byte the client's but for `stream_options` and a priority of its own.
        stream: the client wants server-sent events.
        usage_wanted: the client itself asked for the final usage event.
        hint: the output length that a client with the right to hint gave.
        single: one answer to one prompt, so that its true length is what was predicted.
    """

    request: Request
    client_id: str
    path: str
    body: bytes
    stream: bool
    usage_wanted: bool
    hint: float | None
    single: bool


@dataclass(frozen=True, slots=True)
class Caller:
    """Who sends a request, and what they may ask for.

    Attributes:
        name: for logs; "" where nobody has to say who they are.
        tenant: whose the request is.
        tier: their place before or behind others.
        admin: may see what the gateway knows.
        hints: may give output lengths, tiers and priorities of their own.
    """

    name: str = ""
    tenant: str = ""
    tier: int = 0
    admin: bool = False
    hints: bool = False


def parse(
    path: str,
    body: bytes,
    headers: Mapping[str, str],
    *,
    request_id: str,
    client_id: str,
    query: str,
    caller: Caller,
    ignore_max_tokens: bool,
) -> Incoming:
    """Read a request.

    Args:
        path: where it was sent.
        body: its bytes.
        headers: by lower-case name.
        request_id: unique among live requests.
        client_id: what the client calls it.
        query: what stood behind the path, with its question mark.
        caller: who sends it.
        ignore_max_tokens: predictions are not to know the client's cap.

    Raises:
        RequestError: no engine would serve this.
    """
    now = clock.now()
    fields = parse_json_object(body)
    tier = caller.tier
    hint = None
    if caller.hints:
        if HINT_HEADER in headers:
            hint = _number(headers, HINT_HEADER, "tokens")
        if TIER_HEADER in headers:
            tier = _tier(headers[TIER_HEADER])
    elif "priority" in fields:
        del fields["priority"]
        body = dump_json_object(fields)
    deadline = now + _number(headers, DEADLINE_HEADER, "seconds") if DEADLINE_HEADER in headers else None
    prompt, num_prompt_tokens = _prompt(path, fields)
    max_tokens = _max_tokens(fields)
    stream = _stream(fields.get("stream"))
    model = fields.get("model") or ""
    if not isinstance(model, str):
        raise RequestError("'model' must be a string", param="model")
    options = fields.get("stream_options")
    if options is not None and not isinstance(options, dict):
        raise RequestError("'stream_options' must be an object", param="stream_options")
    usage_wanted = bool(options and options.get("include_usage"))
    return Incoming(
        request=Request(
            request_id=request_id,
            prompt=prompt,
            num_prompt_tokens=num_prompt_tokens,
            max_tokens=0 if ignore_max_tokens else max_tokens,
            arrival_time=now,
            model=model,
            tenant=caller.tenant,
            tier=tier,
            deadline=deadline,
            options=tuple(
                pair for pair in request_options(fields) if not (ignore_max_tokens and pair[0] == "max_tokens")
            ),
        ),
        client_id=client_id,
        path=path + query,
        body=_with_usage(body, fields) if stream and not usage_wanted else body,
        stream=stream,
        usage_wanted=usage_wanted,
        hint=hint,
        single=fields.get("n") in (None, 1) and not _is_batch(fields.get("prompt")),
    )


def _prompt(path: str, fields: JSONObject) -> tuple[str, int]:
    """The prompt as text, "" where it is given as token ids, and its tokens, estimated where it is text."""
    if path.endswith("/chat/completions"):
        messages = fields.get("messages")
        if not isinstance(messages, list) or not all(isinstance(message, dict) for message in messages):
            raise RequestError("'messages' must be a list of objects", param="messages")
        if not messages:
            raise RequestError("'messages' must not be empty", param="messages")
        return _counted(render_messages(messages))
    prompt = fields.get("prompt")
    if prompt is None and "prompt_embeds" in fields:  # vLLM's
        return "", 1
    if not isinstance(prompt, str | list):
        raise RequestError("'prompt' must be a string or a list", param="prompt")
    if not prompt:
        raise RequestError("'prompt' must not be empty", param="prompt")
    if isinstance(prompt, str):
        return _counted(prompt)
    if not _is_batch(prompt):
        return "", len(prompt)  # token ids
    return _counted("\n".join(part for part in prompt if isinstance(part, str)))


def _counted(text: str) -> tuple[str, int]:
    return text, max(1, len(text) // _CHARS_PER_TOKEN)


def _is_batch(prompt: object) -> bool:
    """Several prompts in one request, rather than one as text or as token ids."""
    return isinstance(prompt, list) and prompt != [] and not isinstance(prompt[0], int)


def _stream(value: object) -> bool:
    """Whether the answer is to be a stream, in any spelling that some engine takes."""
    spelled = value.lower() if isinstance(value, str) else value
    if not spelled or spelled in _FALSE:
        return False
    if spelled not in _TRUE:
        raise RequestError("'stream' must be true or false", param="stream")
    return True


def _max_tokens(fields: JSONObject) -> int:
    """The client's cap on output tokens; 0 where it gave none, or so that only the engine can tell.

    Some engines take -1 for none, and 0 with an echo, and text or a truth value for a number.
    """
    for name in ("max_completion_tokens", "max_tokens"):
        value = fields.get(name)
        if value is None:
            continue
        if isinstance(value, str | bool):
            return 0
        if not isinstance(value, int | float) or value % 1 != 0:
            raise RequestError(f"'{name}' must be a whole number", param=name)
        return max(int(value), 0)
    return 0


def _with_usage(body: bytes, fields: JSONObject) -> bytes:
    """The body with `stream_options.include_usage`, so that the true length can be learned.

    Every other byte stays: the option is spliced in after the opening brace, unless the client gave other options.
    """
    if "stream_options" in fields:
        return dump_json_object(fields | {"stream_options": (fields["stream_options"] or {}) | {"include_usage": True}})
    brace = body.index(b"{") + 1
    return body[:brace] + b'"stream_options":{"include_usage":true},' + body[brace:]


def with_priority(body: bytes, priority: int) -> bytes:
    """The body with a priority of ours. Where a client's own stays, which is the last, the engine heeds that."""
    brace = body.index(b"{") + 1
    comma = b"" if body[brace:].lstrip()[:1] == b"}" else b","
    return body[:brace] + b'"priority":%d' % priority + comma + body[brace:]


def _number(headers: Mapping[str, str], name: str, unit: str) -> float:
    try:
        value = float(headers[name])
    except ValueError:
        value = math.nan
    if not 0 <= value < math.inf:
        raise RequestError(f"header {name} must be a number of {unit}, not {headers[name]!r}", param=name)
    return value


def _tier(text: str) -> int:
    try:
        tier = int(text)
    except ValueError:
        tier = _MAX_TIER + 1
    if abs(tier) > _MAX_TIER:
        raise RequestError(f"header {TIER_HEADER} must be a whole number up to {_MAX_TIER}", param=TIER_HEADER)
    return tier
