"""Who is served next. Every ordering rule of the project is in this file, and each is a key.

A policy sees one job and the time; it knows neither the queue, nor the host, nor the truth. Waiting jobs are
ordered by (tier, key, arrival, sequence): ties of the key go to the earlier arrival.
"""

from dataclasses import dataclass

from ssjf.core.types import Job

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
