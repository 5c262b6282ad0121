"""When requests come: arrival processes as values.

None of them knows what is asked. A rate is requests per second; a seed gives the same times everywhere.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from ssjf.errors import ConfigError
from ssjf.workload.reader import read_workload

GRAMMAR = "poisson:RATE | gamma:RATE:CV | uniform:RATE | onoff:RATE | burst | trace:FILE[:SCALE]"
PROCESSES = "poisson | gamma:CV | uniform | onoff | trace:FILE"

_ON_S, _OFF_S = 120.0, 480.0  # one ON-OFF period
_ON_FACTOR, _OFF_FACTOR = 3.0, 0.5  # of the mean rate; 120 · 3 + 480 · 0.5 = 600


class Arrivals(Protocol):
    """An arrival process."""

    def times(self, count: int, seed: int) -> NDArray[np.float64]:
        """The first `count` arrival times in seconds, in increasing order."""
        ...


@dataclass(frozen=True, slots=True)
class Poisson:
    """Independent arrivals; gaps are exponential."""

    rate: float

    def times(self, count: int, seed: int) -> NDArray[np.float64]:
        """The running sum of exponential gaps."""
        return np.cumsum(np.random.default_rng(seed).exponential(1 / self.rate, count))


@dataclass(frozen=True, slots=True)
class Gamma:
    """Independent gamma gaps with a coefficient of variation; 1 is Poisson, more is burstier."""

    rate: float
    cv: float

    def times(self, count: int, seed: int) -> NDArray[np.float64]:
        """The running sum of gamma gaps."""
        shape = 1 / self.cv**2
        return np.cumsum(np.random.default_rng(seed).gamma(shape, 1 / (self.rate * shape), count))


@dataclass(frozen=True, slots=True)
class Uniform:
    """One arrival every 1 / rate seconds."""

    rate: float

    def times(self, count: int, seed: int) -> NDArray[np.float64]:
        """Multiples of the gap; the seed changes nothing."""
        return np.arange(1, count + 1) / self.rate


@dataclass(frozen=True, slots=True)
class OnOff:
    """Bursts: 120 s at three times and 480 s at half the mean rate, again and again; Poisson within each."""

    rate: float

    def times(self, count: int, seed: int) -> NDArray[np.float64]:
        """A unit-rate Poisson process under the exact change of time to the alternating rate."""
        unit = np.cumsum(np.random.default_rng(seed).exponential(1.0, count))
        period_s = _ON_S + _OFF_S
        periods, rest = np.divmod(unit, self.rate * period_s)
        on_mass = _ON_FACTOR * self.rate * _ON_S
        within = np.where(
            rest < on_mass, rest / (_ON_FACTOR * self.rate), _ON_S + (rest - on_mass) / (_OFF_FACTOR * self.rate)
        )
        return periods * period_s + within


@dataclass(frozen=True, slots=True)
class Burst:
    """Everybody at once."""

    def times(self, count: int, seed: int) -> NDArray[np.float64]:
        """All zero."""
        return np.zeros(count)


@dataclass(frozen=True, slots=True, eq=False)
class Trace:
    """Recorded arrivals.

    Attributes:
        recorded_s: instants in any order.
        scale: multiplies the rate: 2 plays the trace twice as fast.
        name: of the trace, for messages.
    """

    recorded_s: Sequence[float]
    scale: float = 1.0
    name: str = "trace"

    def times(self, count: int, seed: int) -> NDArray[np.float64]:
        """The first `count` recorded times, counted from the earliest; the seed changes nothing.

        Raises:
            ConfigError: the trace is shorter.
        """
        if count > len(self.recorded_s):
            raise ConfigError(
                f"{self.name} has {len(self.recorded_s)} arrivals, but {count} are needed; limit the workload"
            )
        times = np.sort(np.asarray(self.recorded_s, dtype=np.float64))[:count]
        return (times - times[:1]) / self.scale


Process = Poisson | Gamma | Uniform | OnOff | Trace  # those that can be had at any mean rate


def parse_arrivals(spec: str) -> Arrivals:
    """Build an arrival process from its text, for example ``poisson:2.5`` or ``trace:day.csv.gz:10``.

    Rates are requests per second. A trace's SCALE multiplies its rate: with 10, ten hours pass in one.

    Raises:
        ConfigError: it does not follow the grammar.
        DataError: the trace cannot be read or has no arrival times.
    """
    kind, _, rest = spec.partition(":")
    if kind == "trace" and rest:
        path, scale = _path_and_scale(rest)
        return _trace(path, 1.0 if scale is None else _positive(spec, scale))
    processes: dict[str, tuple[Callable[..., Arrivals], int]] = {
        "poisson": (Poisson, 1),
        "gamma": (Gamma, 2),
        "uniform": (Uniform, 1),
        "onoff": (OnOff, 1),
        "burst": (Burst, 0),
    }
    process, num_arguments = processes.get(kind, (None, 0))
    arguments = spec.split(":")[1:]
    if process is None or len(arguments) != num_arguments:
        raise ConfigError(f"arrivals {spec!r}: expected {GRAMMAR}")
    return process(*(_positive(spec, argument) for argument in arguments))


def parse_process(spec: str) -> Process:
    """An arrival process whose rate is still open, for example ``gamma:2``; `times_at_rate` gives it one.

    Raises:
        ConfigError: it does not follow the grammar.
        DataError: the trace cannot be read or has no arrival times.
    """
    kind, colon, rest = spec.partition(":")
    path, scale = _path_and_scale(rest)
    if kind == "trace" and path and scale is None:
        return _trace(path)
    if kind == "gamma" and rest:
        return Gamma(1.0, _positive(spec, rest))
    processes: dict[str, Process] = {"poisson": Poisson(1.0), "uniform": Uniform(1.0), "onoff": OnOff(1.0)}
    if kind not in processes or colon:
        raise ConfigError(f"arrivals {spec!r}: expected {PROCESSES}; the rate follows from the load")
    return processes[kind]


def times_at_rate(process: Process, rate: float, count: int, seed: int) -> NDArray[np.float64]:
    """The first `count` arrival times of a process that has another rate, in requests per second.

    Recorded times are stretched so that just these have that rate on average, burst by burst as they were.

    Raises:
        ConfigError: the trace is shorter, or has no extent that could be stretched.
    """
    if not isinstance(process, Trace):
        return replace(process, rate=rate).times(count, seed)
    times = process.times(count, seed)
    if not times[-1] > 0:
        raise ConfigError(f"the first {count} arrivals of {process.name} come all at once: that has no rate")
    stretch: float = count / rate / times[-1]
    return times * stretch


def _path_and_scale(text: str) -> tuple[str, str | None]:
    """FILE and SCALE of FILE[:SCALE]; a file's name may have colons in it."""
    path, colon, scale = text.rpartition(":")
    return (path, scale) if colon and not Path(text).exists() else (text, None)


def _trace(path: str, scale: float = 1.0) -> Trace:
    items = read_workload(path, require=("arrival_s",))
    return Trace([item.arrival_s for item in items if item.arrival_s is not None], scale, path)


_LEAST, _MOST = 1e-9, 1e9  # beyond, sums of gaps are no numbers to reckon with


def _positive(spec: str, text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not _LEAST <= value <= _MOST:
        raise ConfigError(
            f"arrivals {spec!r}: {text!r} is not a positive number from {_LEAST:g} to {_MOST:g}; expected {GRAMMAR}"
        )
    return value
