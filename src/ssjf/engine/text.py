"""From tokens to the text that may be sent: whole characters only, and nothing of a stop string.

Laws of this file:
1. What was released is never taken back, and all releases together are the answer's text.
2. A character whose bytes are spread over several tokens is released once, whole.
3. No part of a stop string is released that could still turn out to be one.

This module does not know where tokens come from, when an answer has to end, or who reads it.
"""

from collections.abc import Callable, Sequence

Decode = Callable[[list[int]], str]

_REPLACEMENT = "\ufffd"
# Text is read off a sliding window of tokens, because decoding everything at each step would be quadratic. The window
# keeps enough tokens for a character spread over the most tokens possible (four) and for tokenizers that treat the
# first token differently.
_WINDOW_TOKENS = 24
_KEPT_TOKENS = 8


class Detokenizer:
    """Turns one answer's tokens into text, a step at a time.

    A tokenizer drops an unfinished character at the end, or shows it as U+FFFD; neither is released until later
    tokens settle it.

    Args:
        decode: from token ids to text, special tokens left out.
    """

    def __init__(self, decode: Decode) -> None:
        self._decode = decode
        self._window: list[int] = []
        self._released = ""  # of the window's text

    def extend(self, token_ids: Sequence[int]) -> list[int]:
        """Add tokens; returns the window that has to be decoded for `release`, so that many can be decoded at once."""
        self._window.extend(token_ids)
        return self._window

    def release(self, text: str, *, final: bool) -> str:
        """The new text that is settled.

        Args:
            text: the decoded window.
            final: whether no more tokens will come, so that an unfinished character is shown as what it is.
        """
        settled = text if final else text.rstrip(_REPLACEMENT)
        new = settled[len(self._released) :]
        if new:
            self._released = settled
        if len(self._window) > _WINDOW_TOKENS:
            self._window = self._window[-_KEPT_TOKENS:]
            self._released = self._decode(self._window).rstrip(_REPLACEMENT)
        return new


class StopStrings:
    """Finds the first stop string in a text that arrives in pieces.

    Args:
        stop: the strings that end the answer, none of them empty.
    """

    def __init__(self, stop: Sequence[str]) -> None:
        self._stop = tuple(stop)
        self._held = ""

    def feed(self, text: str) -> tuple[str, bool]:
        """Take a piece of text.

        Returns:
            (the text that may be released, whether a stop string was met). The stop string and all after it is lost.
        """
        pending = self._held + text
        found = [at for at in map(pending.find, self._stop) if at >= 0]
        if found:
            self._held = ""
            return pending[: min(found)], True
        held = max((_overlap(pending, stop) for stop in self._stop), default=0)
        released = len(pending) - held
        self._held = pending[released:]
        return pending[:released], False

    def flush(self) -> str:
        """The text held back, now that no more will come."""
        held, self._held = self._held, ""
        return held


def _overlap(text: str, stop: str) -> int:
    """Length of the longest end of `text` that is a beginning of `stop`."""
    for length in range(min(len(text), len(stop) - 1), 0, -1):
        if text.endswith(stop[:length]):
            return length
    return 0
