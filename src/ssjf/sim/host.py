"""A workload through the deployed scheduling core in virtual time, on one of two kinds of host.

The order is the core's; this module only turns work items into jobs, and jobs into columns. The truth stays here: a
job knows its prediction, never its length.
"""

import gc
import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np

from ssjf.core.places.batching import Batching, Continuous
from ssjf.core.places.capacity import Slots
from ssjf.core.replay import replay
from ssjf.core.scheduler import Scheduler
from ssjf.core.service import LinearServiceModel
from ssjf.core.types import Job, Policy, Prediction, Request
from ssjf.metrics.table import Floats, JobTable
from ssjf.sim.steps.cost import EngineLimits, StepCostModel, seconds_alone
from ssjf.sim.steps.engine import serve_steps
from ssjf.sim.steps.load import saturated_requests_per_s


@dataclass(frozen=True, slots=True, kw_only=True)
class Trace:
    """What is asked and how long the answers are; entry i of every list is one request.

    Attributes:
        index: row numbers of the input.
        arrival_s: instants; need not be sorted.
        input_tokens, output_tokens: true lengths.
        predicted_tokens: what the policy may know; None where it must know the truth (an oracle).
        predicted_quantiles: (level, tokens) pairs of each prediction; empty where there are none.
        tenant: who asks; empty where nobody is told apart.
        deadline_s: seconds after arrival by which each answer is wanted, or None; empty where there are none.
    """

    index: Sequence[int]
    arrival_s: Sequence[float]
    input_tokens: Sequence[int]
    output_tokens: Sequence[int]
    predicted_tokens: Sequence[float] | None = None
    predicted_quantiles: Sequence[tuple[tuple[float, float], ...]] = ()
    tenant: Sequence[str] = ()
    deadline_s: Sequence[float | None] = ()

    def __len__(self) -> int:
        return len(self.index)


class Host(Protocol):
    """What serves the jobs."""

    @property
    def slots(self) -> int:
        """How many run at once."""
        ...

    @property
    def batching(self) -> Batching:
        """When waiting jobs may enter free slots."""
        ...

    @property
    def service(self) -> LinearServiceModel:
        """Predicted service seconds from lengths; what policies order by."""
        ...

    def serve(self, jobs: Sequence[tuple[Job, int]], policy: Policy) -> dict[str, float]:
        """Serve (job, true output tokens) pairs in order of arrival until none is left.

        Returns:
            When each request, by its id, had its first token; empty where the host knows no tokens.
        """
        ...

    def alone_s(self, input_tokens: Sequence[int], output_tokens: Sequence[int]) -> Floats:
        """Seconds that each request takes on the idle host."""
        ...

    def saturated_requests_per_s(self, input_tokens: Sequence[int], output_tokens: Sequence[int]) -> float:
        """Requests of these lengths per second when work never lacks: load is arrival rate over this."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class LinearHost:
    """Slots that a job keeps for a time known from its lengths; nobody slows anybody down.

    Attributes:
        slots: how many run at once.
        batching: when waiting jobs may enter free slots.
        service: seconds that a job keeps its slot.
        max_wait_s: the starvation bound; None for none.
        tenant_weights: shares of tenants under weighted fairness; None treats all requests alike.
    """

    slots: int = 1
    batching: Batching = field(default_factory=Continuous)
    service: LinearServiceModel = field(default_factory=LinearServiceModel)
    max_wait_s: float | None = None
    tenant_weights: Mapping[str, float] | None = None

    def serve(self, jobs: Sequence[tuple[Job, int]], policy: Policy) -> dict[str, float]:
        """See `Host`."""
        seconds = self.service.seconds
        scheduler = Scheduler(
            policy,
            Slots(self.slots),
            batching=self.batching,
            max_wait_s=self.max_wait_s,
            tenant_weights=self.tenant_weights,
        )
        replay([(job, seconds(job.request.num_prompt_tokens, tokens)) for job, tokens in jobs], scheduler)
        return {}

    def alone_s(self, input_tokens: Sequence[int], output_tokens: Sequence[int]) -> Floats:
        """The service seconds."""
        service = self.service
        return service.base_s + (
            service.per_input_token_s * np.asarray(input_tokens, dtype=np.float64)
            + service.per_output_token_s * np.asarray(output_tokens, dtype=np.float64)
        )

    def saturated_requests_per_s(self, input_tokens: Sequence[int], output_tokens: Sequence[int]) -> float:
        """Slots over mean service seconds; batches that end together reach less."""
        return self.slots / float(self.alone_s(input_tokens, output_tokens).mean())


@dataclass(frozen=True, slots=True, kw_only=True)
class StepHost:
    """An engine with continuous batching, iteration by iteration.

    Attributes:
        slots: the engine's `max_num_seqs`.
        cost: of an iteration.
        limits: of the engine.
        context_tokens: mean context of a running sequence; predicted service seconds are linear with it.
        max_wait_s: the starvation bound; None for none.
        tenant_weights: shares of tenants under weighted fairness; None treats all requests alike.
    """

    slots: int
    cost: StepCostModel
    limits: EngineLimits
    context_tokens: float
    max_wait_s: float | None = None
    tenant_weights: Mapping[str, float] | None = None

    @property
    def batching(self) -> Batching:
        """Continuous."""
        return Continuous()

    @property
    def service(self) -> LinearServiceModel:
        """Seconds of one slot of the full engine."""
        return self.cost.service_model(num_seqs=self.slots, context_tokens=self.context_tokens)

    def serve(self, jobs: Sequence[tuple[Job, int]], policy: Policy) -> dict[str, float]:
        """See `Host`."""
        scheduler = Scheduler(policy, Slots(self.slots), max_wait_s=self.max_wait_s, tenant_weights=self.tenant_weights)
        run = serve_steps(jobs, scheduler, cost=self.cost, limits=self.limits, service=self.service)
        return {served.job.request.request_id: served.first_token_at for served in run.served}

    def alone_s(self, input_tokens: Sequence[int], output_tokens: Sequence[int]) -> Floats:
        """From arrival to the last token with nobody beside."""
        return np.array(
            [
                seconds_alone(max(prompt, 1), max(output, 1), self.cost, self.limits)
                for prompt, output in zip(input_tokens, output_tokens, strict=True)
            ]
        )

    def saturated_requests_per_s(self, input_tokens: Sequence[int], output_tokens: Sequence[int]) -> float:
        """Measured on the engine itself.

        Raises:
            ValueError: there are not more requests than slots.
        """
        return saturated_requests_per_s(
            list(zip(input_tokens, output_tokens, strict=True)),
            max_num_seqs=self.slots,
            cost=self.cost,
            limits=self.limits,
        )


def mean_context_tokens(input_tokens: Sequence[int], output_tokens: Sequence[int]) -> float:
    """Mean context of a decoding sequence over a workload's iterations: the prompt and half the answer, per token."""
    prompt, output = (np.maximum(np.asarray(tokens, dtype=np.float64), 1) for tokens in (input_tokens, output_tokens))
    return float(np.sum(output * (prompt + output / 2)) / np.sum(output))


def simulate(trace: Trace, policy: Policy, host: Host, *, label: str, seed: int = 0) -> JobTable:
    """Serve the whole trace.

    Args:
        trace: what is asked.
        policy: who is served next.
        host: what serves.
        label: the policy's name in the result.
        seed: the repetition's number in the result.

    Returns:
        One row per request, in the order of the trace.
    """
    order = sorted(range(len(trace)), key=lambda row: (trace.arrival_s[row], trace.index[row]))
    jobs = _jobs(trace, order, host.service)
    with _no_garbage_collection():
        first_token_at = host.serve(jobs, policy)
    start, first, finish = np.empty(len(trace)), np.empty(len(trace)), np.empty(len(trace))
    for row, (job, _) in zip(order, jobs, strict=True):
        start[row] = math.nan if job.started_at is None else job.started_at
        first[row] = first_token_at.get(job.request.request_id, math.nan)
        finish[row] = math.nan if job.finished_at is None else job.finished_at
    return JobTable(
        policy=label,
        seed=seed,
        index=np.asarray(trace.index, dtype=np.int64),
        arrival_s=np.asarray(trace.arrival_s, dtype=np.float64),
        start_s=start,
        first_token_s=first,
        finish_s=finish,
        input_tokens=np.asarray(trace.input_tokens, dtype=np.int64),
        output_tokens=np.asarray(trace.output_tokens, dtype=np.int64),
        predicted_tokens=np.full(len(trace), math.nan)
        if trace.predicted_tokens is None
        else np.asarray(trace.predicted_tokens, dtype=np.float64),
        status=["completed"] * len(trace),
    )


def _jobs(trace: Trace, order: Sequence[int], service: LinearServiceModel) -> list[tuple[Job, int]]:
    """Jobs in the given order, with their true output tokens."""
    seconds = service.seconds
    known = trace.output_tokens if trace.predicted_tokens is None else trace.predicted_tokens
    jobs: list[tuple[Job, int]] = []
    for row in order:
        num_prompt_tokens, arrival = trace.input_tokens[row], float(trace.arrival_s[row])
        deadline_s = trace.deadline_s[row] if trace.deadline_s else None
        request = Request(
            request_id=str(row),
            num_prompt_tokens=num_prompt_tokens,
            arrival_time=arrival,
            tenant=trace.tenant[row] if trace.tenant else "",
            deadline=None if deadline_s is None else arrival + deadline_s,
        )
        quantiles = trace.predicted_quantiles[row] if trace.predicted_quantiles else ()
        job = Job(request, seconds(num_prompt_tokens, known[row]), Prediction(known[row], quantiles))
        job.service_quantiles = tuple((level, seconds(num_prompt_tokens, tokens)) for level, tokens in quantiles)
        jobs.append((job, trace.output_tokens[row]))
    return jobs


@contextmanager
def _no_garbage_collection() -> Iterator[None]:
    """Nothing here makes cycles; collecting between allocations only costs time that grows with the trace."""
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_enabled:
            gc.enable()
