"""Who is served next. Every ordering rule of the project is in this file, and each is a key.

A policy sees one job and the time; it knows neither the queue, nor the host, nor the truth. Waiting jobs are
ordered by (tier, key, arrival, sequence): ties of the key go to the earlier arrival.
"""

from dataclasses import dataclass, field
from math import expm1, log

from ssjf.core.estimates import RankingQuality
from ssjf.core.shadow import ShadowFCFS
from ssjf.core.types import Job

_FAR_S = 1e9  # thirty years: later than any deadline, and finite
_TINY_S = 1e-9  # service seconds below this would make a response ratio infinite


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
    """Shortest predicted first, while a shadow of FCFS says how long the oldest may be kept waiting for it.

    The oldest waiting job goes first once it has waited a little longer than FCFS would have made it wait, or so long
    that its completion time reaches the `common` quantile of FCFS's, whichever is more. The slack shrinks with the
    measured ranking quality of the predictions; at chance the order is FCFS. See docs/adr/0005-auto.md.

    Attributes:
        common: quantile of FCFS's completion times up to which anybody may be made to wait.
        stretch: share of FCFS's wait that may be added to it.
        approach: share of the distance to FCFS's 98th-percentile wait that may be added.
        size_discount: how much of the predicted service above the mean counts against the addition: a long job
            that also waits longest would make a tail of its own.
        full_trust: concordance of predictions (chance is .5) from which all of the slack is used.
    """

    common: float = 0.88
    stretch: float = 0.06
    approach: float = 0.3
    size_discount: float = 0.5
    full_trust: float = 0.6
    static = True
    _shadow: ShadowFCFS = field(default_factory=ShadowFCFS, repr=False)
    _quality: RankingQuality = field(default_factory=RankingQuality, repr=False)

    def key(self, job: Job, now: float) -> float:
        """Predicted service seconds."""
        return job.predicted_service_s

    def wait_limit_s(self, oldest: Job, now: float) -> float:
        """FCFS's wait and the slack, in the measure in which predictions are trusted."""
        quality, shadow = self._quality, self._shadow
        wait_s = shadow.wait_of(oldest, now, quality.scale)
        service_s = quality.scale * oldest.predicted_service_s
        added_s = self.stretch * wait_s + self.approach * max(0.0, shadow.waits.at(0.98) - wait_s)
        added_s -= self.size_discount * max(0.0, service_s - quality.mean_service_s)
        return self.trust * max(shadow.jcts.at(self.common) - service_s, wait_s + max(0.0, added_s))

    @property
    def trust(self) -> float:
        """How much of the slack is used: 0 where predictions rank no better than chance, 1 where they are good."""
        return min(1.0, max(0.0, (self._quality.concordance - 0.5) / (self.full_trust - 0.5)))

    def started(self, job: Job, now: float, num_slots: int) -> None:
        """The shadow may serve the job as well."""
        self._shadow.resize(num_slots)
        self._shadow.started(job)

    def finished(self, job: Job, service_s: float) -> None:
        """The truth about the job is known."""
        self._shadow.finished(job, service_s)
        self._quality.add(job.predicted_service_s, service_s)

    def state(self) -> dict[str, float]:
        """Trust, ranking quality, scale of the predictions, and FCFS's tail as the shadow has it."""
        return {
            "trust": self.trust,
            "concordance": self._quality.concordance,
            "prediction_scale": self._quality.scale,
            "fcfs_p50_jct_s": self._shadow.jcts.at(0.5),
            "fcfs_p99_jct_s": self._shadow.jcts.at(0.99),
        }


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
        service_s = max(job.predicted_service_s, _TINY_S)
        return job.request.arrival_time + log(-expm1(-self.gamma * service_s)) / self.gamma


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
