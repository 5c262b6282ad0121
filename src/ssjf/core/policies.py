"""Who is served next. Every ordering rule of the project is here, but for the Gittins index, and each is a key.

A policy sees one job and the time; it knows neither the queue, nor the host, nor the truth. Waiting jobs are
ordered by (tier, key, arrival, sequence): ties of the key go to the earlier arrival.
"""

from collections import deque
from dataclasses import dataclass, field
from math import expm1, inf, log

from ssjf.core.observed.estimates import History, RankingQuality, RunningQuantile
from ssjf.core.observed.shadow import ShadowFCFS
from ssjf.core.types import Job, Status

_FAR_S = 1e9  # thirty years: later than any deadline, and finite
_TINY_S = 1e-9  # service seconds that differ by less are taken for the same, and none are taken for fewer
_HUGE = 1e9
_TRUST = (0.51, 1.0)  # concordances from which predictions may be trusted fully
_LOOK_EVERY = 16  # finished jobs from one look at the tail to the next
_FEW = 1  # arrivals from one look to the next; so few that arrivals have stopped
_SHORTEST = 0.1  # mean services; `auto-static` takes nobody for shorter, so no boost exceeds 2.36 reaches
_PREDICTING = 16  # arrivals of late whose predictions may still come
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
        return self.key_of(self.size(job), job.request.arrival_time, now)

    def size(self, job: Job) -> float:
        """Predicted service seconds."""
        return max(job.predicted_service_s, _TINY_S)

    def key_of(self, size: float, arrival: float, now: float) -> float:
        """See `ssjf.core.types.SizedPolicy`."""
        return -(now - arrival) / size


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


@dataclass(frozen=True, slots=True)
class SRPTBounce:
    """SRPT with bounce: what is left of the prediction, and more again once a job has outrun it.

    Under SRPT a job predicted too short has the best place from then on and blocks everybody. Here its key climbs
    back to the prediction and stays there: when sizes are mispredicted by bounded factors, the mean completion time
    is within a bounded factor of that of SRPT with true sizes, and tends to it as the predictions become exact.

    Source: Scully, Grosof and Mitzenmacher 2022, "Uniform bounds for scheduling with job size estimates"; drawn in
    Mitzenmacher and Shahout 2025, "Queueing, predictions, and large language models", figure 1.
    """

    static = True
    preemptive = True

    def key(self, job: Job, now: float) -> float:
        """Distance from the attained to the predicted service seconds, but at most the predicted ones."""
        predicted_s = job.predicted_service_s
        return min(abs(predicted_s - job.attained_s), predicted_s)

    def look_again_s(self, job: Job) -> float:
        """When the prediction ends; then in steps, so that jobs which climb side by side take turns of one step."""
        predicted_s = job.predicted_service_s
        left_s = predicted_s - job.attained_s
        if left_s > _TINY_S:
            return left_s
        return predicted_s / 64 if left_s > -predicted_s else inf


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
        trust: how much of it is used: 0 where predictions rank no better than chance, 1 where they are good.
    """

    decay: float = 1.6
    common: float = 0.92
    stretch: float = 0.04
    approach: float = 0.35
    full_trust: float = 0.6
    static = True
    trust: float = field(default=0.0, init=False, repr=False)
    _shadow: ShadowFCFS = field(default_factory=ShadowFCFS, init=False, repr=False)
    _quality: RankingQuality = field(default_factory=RankingQuality, init=False, repr=False)
    _unread: deque[Job] = field(default_factory=deque, init=False, repr=False)
    _num_arrived: int = field(default=0, init=False, repr=False)  # since the last look
    _num_finished: int = field(default=0, init=False, repr=False)
    _boost: History[tuple[float, float]] = field(default_factory=lambda: History((0.001, 1.0)), init=False, repr=False)
    _common_jct_s: float = field(default=0.0, init=False, repr=False)
    _late_jct_s: float = field(default=0.0, init=False, repr=False)
    _common_slack: float = field(default=1.0, init=False, repr=False)
    _tail_slack: float = field(default=1.0, init=False, repr=False)
    _steers: bool = field(default=True, init=False, repr=False)

    def __post_init__(self) -> None:
        """Reject constants for which limits would be meaningless."""
        _refuse(self, decay=(_TINY_S, _HUGE), common=(0, 1), stretch=(0, _HUGE), approach=(0, _HUGE), full_trust=_TRUST)

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
        common_s = self._common_slack * (self._common_jct_s - jct_s)
        tail_s = self.stretch * jct_s + self.approach * max(0.0, self._late_jct_s - jct_s)
        return self.trust * (jct_s + max(common_s, self._tail_slack * tail_s) - service_s)

    def shared(self) -> None:
        """The shadow is not fair, so what makes completion times longer than its own may be fairness: do not steer."""
        self._steers = False

    def arrived(self, job: Job) -> None:
        """The shadow will have to serve the job."""
        self._shadow.arrived(job)
        self._unread.append(job)
        if len(self._unread) > _PREDICTING:
            self._quality.arrived(self._unread.popleft().predicted_service_s)
        self._num_arrived += 1

    def started(self, job: Job, now: float, num_slots: int) -> None:
        """The shadow may serve the job as well."""
        self._shadow.resize(num_slots)
        self._shadow.started(job)

    def finished(self, job: Job, service_s: float) -> None:
        """The truth about the job is known, unless it was given up: then only that its slot is free."""
        self._shadow.finished(job, service_s)
        if job.status is Status.ABORTED:
            return
        assert job.finished_at is not None
        self._quality.add(job.predicted_service_s, service_s, started_at=job.finished_at - service_s)
        self.trust = _within((self._quality.concordance - 0.5) / (self.full_trust - 0.5), 0.0, 1.0)
        self._num_finished += 1
        if self._num_finished == 1:
            self._num_arrived = 0  # who was there before anything is no sign that others come
        if self._num_finished % _LOOK_EVERY == 0:
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
        """Set γ and the limits; and the slack by each quantile's ratio to FCFS's: all up to a mark, less above."""
        shadow = self._shadow
        # longer waits than there were so far are no harm where FCFS would make them too, and nobody comes to suffer
        quantile = shadow.coming_jct_at if self._num_arrived <= _FEW else shadow.seen_jct_at
        self._num_arrived = 0
        self._common_jct_s, self._late_jct_s = quantile(self.common), quantile(0.98)
        fcfs_p99_s = shadow.jcts.at(0.99)
        if fcfs_p99_s > 0:
            self._boost.add(now, (self.decay / fcfs_p99_s, self._quality.scale))
        if not self._steers or len(shadow.jcts) < _TAIL_KNOWN:
            return
        p90, p99, worst = (
            shadow.real_jcts.at(level) / max(shadow.jcts.at(level), _TINY_S) for level in (0.9, 0.99, 1.0)
        )
        self._common_slack = _within(min(1 + 15 * (1.03 - p90), 1 + 25 * (1.04 - p99)), 0.0, 1.0)
        self._tail_slack = _within(min(1 + 30 * (1.025 - p99), 1 + 10 * (1.07 - worst)), 0.0, 2.0)


@dataclass(slots=True)
class AutoStatic:
    """`auto` for hosts that sort by one number per request, given at its arrival: γ-Boost, re-tuned for new requests.

    The key is the arrival, brought forward by ``reach_s · ln(1 / (1 − exp(−service / mean)))``: one `reach_s` for half
    a mean's worth of work, next to nothing for long jobs. The mean is that of recent predictions; `reach_s` is `reach`
    times the 99th percentile of waits, times the trust in predictions. Where they rank no better than chance the order
    is FCFS. Nobody is overtaken by work that arrived more than 2.4 `reach_s` later.

    Attributes:
        reach: share of the 99th percentile of waits.
        full_trust: concordance of predictions (chance is .5) from which all of the reach is used.
    """

    reach: float = 0.5
    full_trust: float = 0.6
    static = True
    limits_waits = False
    _quality: RankingQuality = field(default_factory=RankingQuality, init=False, repr=False)
    _waits: RunningQuantile = field(default_factory=RunningQuantile, init=False, repr=False)
    _num_finished: int = field(default=0, init=False, repr=False)
    _boost: History[tuple[float, float]] = field(default_factory=lambda: History((0.0, 1.0)), init=False, repr=False)

    def __post_init__(self) -> None:
        """Reject constants for which keys would be meaningless."""
        _refuse(self, reach=(0, _HUGE), full_trust=_TRUST)

    def key(self, job: Job, now: float) -> float:
        """Arrival minus the boost, with reach and mean as of the arrival: so it stands still."""
        arrival = job.request.arrival_time
        reach_s, mean_s = self._boost.at(arrival)
        return arrival + reach_s * log(-expm1(-max(job.predicted_service_s / mean_s, _SHORTEST)))

    def wait_limit_s(self, oldest: Job, now: float) -> float:
        """None: the keys see to it."""
        return inf

    def arrived(self, job: Job) -> None:
        """Its prediction is one of those that arrive; where keys are given once, it does not change any more."""
        self._quality.arrived(job.predicted_service_s)

    def started(self, job: Job, now: float, num_slots: int) -> None:
        """How long it has waited."""
        self._waits.add(now - job.request.arrival_time)

    def finished(self, job: Job, service_s: float) -> None:
        """The truth about the job is known, unless it was given up."""
        if job.status is Status.ABORTED:
            return
        quality = self._quality
        assert job.finished_at is not None
        quality.add(job.predicted_service_s, service_s, started_at=job.finished_at - service_s)
        self._num_finished += 1
        if self._num_finished % _LOOK_EVERY == 0:
            mean_s = max(quality.mean_service_s / max(quality.scale, _TINY_S), _TINY_S)
            self._boost.add(job.finished_at, (self.reach * self.trust * self._waits.at(0.99), mean_s))

    @property
    def trust(self) -> float:
        """How much of the reach is used: 0 where predictions rank no better than chance, 1 where they are good."""
        return _within((self._quality.concordance - 0.5) / (self.full_trust - 0.5), 0.0, 1.0)

    def state(self) -> dict[str, float]:
        """Trust and what it rests on, the tail of waits, and the reach that new requests get."""
        return {
            "trust": self.trust,
            "concordance": self._quality.concordance,
            "prediction_scale": self._quality.scale,
            "p99_wait_s": self._waits.at(0.99),
            "reach_s": self._boost.at(inf)[0],
        }


@dataclass(frozen=True, slots=True)
class Boost:
    """γ-Boost: the arrival, brought forward by the more the shorter the job.

    With the right γ no order has a lighter tail, if service times have no heavy one. On one slot it is the decay rate
    of FCFS's completion times: the root of ``arrival rate · (E[exp(γ·service)] − 1) = γ``, in M/M/1 the service rate
    minus the arrival rate. `AutoStatic` needs no such knowledge.

    Source: Yu and Scully 2024, "Strongly tail-optimal scheduling in the light-tailed M/G/1".

    Attributes:
        gamma: per second; larger is closer to FCFS for all but tiny jobs.
    """

    gamma: float = 0.1
    static = True

    def __post_init__(self) -> None:
        """Reject a γ for which keys would be meaningless."""
        _refuse(self, gamma=(_TINY_S, _HUGE))

    def key(self, job: Job, now: float) -> float:
        """Arrival minus the boost, ln(1 / (1 − exp(−γ·service))) / γ."""
        return _boosted(job.request.arrival_time, job.predicted_service_s, self.gamma)


@dataclass(frozen=True, slots=True)
class EDF:
    """Earliest deadline first; jobs without a deadline come after those with one, in order of arrival.

    Source: Dertouzos 1974, "Control robotics: the procedural control of physical processes".
    """

    static = True

    def key(self, job: Job, now: float) -> float:
        """The deadline, or a time after every deadline."""
        deadline = job.request.deadline
        return deadline if deadline is not None else job.request.arrival_time + _FAR_S


@dataclass(frozen=True, slots=True)
class PreemptiveEDF(EDF):
    """Earliest deadline first, whoever runs: on one server it meets all deadlines if any schedule can."""

    preemptive = True


def _boosted(arrival: float, service_s: float, gamma: float) -> float:
    """Arrival minus γ-Boost's boost; large for short jobs, next to nothing for those much longer than 1/γ."""
    return arrival + log(-expm1(-gamma * max(service_s, _TINY_S))) / gamma


def _refuse(policy: object, **ranges: tuple[float, float]) -> None:
    """Raise for the first constant that is not within its range."""
    for name, (low, high) in ranges.items():
        value = getattr(policy, name)
        if not low <= value <= high:
            raise ValueError(f"{name} must be from {low:g} to {high:g}, not {value}")


def _within(value: float, low: float, high: float) -> float:
    return min(high, max(low, value))
