"""The nouns that every room shares.

This module does not know how a length was predicted, who serves a request, or what time it is. The true output
length is deliberately absent: it exists only in a simulator's trace.
"""

import enum
from dataclasses import dataclass
from typing import Protocol, runtime_checkable


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """What the client asked; never changes.

    Attributes:
        request_id: unique among live requests.
        prompt: rendered text of the prompt or conversation; "" where a trace has none.
        num_prompt_tokens: exact or estimated length of the prompt in tokens.
        max_tokens: the client's cap on output tokens, not the truth.
        arrival_time: seconds on the host's monotonic clock.
        model: the target model's name.
        tenant: who pays; "" for nobody in particular.
        tier: smaller tiers are served strictly before larger ones.
        deadline: instant on the host's clock by which the answer is wanted.
        options: what else was asked for that may tell something of the length, as (name, number) pairs; see
            `ssjf.openai.request_options`.
    """

    request_id: str
    prompt: str = ""
    num_prompt_tokens: int = 0
    max_tokens: int = 0
    arrival_time: float
    model: str = ""
    tenant: str = ""
    tier: int = 0
    deadline: float | None = None
    options: tuple[tuple[str, float], ...] = ()


@dataclass(frozen=True, slots=True)
class Prediction:
    """A predicted output length, always in tokens.

    Attributes:
        num_output_tokens: the point prediction; may be fractional.
        quantiles: (level, tokens) pairs, increasing in both.
        source: which predictor said so, as ``name@version``.
    """

    num_output_tokens: float
    quantiles: tuple[tuple[float, float], ...] = ()
    source: str = ""


class Status(enum.Enum):
    """Where a job is in its life. A job leaves the last three never."""

    WAITING = "waiting"
    RUNNING = "running"
    FINISHED = "finished"
    ABORTED = "aborted"


class Outcome(enum.Enum):
    """How an accepted request ended; each ends in exactly one."""

    COMPLETED = "completed"  # the engine answered to the end
    REFUSED = "refused"  # the engine answered that the request is wrong (4xx)
    FAILED = "failed"  # the engine or the connection to it broke
    CANCELLED = "cancelled"  # the client went away
    EXPIRED = "expired"  # its deadline passed while it waited


@dataclass(slots=True, eq=False)
class Job:
    """A request while a scheduler has it: waiting, then running.

    Attributes:
        request: what the client asked.
        predicted_service_s: service seconds predicted by the host's service model; what policies order by.
        prediction: where that came from; None when the job went ahead without one.
        service_quantiles: its quantiles in service seconds, as (level, seconds), increasing; () if unknown.
        sequence: given once when the scheduler takes the job; breaks ties, survives re-pushes.
        status: maintained by the scheduler.
        started_at: when it first left the waiting queue; None while it never ran.
        finished_at: when it left the scheduler.
        attained_s: service seconds received so far, kept by hosts that preempt; 0 elsewhere.
        ticket: heap entries of the waiting queue with another ticket are stale.
    """

    request: Request
    predicted_service_s: float = 0.0
    prediction: Prediction | None = None
    sequence: int = -1
    status: Status = Status.WAITING
    started_at: float | None = None
    finished_at: float | None = None
    attained_s: float = 0.0
    ticket: int = 0
    service_quantiles: tuple[tuple[float, float], ...] = ()


class Policy(Protocol):
    """Who is served next, and hence who is thrown out?

    A policy is a key: it holds its constants, and neither clock nor state of the queue. A policy class may set
    ``preemptive = True``: then hosts that can preempt let a waiting job take the slot of a running one whose key is
    worse. Where service can make the key of a running job worse, the class also has ``look_again_s(job)``: the seconds
    of further service, more than 0, after which such a host looks again who should run. Until then the key is no
    worse than it is now or then.

    Attributes:
        static: the key does not move while the job waits, so a heap may keep it.
    """

    static: bool

    def key(self, job: Job, now: float) -> float:
        """The job's place in the order; lower is served first. Pure, finite, never raises."""
        ...


@runtime_checkable
class SizedPolicy(Policy, Protocol):
    """A policy whose key moves, but hangs on a job's size, its arrival and the time alone.

    A queue finds the head of such jobs without looking at all of them: see `ssjf.core.waiting.buckets`.
    """

    def size(self, job: Job) -> float:
        """The job's size, above 0; it stands still while the job waits."""
        ...

    def key_of(self, size: float, arrival: float, now: float) -> float:
        """The key of such a job; it never falls when size or arrival grow. `key` is this."""
        ...


@runtime_checkable
class AdaptivePolicy(Policy, Protocol):
    """A policy that learns from what happens, and may put the oldest waiting job before its order.

    A scheduler keeps a copy of its own of such a policy, so that what one host learned never leaks into another. A
    class whose limit is always infinite may set ``limits_waits = False``: then no queue asks for it. One that compares
    completion times with those of another order may have ``shared()``, which a scheduler calls where fairness over
    tenants decides whose turn it is: they do not come of the policy's order alone then.
    """

    def wait_limit_s(self, oldest: Job, now: float) -> float:
        """How long the oldest waiting job (of the best tier that waits) may wait before it goes first, in seconds.

        May be asked any number of times between two events, and only ever for the oldest.
        """
        ...

    def arrived(self, job: Job) -> None:
        """A job begins to wait. Jobs arrive in the order of their sequence numbers."""
        ...

    def started(self, job: Job, now: float, num_slots: int) -> None:
        """A job has left the waiting queue to run, on a host of so many slots."""
        ...

    def finished(self, job: Job, service_s: float) -> None:
        """A job has ended after so many seconds of service; its status tells whether it was given up."""
        ...

    def state(self) -> dict[str, float]:
        """What the policy goes by at present, for people who watch it: short names and numbers."""
        ...
