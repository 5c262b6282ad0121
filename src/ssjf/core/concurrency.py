"""How many requests an engine really runs at once, learned from what it shows.

A gateway that lets in fewer wastes the engine; one that lets in more has requests wait in the engine's own queue, where
its order is void. Engines show it in one of two ways:

- they count who waits in their queue: then the limit is what runs while somebody waits there;
- they show nothing: then a first token that takes far longer than it does at low load has waited for a place. This is
  the latency gradient by which concurrency limiters go (Netflix's concurrency-limits, "Gradient2").

While requests wait before the engine and none in it, the limit grows: twofold until a limit was met, by a little now
and then after that, for what an engine runs at once changes with the length of its contexts.

This module does not know clocks, engines or requests.
"""

from collections import deque
from statistics import median

_PROBE_S = 10.0  # between two attempts at more, once a limit was met
_PROBE_SHARE = 16  # of the limit: so much more, or one
_CONFIRMATIONS = 2  # looks in a row that must show a queue: a request on its way into a batch is no queue
_RECENT = 12  # first tokens that a median is taken of
_BASELINE = 64  # first tokens that the baseline is the fastest quarter of
_QUEUED = 3.0  # times the baseline: such a first token has waited for a place
_LEAST_S = 0.05  # below this a first token has not waited, whatever the baseline


class ConcurrencyLimit:
    """The limit for one engine.

    Args:
        initial: what to begin with.
        maximum: never more than this.

    Attributes:
        limit: how many requests to let in at once, at least 1.
    """

    def __init__(self, *, initial: int = 4, maximum: int = 1024) -> None:
        self.limit = initial
        self._maximum = maximum
        self._met = False
        self._probing = False  # the last change was an attempt at a few more than `_before`
        self._before = initial
        self._changed_at = float("-inf")
        self._queued_looks: list[int] = []
        self._first_tokens: deque[float] = deque(maxlen=_RECENT)
        self._baseline: deque[float] = deque(maxlen=_BASELINE)

    def told(self, limit: int) -> None:
        """The engine said how many it runs at once."""
        self.limit = limit
        self._met = True

    def counted(self, *, num_queued: int, in_flight: int, backlog: bool, now: float) -> None:
        """The engine told how many requests wait in its own queue.

        Args:
            num_queued: that many.
            in_flight: requests that we have let in.
            backlog: others wait before the engine.
            now: seconds.
        """
        if num_queued > 0:
            self._queued_looks.append(num_queued)
            if len(self._queued_looks) >= _CONFIRMATIONS:
                self._shrink(in_flight - min(self._queued_looks), now)
                self._queued_looks.clear()
            return
        self._queued_looks.clear()
        if backlog and in_flight >= self.limit:
            self._grow(now)

    def first_token(self, seconds: float, *, in_flight: int, backlog: bool, now: float) -> None:
        """A first token came, of an engine that does not count its queue.

        Args:
            seconds: after the request was let in.
            in_flight: requests let in when this one was, itself included.
            backlog: others wait before the engine.
            now: seconds.
        """
        if now - seconds < self._changed_at:
            return  # it was let in under another limit
        if in_flight < self.limit:
            if in_flight <= self.limit // 2:  # between the two it may have waited, or not
                self._baseline.append(seconds)
            return
        self._first_tokens.append(seconds)
        if len(self._first_tokens) < _RECENT:
            return
        usual, recent = self._usual(), median(self._first_tokens)
        self._first_tokens.clear()
        if recent > max(_QUEUED * usual, _LEAST_S) and self.limit > 1:
            self._shrink(self._before if self._probing else self.limit * 3 // 4, now)
        else:
            self._baseline.append(recent)
            if backlog:
                self._grow(now)

    def _usual(self) -> float:
        """A first token's seconds where nobody waits for a place."""
        known = sorted(self._baseline) or [_LEAST_S / _QUEUED]
        return known[len(known) // 4]

    def _shrink(self, limit: int, now: float) -> None:
        self.limit = max(min(limit, self.limit), 1)
        self._met = True
        self._probing = False
        self._changed_at = now

    def _grow(self, now: float) -> None:
        if not self._met:
            self.limit = min(2 * self.limit, self._maximum)
        elif now - self._changed_at >= _PROBE_S:
            self._before = self.limit
            self.limit = min(self.limit + max(self.limit // _PROBE_SHARE, 1), self._maximum)
            self._probing = True
        else:
            return
        self._changed_at = now
