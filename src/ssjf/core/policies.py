"""Who is served next. Every ordering rule of the project is in this file, and each is a key.

A policy sees one job and the time; it knows neither the queue, nor the host, nor the truth. Waiting jobs are
ordered by (tier, key, arrival, sequence): ties of the key go to the earlier arrival.
"""

from dataclasses import dataclass, field
from math import expm1, log

from ssjf.core.estimates import History, RankingQuality
from ssjf.core.shadow import ShadowFCFS
from ssjf.core.types import Job

_FAR_S = 1e9  # thirty years: later than any deadline, and finite
_TINY_S = 1e-9  # service seconds below this would make a response ratio infinite
_LOOK_EVERY = 16  # finished jobs from one look at the tail to the next
_TAIL_KNOWN = 300  # finished jobs from which a 99th percentile means something


@dataclass(frozen=True, slots=True)
class FCFS:
    """First come, first served."""

    static = True

    def key(self, job: Job, now: float) -> float:
        """The arrival time."""
        return job.request.arrival_time


@dataclass(frozen=True, slots=True)
class SSJF:
    """Speculative shortest job first: the shortest *predicted* service (Qiu et al. 2024, arXiv 2404.08509)."""

    static = True

    def key(self, job: Job, now: float) -> float:
        """Predicted service seconds."""
        return job.predicted_service_s


@dataclass(frozen=True, slots=True)
class AgedSSJF:
    """SSJF in which every second waited forgives `rate` seconds of predicted work.

    ``service − rate·(now − arrival)`` orders like ``service + rate·arrival`` because ``rate·now`` is common to all:
    the key stands still. Nobody is overtaken by work that arrived more than ``service / rate`` seconds later.

    Attributes:
        rate: seconds of work forgiven per second waited; 0 is SSJF, large is FCFS.
    """

    rate: float = 0.05
    static = True

    def __post_init__(self) -> None:
        """Reject a rate for which the order would be meaningless."""
        if not 0 <= self.rate < float("inf"):
            raise ValueError(f"rate must be a finite number of at least 0, not {self.rate}")

    def key(self, job: Job, now: float) -> float:
        """Predicted service seconds plus the aged arrival time."""
        return job.predicted_service_s + self.rate * job.request.arrival_time


@dataclass(frozen=True, slots=True)
class HRRN:
    """Highest response ratio next: waiting time over service, plus one (Brinch Hansen 1971).

    Bounds the slowdown of every job; the key moves, at a speed of its own for each job, so no heap can keep it.
    """

    static = False

    def key(self, job: Job, now: float) -> float:
        """The response ratio, negated: the highest is served first."""
        return -(now - job.request.arrival_time) / max(job.predicted_service_s, _TINY_S)


@dataclass(frozen=True, slots=True)
class PSJF:
    """Preemptive shortest job first by the *original* size.

    With predictions in the place of sizes its loss is bounded, unlike SRPT's (Scully, Grosof and Mitzenmacher 2022,
    "Uniform bounds for scheduling with job size estimates").
    """

    static = True
    preemptive = True

    def key(self, job: Job, now: float) -> float:
        """Predicted service seconds, whatever has been done of them."""
        return job.predicted_service_s


@dataclass(frozen=True, slots=True)
class SRPT:
    """Shortest remaining processing time, preemptive: optimal for the mean when sizes are known (Schrage 1968).

    The key moves only while a job runs, never while it waits.
    """

    static = True
    preemptive = True

    def key(self, job: Job, now: float) -> float:
        """Predicted seconds that are still to be served."""
        return job.predicted_service_s - job.attained_s


@dataclass(slots=True)
class Auto:
    """Short jobs are brought forward, while a shadow of FCFS says how long the oldest may be kept waiting for it.

    The order is that of γ-Boost, with a γ that follows FCFS's tail. The oldest waiting job goes first once its
    completion time would reach the `common` quantile of FCFS's, or a little more than FCFS would have made it,
    whichever is later. The slack shrinks when recent completion times come to lie further out than FCFS's, grows while
    they do not, and shrinks with the measured ranking quality of the predictions; at chance the order is FCFS. See
    docs/adr/0005-auto.md.

    Attributes:
        decay: γ times the 99th percentile of FCFS's completion times.
        common: quantile of FCFS's completion times up to which anybody may be made to wait.
        stretch: share of FCFS's completion time that may be added to it.
        approach: share of the distance to FCFS's 98th-percentile completion time that may be added.
        full_trust: concordance of predictions (chance is .5) from which all of the slack is used.
    """

    decay: float = 1.6
    common: float = 0.88
    stretch: float = 0.04
    approach: float = 0.4
    full_trust: float = 0.6
    static = True
    _shadow: ShadowFCFS = field(default_factory=ShadowFCFS, repr=False)
    _quality: RankingQuality = field(default_factory=RankingQuality, repr=False)
    _num_finished: int = field(default=0, repr=False)
    _boost: History[tuple[float, float]] = field(default_factory=lambda: History((0.001, 1.0)), repr=False)
    _common_slack: float = field(default=1.0, repr=False)
    _tail_slack: float = field(default=1.0, repr=False)

    def key(self, job: Job, now: float) -> float:
        """Arrival minus the boost, with γ and scale of predictions as of the arrival: so it stands still."""
        arrival = job.request.arrival_time
        gamma, scale = self._boost.at(arrival)
        return _boosted(arrival, scale * job.predicted_service_s, gamma)

    def wait_limit_s(self, oldest: Job, now: float) -> float:
        """FCFS's wait and the slack, in the measure in which predictions are trusted."""
        shadow, scale = self._shadow, self._quality.scale
        service_s = scale * oldest.predicted_service_s
        jct_s = shadow.wait_of(oldest, now, scale) + service_s
        common_s = self._common_slack * (shadow.jcts.at(self.common) - jct_s)
        tail_s = self.stretch * jct_s + self.approach * max(0.0, shadow.jcts.at(0.98) - jct_s)
        return self.trust * (jct_s + max(common_s, self._tail_slack * tail_s) - service_s)

    @property
    def trust(self) -> float:
        """How much of the slack is used: 0 where predictions rank no better than chance, 1 where they are good."""
        return _within((self._quality.concordance - 0.5) / (self.full_trust - 0.5), 0.0, 1.0)

    def started(self, job: Job, now: float, num_slots: int) -> None:
        """The shadow may serve the job as well."""
        self._shadow.resize(num_slots)
        self._shadow.started(job)

    def finished(self, job: Job, service_s: float) -> None:
        """The truth about the job is known."""
        self._shadow.finished(job, service_s)
        self._quality.add(job.predicted_service_s, service_s)
        self._num_finished += 1
        if self._num_finished % _LOOK_EVERY == 0:
            assert job.finished_at is not None
            self._steer(job.finished_at)

    def state(self) -> dict[str, float]:
        """Trust and what it rests on, FCFS's tail as the shadow has it beside the real one, and the slack."""
        shadow = self._shadow
        return {
            "trust": self.trust,
            "concordance": self._quality.concordance,
            "prediction_scale": self._quality.scale,
            "common_slack": self._common_slack,
            "tail_slack": self._tail_slack,
            "fcfs_p50_jct_s": shadow.jcts.at(0.5),
            "fcfs_p99_jct_s": shadow.jcts.at(0.99),
            "p99_jct_s": shadow.real_jcts.at(0.99),
        }

    def _steer(self, now: float) -> None:
        """Set γ; and the slack by each quantile's ratio to FCFS's: all of it up to a mark, and less above."""
        shadow = self._shadow
        fcfs_p99_s = shadow.jcts.at(0.99)
        if fcfs_p99_s > 0:
            self._boost.add(now, (self.decay / fcfs_p99_s, self._quality.scale))
        if len(shadow.jcts) < _TAIL_KNOWN:
            return
        p90, p99, worst = (
            shadow.real_jcts.at(level) / max(shadow.jcts.at(level), _TINY_S) for level in (0.9, 0.99, 1.0)
        )
        self._common_slack = _within(1 + 15 * (1.03 - p90), 0.0, 1.0)
        self._tail_slack = _within(min(1 + 30 * (1.025 - p99), 1 + 10 * (1.07 - worst)), 0.0, 2.0)


@dataclass(frozen=True, slots=True)
class Boost:
    """γ-Boost: the arrival, brought forward by the more the shorter the job.

    Source: Yu and Scully 2024, "Strongly tail-optimal scheduling in the light-tailed M/G/1".

    Attributes:
        gamma: decay rate of the tail of FCFS's work, per second; larger is closer to FCFS for all but tiny jobs.
    """

    gamma: float = 0.1
    static = True

    def key(self, job: Job, now: float) -> float:
        """Arrival minus the boost, ln(1 / (1 − exp(−γ·service))) / γ."""
        return _boosted(job.request.arrival_time, job.predicted_service_s, self.gamma)


@dataclass(frozen=True, slots=True)
class EDF:
    """Earliest deadline first; jobs without a deadline come after those with one, in order of arrival.

    On one server with preemption it meets all deadlines if any schedule can (Dertouzos 1974).
    """

    static = True

    def key(self, job: Job, now: float) -> float:
        """The deadline, or a time after every deadline."""
        deadline = job.request.deadline
        return deadline if deadline is not None else job.request.arrival_time + _FAR_S


def _boosted(arrival: float, service_s: float, gamma: float) -> float:
    """Arrival minus γ-Boost's boost; large for short jobs, next to nothing for those much longer than 1/γ."""
    return arrival + log(-expm1(-gamma * max(service_s, _TINY_S))) / gamma


def _within(value: float, low: float, high: float) -> float:
    return min(high, max(low, value))
