"""Capacity planning: how many requests a second, or how many replicas, under limits on what users see.

A *limit* is a statistic of completion times (jct), first tokens (ttft) or waits that must not exceed some seconds. What
is searched is a load: with common random numbers (the same requests, the same arrivals stretched in time) a statistic
of a run grows with the load almost without exception, so the load is raised in steps to the first that fails, and the
border is found between that step and the one before it. Each seed has a border of its own; their spread is that of the
answer.

A host whose load is 1 or more has no steady state: what a run of any length shows there is only its length. So loads
are searched up to `HIGHEST`, and an answer there means that stability is the limit, not users.

This module does not know what serves the requests.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from ssjf.errors import ConfigError
from ssjf.metrics.table import Floats, JobTable

HIGHEST = 0.98
_STEPS = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.85, 0.9, 0.94, HIGHEST)
RESOLUTION = 0.005  # of the load; the border is known to half of it on either side

_STATISTICS = {"mean": None, "p50": 50.0, "p90": 90.0, "p95": 95.0, "p99": 99.0, "max": 100.0}
_TIMES = ("jct", "ttft", "wait")
GRAMMAR = f"STATISTIC-TIME=SECONDS with one of {', '.join(_STATISTICS)} and one of {', '.join(_TIMES)}"


@dataclass(frozen=True, slots=True)
class Limit:
    """What must not be exceeded.

    Attributes:
        statistic: mean, max or a percentile.
        time: what it is of: ``jct``, ``ttft`` or ``wait``.
        seconds: the most that it may be.
    """

    statistic: str
    time: str
    seconds: float

    def __str__(self) -> str:
        return f"{self.statistic} {self.time.upper() if self.time != 'wait' else 'wait'} ≤ {self.seconds:g} s"

    def measured_s(self, tables: Sequence[JobTable]) -> float:
        """The statistic over all jobs of some tables.

        Raises:
            ConfigError: the host knows no such times.
        """
        values = np.concatenate([self._values(table) for table in tables])
        if np.isnan(values).any():
            raise ConfigError(f"a limit on {self.time} needs a host that knows first tokens: give --cost-model")
        level = _STATISTICS[self.statistic]
        return float(values.mean() if level is None else np.percentile(values, level))

    def _values(self, table: JobTable) -> Floats:
        if self.time == "jct":
            return table.jct_s
        return (table.first_token_s if self.time == "ttft" else table.start_s) - table.arrival_s


def parse_limit(text: str) -> Limit:
    """A limit from its text, for example ``p99-jct=30``.

    Raises:
        ConfigError: it does not follow the grammar.
    """
    name, _, value = text.partition("=")
    statistic, _, time = name.strip().partition("-")
    try:
        seconds = float(value)
    except ValueError:
        seconds = 0.0
    if statistic not in _STATISTICS or time not in _TIMES or not 0 < seconds < float("inf"):
        raise ConfigError(f"limit {text!r}: expected {GRAMMAR}")
    return Limit(statistic, time, seconds)


def worst_ratio(limits: Sequence[Limit], tables: Sequence[JobTable]) -> float:
    """The measured statistic over its limit, for the limit that is nearest to being exceeded; up to 1 all hold."""
    return max(limit.measured_s(tables) / limit.seconds for limit in limits)


def largest_load(ratio: Callable[[float], float]) -> float:
    """The largest load at which the limits hold; 0 where they hold at none, `HIGHEST` where they always do.

    Args:
        ratio: of a load, as `worst_ratio` has it.
    """
    low = 0.0
    for step in _STEPS:
        if ratio(step) > 1:
            high = step
            break
        low = step
    else:
        return HIGHEST
    while high - low > RESOLUTION:
        middle = (low + high) / 2
        low, high = (middle, high) if ratio(middle) <= 1 else (low, middle)
    return low


def fewest_replicas(ratio: Callable[[int], float], *, at_least: int, most: int = 4096) -> int | None:
    """The smallest number of replicas with which the limits hold; None where even `most` do not help.

    Args:
        ratio: of a number of replicas, as `worst_ratio` has it; taken to fall with it.
        at_least: fewer would be overloaded.
        most: where to give up.
    """
    low, high = at_least - 1, at_least
    while ratio(high) > 1:
        low, high = high, 2 * high
        if low >= most:
            return None
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if ratio(middle) <= 1 else (middle, high)
    return high
