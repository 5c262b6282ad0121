"""What can be learned from finished jobs with little memory: quantiles, and how well predictions rank.

Nothing here decides an order.
"""

from bisect import bisect_left, bisect_right, insort
from collections import deque
from heapq import heappush, heappushpop
from math import inf
from typing import Generic, TypeVar

Value = TypeVar("Value")

_OUTLYING = 20.0  # means
_ABSURD = 1000.0
_ARRIVALS = 128  # by which a prediction is found short or long: few, for predictors change
_GOLDEN = 0.6180339887  # its multiples fall evenly between 0 and 1


class RunningQuantile:
    """Quantiles of the most recent values.

    Args:
        window: how many values count.
    """

    def __init__(self, window: int = 16_384) -> None:
        self._window = window
        self._sorted: list[float] = []
        self._recent: deque[float] = deque()

    def __len__(self) -> int:
        return len(self._sorted)

    def add(self, value: float) -> None:
        """Take a value in, and the oldest out when the window is full. O(window) of a memory move."""
        insort(self._sorted, value)
        self._recent.append(value)
        if len(self._recent) > self._window:
            del self._sorted[bisect_left(self._sorted, self._recent.popleft())]

    def at(self, level: float) -> float:
        """The value at a level between 0 and 1; 0 before the first one."""
        return self.ranked(int(level * (len(self._sorted) - 1))) if self._sorted else 0.0

    def ranked(self, place: int) -> float:
        """The value at a place in increasing order, from 0; inf if there are not as many."""
        return self._sorted[place] if place < len(self._sorted) else inf

    def num_below(self, value: float) -> int:
        """How many values are smaller."""
        return bisect_left(self._sorted, value)

    def num_up_to(self, value: float) -> int:
        """How many values are no larger."""
        return bisect_right(self._sorted, value)


class History(Generic[Value]):
    """A value that changes now and then, and what it was before.

    Args:
        value: what it is until the first change.
        memory: how many changes are remembered; before them it is taken to have been what the oldest made it.
    """

    def __init__(self, value: Value, memory: int = 1024) -> None:
        self._memory = memory
        self._since = [-inf]
        self._values = [value]

    def add(self, now: float, value: Value) -> None:
        """It changes; times do not go back."""
        self._since.append(now)
        self._values.append(value)
        del self._since[: -self._memory], self._values[: -self._memory]

    def at(self, time: float) -> Value:
        """What it was at an instant, changes at this very instant not counted. O(log memory)."""
        if time > self._since[-1]:  # the usual case: an arrival of now
            return self._values[-1]
        return self._values[max(0, bisect_left(self._since, time) - 1)]


class RunningRatio:
    """The sum of one quantity over the sum of another, of recent pairs.

    A single absurd second is not to stand for all: it counts for at most a thousand times what the first makes likely,
    and a pair whose second is more than 20 times the mean so far counts as one of that size.

    Attributes:
        value: the ratio; 1 before there is one.

    Args:
        memory: how many pairs count, roughly.
    """

    def __init__(self, memory: int) -> None:
        self.value = 1.0
        self._fade = 1 - 1 / memory
        self._weight = self._above = self._below = 0.0

    def add(self, above: float, below: float) -> None:
        """Take one pair in."""
        below = min(below, _ABSURD * above / self.value) if self.value > 0 else below
        if self._weight and below * self._weight > _OUTLYING * self._below > 0:
            above, below = (part * _OUTLYING * self._below / (below * self._weight) for part in (above, below))
        self._weight = self._fade * self._weight + 1
        self._above = self._fade * self._above + above
        self._below = self._fade * self._below + below
        if self._below > 0:
            self.value = self._above / self._below


class RankingQuality:
    """How well predictions rank those who arrive: the share of pairs that they order rightly, ties counting half.

    Whoever is served by predictions finishes in their order, so those who finish about the same time were predicted
    alike and are hard to tell apart, which says little about two who arrive. So each finished job is compared with one
    of every eighth of the predictions of recent arrivals, and counts for the eighth that is its own. Of an eighth those
    are remembered that *started* last: those that finished last are the long ones. Older comparisons fade.

    Attributes:
        concordance: 1 for a perfect ranking, .5 for chance, 0 for the reverse.
        scale: true over predicted service seconds.
        mean_service_s: of true service.

    Args:
        memory: how many finished jobs count, roughly.
    """

    def __init__(self, memory: int = 150) -> None:
        self.concordance = 0.5
        self.mean_service_s = 0.0
        self.scale = 1.0
        self._memory = memory
        self._arrived = RunningQuantile(_ARRIVALS)
        self._eighths = [_Eighth(max(1, memory // 8)) for _ in range(8)]
        self._turn = 0
        self._weight = self._true = 0.0
        self._ratio = RunningRatio(memory)

    def arrived(self, predicted_s: float) -> None:
        """A job of such a prediction has come."""
        self._arrived.add(predicted_s)

    def add(self, predicted_s: float, service_s: float, *, started_at: float | None = None) -> None:
        """Learn one pair of predicted and true service seconds.

        Args:
            predicted_s: what was predicted.
            service_s: what came true.
            started_at: when the job started; None for all where they start in the order in which they are told.
        """
        self._turn += 1
        own = self._eighth_of(predicted_s)
        peers = [eighth.latest[self._turn % len(eighth.latest)] for eighth in self._eighths if eighth.latest]
        if peers:
            agree = sum(_agreement(predicted_s - p, service_s - s) for _, _, p, s in peers) / len(peers)
            self.concordance += own.compared(agree) / len(self._eighths)
        own.remember((self._turn if started_at is None else started_at, self._turn, predicted_s, service_s))
        fade = 1 - 1 / self._memory
        self._weight = fade * self._weight + 1
        self._true = fade * self._true + service_s
        self.mean_service_s = self._true / self._weight
        self._ratio.add(service_s, predicted_s)
        self.scale = self._ratio.value

    def _eighth_of(self, predicted_s: float) -> "_Eighth":
        """Where it lies among recent arrivals; equal predictions are spread over all the places that they take up."""
        arrived = self._arrived
        low, high = arrived.num_below(predicted_s), arrived.num_up_to(predicted_s)
        place = low + self._turn * _GOLDEN % 1 * (high - low)
        return self._eighths[min(7, int(8 * place / max(1, len(arrived))))]


class _Eighth:
    """What has finished of an eighth of the arrivals, and how well those rank among all.

    Args:
        memory: how many of them count, roughly.

    Attributes:
        latest: a heap by start of those that started last: start, number, predicted and true service seconds.
    """

    def __init__(self, memory: int) -> None:
        self.latest: list[tuple[float, int, float, float]] = []
        self._memory = memory
        self._concordance = 0.5
        self._weight = 1  # the prior is chance

    def compared(self, agree: float) -> float:
        """By how much its concordance changes: a plain mean over the first jobs, then an exponential one."""
        self._weight = min(self._weight + 1, max(2, self._memory))
        change = (agree - self._concordance) / self._weight
        self._concordance += change
        return change

    def remember(self, job: tuple[float, int, float, float]) -> None:
        """Keep the job to compare others with, unless as many have started after it."""
        if len(self.latest) < self._memory:
            heappush(self.latest, job)
        else:
            heappushpop(self.latest, job)


def _agreement(predicted_difference: float, true_difference: float) -> float:
    product = predicted_difference * true_difference
    return 1.0 if product > 0 else 0.5 if product == 0 else 0.0
