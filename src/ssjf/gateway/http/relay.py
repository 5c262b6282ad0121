"""Passing an engine's answer on, and reading from it what scheduling must learn: first token, true lengths.

Bytes pass unchanged. Only the usage that the gateway itself asked for is taken out again, with its whole event where
nothing else is in it.
"""

import contextlib
from typing import Any

import orjson

_EVENT_STARTS = (b"data", b"event", b"id", b"retry", b":")
_LONGEST_START = 8  # a piece this short may be the torn beginning of one
# Within JSON text a quote is always escaped, so none of these can hide: what looks like one may at worst be text.
_UNFINISHED = b'"finish_reason":null'
_FINISH, _USAGE, _NO_USAGE, _ERROR, _DONE = b'"finish_reason"', b'"usage"', b'"usage":null', b'"error"', b"[DONE]"

# what a usage event has in common with others, or is there for
_OF_ANY_EVENT = {"id", "object", "created", "model", "choices", "system_fingerprint", "service_tier", "usage"}


class StreamReader:
    """Follows a stream of server-sent events while it passes through.

    Args:
        usage_wanted: the client asked for the usage event, so it stays, and pieces pass exactly as they came.

    Attributes:
        complete: the stream came to its proper end: ``[DONE]``, or at least a finish reason.
        failed: the engine itself has told the client of an error.
        num_prompt_tokens, num_output_tokens: from the usage event; None before it came.
        num_content_events: how many events brought text; stands in for tokens where no usage came. After the first,
            any event of an unfinished choice is taken for one.
        nonsense: what came first is no server-sent event.
    """

    def __init__(self, *, usage_wanted: bool) -> None:
        self._usage_wanted = usage_wanted
        self._rest = b""
        self._blank_line = b""
        self.complete = False
        self.failed = False
        self.nonsense: bool | None = None
        self.num_prompt_tokens: int | None = None
        self.num_output_tokens: int | None = None
        self.num_content_events = 0

    def feed(self, data: bytes) -> bytes:
        """What the client gets of a piece of the stream: none of what it did not ask for."""
        if self.nonsense is None:
            self.nonsense = (
                not data.lstrip(b"\xef\xbb\xbf\r\n").startswith(_EVENT_STARTS) and len(data) > _LONGEST_START
            )
        arrived = self._rest + data
        end = arrived.rfind(self._blank_line) + len(self._blank_line) if self.num_content_events else 0
        whole = arrived[:end]
        num_unfinished = whole.count(_UNFINISHED)
        if num_unfinished and _brings_only_text(whole, num_unfinished):
            self.num_content_events += num_unfinished
            self._rest = arrived[end:]
        else:
            events, self._rest = self._split(arrived)
            whole = b"".join([self._left_of(event) for event in events])
        return data if self._usage_wanted else whole

    def end(self) -> bytes:
        """What the client has not got yet of an event without an end."""
        return b"" if self._usage_wanted else self._rest

    @property
    def mid_event(self) -> bool:
        """The client has got a part of an event."""
        return self._usage_wanted and self._rest != b""

    def _split(self, data: bytes) -> tuple[list[bytes], bytes]:
        """Whole events, each with the blank line that ends it, and the rest."""
        if not self._blank_line:
            lf, crlf = data.find(b"\n\n"), data.find(b"\r\n\r\n")
            if lf < 0 and crlf < 0:
                return [], data
            self._blank_line = b"\n\n" if crlf < 0 or 0 <= lf < crlf else b"\r\n\r\n"
        *events, rest = data.split(self._blank_line)
        return [event + self._blank_line for event in events], rest

    def _left_of(self, event: bytes) -> bytes:
        """What of a whole event is for a client that did not ask for usage."""
        if not event.startswith(b"data:"):
            return event
        data = event[5:].strip()
        if data == b"[DONE]":
            self.complete = True
            return event
        try:
            payload = orjson.loads(data)
        except orjson.JSONDecodeError:
            return event
        if isinstance(payload, dict) and self._read(payload):
            return self._without_usage(payload)
        return event

    def _read(self, payload: dict[str, Any]) -> bool:
        """Learn from an event; returns whether it is there for the usage."""
        if payload.get("error"):
            self.failed = True
        self._read_choices(payload.get("choices"))
        if not payload.get("usage"):
            return False
        self.num_prompt_tokens, self.num_output_tokens = usage_of(payload)
        return not payload.get("choices")

    def _without_usage(self, payload: dict[str, Any]) -> bytes:
        """What an engine has hung on a usage event, as llama.cpp its `timings`; nothing in most cases.

        It gets a choice that says nothing: clients that did not ask for usage look at the first one unseen.
        """
        if all(value is None for name, value in payload.items() if name not in _OF_ANY_EVENT):
            return b""
        empty: dict[str, Any] = {"text": ""} if payload.get("object") == "text_completion" else {"delta": {}}
        rest = {name: value for name, value in payload.items() if name != "usage"}
        rest["choices"] = [{"index": 0, **empty, "finish_reason": None}]
        with contextlib.suppress(orjson.JSONEncodeError):  # JSON is written less deep than it is read
            return b"data: " + orjson.dumps(rest) + self._blank_line
        return b""

    def _read_choices(self, choices: Any) -> None:
        has_text = False
        for choice in choices if isinstance(choices, list) else ():
            if not isinstance(choice, dict):
                continue
            delta = choice.get("delta")
            has_text = has_text or bool(choice.get("text"))
            if isinstance(delta, dict):
                has_text = has_text or any(value for name, value in delta.items() if name != "role")
            if choice.get("finish_reason"):
                self.complete = True
        self.num_content_events += has_text


def _brings_only_text(events: bytes, num_unfinished: int) -> bool:
    """Whether whole events are of unfinished choices and nothing else: most are, and need not be parsed."""
    return (
        events.count(_FINISH) == num_unfinished
        and (_USAGE not in events or events.count(_USAGE) == events.count(_NO_USAGE))
        and _ERROR not in events
        and _DONE not in events
    )


def usage_of(payload: dict[str, Any]) -> tuple[int | None, int | None]:
    """Prompt and output tokens as the engine counted them."""
    usage = payload.get("usage")
    if not isinstance(usage, dict):
        return None, None
    counts = (usage.get("prompt_tokens"), usage.get("completion_tokens"))
    prompt, output = (count if type(count) is int and count >= 0 else None for count in counts)
    return prompt, output
