"""How many requests an engine really runs at once, learned from what it shows.

A gateway that lets in fewer wastes the engine; one that lets in more has requests wait in the engine's own queue, where
its order is void. Engines show it in one of three ways:

- they count who waits in their queue: then the limit is what runs while somebody waits there;
- their answers stream: then whoever has had a first token runs, and a first token that is long overdue waits;
- their answers come whole: then only the tokens per second tell whether more at once is of any use.

While requests wait before the engine and none in it, the limit grows: twofold until a limit was met, and after that by
steps that begin with a few, now and then, for what an engine runs at once changes with the length of its contexts.

This module does not know clocks, engines or requests.
"""

from collections import deque
from dataclasses import dataclass
from math import inf

_PROBE_S = 10.0  # between a limit that was met and the next attempt at more
_PROBE_SHARE = 16  # of the limit: so much more is tried at first, or one
_CONFIRMATIONS = 2  # looks in a row that must agree: a request on its way into a batch is no queue
_BASELINE = 64  # first tokens that the usual one is the fastest quarter of
_OVERDUE = 3.0  # times the usual: a first token that takes longer waits for a place
_LEAST_S = 0.05  # before this no first token is overdue, whatever is usual
_RECALLED_S = 10.0  # what has run at once in this time can run at once: a long prompt alone is no reason to shrink
_CLIMB_S = 30.0  # between two attempts to find a better limit by tokens per second
_CLIMB_STEP = 1.25
_LEAST_ANSWERS = 12  # that tokens per second are taken over, or twice the limit
_WORTH = 0.25  # of what tokens per second would gain in proportion to the limit: with less it is not worth a higher one
_KEEPS = 0.95  # of the tokens per second must be left for a lower limit to be worth it


@dataclass(frozen=True, slots=True)
class Progress:
    """What has come of the requests that an engine was given.

    Attributes:
        num_started: those that it works on, for a token of theirs came, or of one that was sent later.
        unstarted_s: for each stream that was sent after those: seconds since then.
    """

    num_started: int
    unstarted_s: tuple[float, ...]


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
        self._step = 1  # of the next attempt at more, in shares of the limit
        self._changed_at = -inf
        self._queued_looks: list[int] = []
        self._running_looks: deque[int] = deque(maxlen=_CONFIRMATIONS)
        self._ran: deque[tuple[float, int]] = deque()  # what was seen to run at once, by time; falling
        self._baseline: deque[float] = deque(maxlen=_BASELINE)
        self._streamed_at = -inf
        self._climb = _Climb(maximum)

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
        self._looked(in_flight - num_queued, num_queued, in_flight, backlog=backlog, now=now)

    def first_token(self, seconds: float, *, in_flight: int, now: float) -> None:
        """A first token came, of an engine that does not count its queue.

        Args:
            seconds: after the request was let in.
            in_flight: requests let in when this one was, itself included.
            now: seconds.
        """
        self._streamed_at = now
        if in_flight <= max(self._most_run(), 1):  # of more some may have waited for a place
            self._baseline.append(seconds)

    def looked(self, progress: Progress, *, in_flight: int, backlog: bool, now: float) -> None:
        """One look at what an engine that does not count its queue does with what we have let in.

        Args:
            progress: what has come of it.
            in_flight: requests that we have let in, streams or not.
            backlog: others wait before the engine.
            now: seconds.
        """
        if len(self._running_looks) == _CONFIRMATIONS:
            self._has_run(min(self._running_looks), now)
        overdue_s = max(_OVERDUE * self._usual(), _LEAST_S)
        num_overdue = sum(seconds > overdue_s for seconds in progress.unstarted_s)
        self._looked(progress.num_started, num_overdue, in_flight, backlog=backlog, now=now)

    def answered(self, *, num_tokens: int, seconds: float, in_flight: int, backlog: bool, now: float) -> None:
        """A whole answer came, of an engine that does not count its queue and shows nothing before the end.

        Args:
            num_tokens: of the answer.
            seconds: after the request was let in.
            in_flight: requests let in when this one was, itself included.
            backlog: others wait before the engine.
            now: seconds.
        """
        if now - self._streamed_at < _CLIMB_S:
            return  # streams tell more
        if not backlog or in_flight < self.limit or now - seconds < self._changed_at:
            return  # it does not tell what the engine does at this limit
        limit = self._climb.next_limit(self.limit, num_tokens, seconds, now)
        if limit != self.limit:
            self.limit = limit
            self._changed_at = now

    def _usual(self) -> float:
        """A first token's seconds where nobody waits for a place; infinite while unknown."""
        known = sorted(self._baseline)
        return known[len(known) // 4] if known else inf

    def _has_run(self, num: int, now: float) -> None:
        while self._ran and self._ran[-1][1] <= num:
            self._ran.pop()
        self._ran.append((now, num))
        while now - self._ran[0][0] > _RECALLED_S:
            self._ran.popleft()

    def _most_run(self) -> int:
        return self._ran[0][1] if self._ran else 0

    def _looked(self, num_running: int, num_queued: int, in_flight: int, *, backlog: bool, now: float) -> None:
        self._running_looks.append(num_running)
        if num_queued == 0:
            self._queued_looks.clear()
            running = min(self._running_looks) if len(self._running_looks) == _CONFIRMATIONS else 0
            if backlog and running >= self.limit:
                self._grow(now)
            return
        self._queued_looks.append(num_queued)
        if len(self._queued_looks) == _CONFIRMATIONS:
            self._shrink(in_flight - min(self._queued_looks), now)

    def _shrink(self, limit: int, now: float) -> None:
        self.limit = min(max(limit, self._most_run(), 1), self.limit)
        self._queued_looks.clear()
        self._met = True
        self._step = 1
        self._changed_at = now

    def _grow(self, now: float) -> None:
        """More: twofold, or, once a limit was met, now and then and for as long as each step is seen to be taken."""
        if not self._met:
            self.limit = min(2 * self.limit, self._maximum)
        elif self._step > 1 or now - self._changed_at >= _PROBE_S:
            self.limit = min(self.limit + max(self._step * self.limit // _PROBE_SHARE, 1), self._maximum)
            self._step = min(2 * self._step, _PROBE_SHARE)
        else:
            return
        self._running_looks.clear()
        self._changed_at = now


class _Climb:
    """Looks for the lowest limit with (almost) the most tokens per second: up while that helps, then down."""

    def __init__(self, maximum: int) -> None:
        self._maximum = maximum
        self._tokens = self._seconds = 0.0
        self._num = 0
        self._from: tuple[int, float] | None = None  # limit and tokens per second before the attempt under way
        self._up = True
        self._factor = 2.0
        self._rests_until = -inf

    def next_limit(self, limit: int, num_tokens: int, seconds: float, now: float) -> int:
        """The limit after an answer that was had at this limit."""
        if now < self._rests_until:
            return limit
        self._tokens += num_tokens
        self._seconds += seconds
        self._num += 1
        if self._num < max(_LEAST_ANSWERS, 2 * limit):
            return limit
        rate = limit * self._tokens / max(self._seconds, 1e-9)
        self._tokens = self._seconds = 0.0
        self._num = 0
        if self._from is not None:
            before, rate_before = self._from
            least = 1 + _WORTH * (limit / before - 1) if self._up else _KEEPS
            if rate < least * rate_before:
                self._turn(now)
                return before
        self._from = limit, rate
        if self._up:
            wanted = min(max(int(limit * self._factor), limit + 1), self._maximum)
        else:
            wanted = max(min(int(limit / self._factor), limit - 1), 1)
        if wanted == limit:
            self._turn(now)
        return wanted

    def _turn(self, now: float) -> None:
        """This way leads no further; after both there is rest, and then smaller steps."""
        self._from = None
        if not self._up:
            self._factor, self._rests_until = _CLIMB_STEP, now + _CLIMB_S
        self._up = not self._up
