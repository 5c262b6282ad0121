"""Passing an engine's answer on, and reading from it what scheduling must learn: first token, true lengths.

Bytes pass unchanged. Only the usage event that the gateway itself asked for is taken out again.
"""

from collections.abc import Iterator
from typing import Any

import orjson

from ssjf.openai import DONE_EVENT


class StreamReader:
    """Follows a stream of server-sent events while it passes through.

    Args:
        usage_wanted: the client asked for the usage event, so it stays.

    Attributes:
        complete: the stream came to its proper end, ``[DONE]``.
        num_prompt_tokens, num_output_tokens: from the usage event; None before it came.
        num_content_events: how many events brought text; stands in for tokens where no usage came.
    """

    def __init__(self, *, usage_wanted: bool) -> None:
        self._usage_wanted = usage_wanted
        self._rest = b""
        self.complete = False
        self.num_prompt_tokens: int | None = None
        self.num_output_tokens: int | None = None
        self.num_content_events = 0

    def feed(self, data: bytes) -> bytes:
        """What the client gets of a piece of the stream: whole events, and none that it did not ask for."""
        data = (self._rest + data).replace(b"\r\n", b"\n") if b"\r" in data else self._rest + data
        end = data.rfind(b"\n\n") + 2
        if end < 2:
            self._rest = data
            return b""
        self._rest = data[end:]
        return b"".join(event for event in _events(data[:end]) if self._keep(event))

    def rest(self) -> bytes:
        """What came after the last whole event."""
        return self._rest

    def _keep(self, event: bytes) -> bool:
        if event == DONE_EVENT or event.strip() == b"data: [DONE]":
            self.complete = True
            return True
        if not event.startswith(b"data:"):
            return True
        try:
            payload = orjson.loads(event[5:])
        except orjson.JSONDecodeError:
            return True
        if not isinstance(payload, dict):
            return True
        if _has_text(payload):
            self.num_content_events += 1
        if not payload.get("usage"):
            return True
        self.num_prompt_tokens, self.num_output_tokens = usage_of(payload)
        return self._usage_wanted or bool(payload.get("choices"))


def usage_of(payload: dict[str, Any]) -> tuple[int | None, int | None]:
    """Prompt and output tokens as the engine counted them."""
    usage = payload.get("usage")
    if not isinstance(usage, dict):
        return None, None
    counts = (usage.get("prompt_tokens"), usage.get("completion_tokens"))
    prompt, output = (count if type(count) is int and count >= 0 else None for count in counts)
    return prompt, output


def _events(data: bytes) -> Iterator[bytes]:
    begin = 0
    while begin < len(data):
        end = data.index(b"\n\n", begin) + 2
        yield data[begin:end]
        begin = end


def _has_text(payload: dict[str, Any]) -> bool:
    choices = payload.get("choices")
    if not isinstance(choices, list):
        return False
    for choice in choices:
        if not isinstance(choice, dict):
            continue
        delta = choice.get("delta")
        if choice.get("text") or (isinstance(delta, dict) and any(v for k, v in delta.items() if k != "role")):
            return True
    return False
