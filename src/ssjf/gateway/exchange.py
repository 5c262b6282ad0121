"""One accepted request, and the queue in which it waits or waited.

This module does not know when anybody is let in.
"""

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, field

from ssjf.core.places.servers import Server, Servers
from ssjf.core.scheduler import Scheduler
from ssjf.core.service import LinearServiceModel, MeasuredServiceModel
from ssjf.core.types import Job, Prediction
from ssjf.gateway.http.incoming import Incoming

_DRIFT = 1.1  # when measured seconds per token have changed by this factor, those who wait are valued anew


@dataclass(slots=True, eq=False)
class Exchange:
    """One accepted request, from acceptance to its outcome.

    Attributes:
        incoming: what was asked.
        job: its place in the scheduler.
        lane: where it waits or waited.
        admitted: done when its slot is free; with None, or with why it never will be.
        server: where it runs or ran last; None before.
        priority: what to tell an engine that orders by priorities; None where it does not.
        in_flight: requests at its server when it came there, itself included.
        dispatched_at: when it was sent to its server last.
        decided_by: the prediction that its place in the queue came from; None where it never had to wait.
        first_token_at: when the first token came, on the gateway's clock.
        num_prompt_tokens, num_output_tokens: the true lengths, as soon as they are known.
        held: it is not given to the scheduler before its prediction is there, or its time is up.
        asked: it is predicted, or is going to be.
        ended: it has its outcome.
    """

    incoming: Incoming
    job: Job
    lane: "Lane"
    admitted: asyncio.Future[None]
    server: Server | None = None
    priority: int | None = None
    in_flight: int = 0
    dispatched_at: float = 0.0
    decided_by: Prediction | None = None
    first_token_at: float | None = None
    num_prompt_tokens: int | None = None
    num_output_tokens: int | None = None
    held: bool = False
    asked: bool = False
    ended: bool = False

    @property
    def queued_s(self) -> float:
        """Seconds from arrival to the last dispatch, which there must have been."""
        return self.dispatched_at - self.job.request.arrival_time


@dataclass(slots=True, eq=False)
class Lane:
    """One queue before a set of servers.

    Attributes:
        servers: where its requests may go.
        scheduler: who waits and runs.
        priorities: turns keys into priorities by the server's direction; None where the order is kept here.
    """

    servers: Servers
    scheduler: Scheduler
    priorities: Callable[[Job, Server, float], int | None] | None = None
    _speed: MeasuredServiceModel = field(default_factory=MeasuredServiceModel)
    # of everybody who waits: values of different models must not be compared
    model: LinearServiceModel = field(default_factory=lambda: MeasuredServiceModel().model())

    def learn(self, exchange: Exchange, now: float) -> bool:
        """How fast the servers are; returns whether that has changed so much that who waits is to be valued anew."""
        assert exchange.num_output_tokens is not None
        first = exchange.first_token_at
        self._speed.observe(
            # the estimate, as in every prediction: where it is off by a factor, the measured speed makes up for it
            num_input_tokens=exchange.job.request.num_prompt_tokens,
            num_output_tokens=exchange.num_output_tokens,
            prefill_s=None if first is None else first - exchange.dispatched_at,
            total_s=now - exchange.dispatched_at,
        )
        model = self._speed.model()
        if not _has_drifted(self.model, model):
            return False
        self.model = model
        return True


def _has_drifted(old: LinearServiceModel, new: LinearServiceModel) -> bool:
    pairs = [
        (old.per_input_token_s, new.per_input_token_s),
        (old.per_output_token_s, new.per_output_token_s),
    ]
    return any(max(before, after) > _DRIFT * min(before, after) for before, after in pairs)
