"""A workload through the deployed scheduling core in virtual time, with linear service times.

The order is the core's; this module only turns work items into jobs, and jobs into columns. The truth stays here: a
job knows its prediction, never its length.
"""

import gc
import math
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from ssjf.core.batching import Batching, Continuous
from ssjf.core.capacity import Slots
from ssjf.core.replay import replay
from ssjf.core.scheduler import Scheduler
from ssjf.core.service import LinearServiceModel
from ssjf.core.types import Job, Policy, Prediction, Request
from ssjf.metrics.table import JobTable


@dataclass(frozen=True, slots=True, kw_only=True)
class Host:
    """What serves the jobs.

    Attributes:
        slots: how many run at once.
        batching: when waiting jobs may enter free slots.
        service: seconds that a job keeps its slot, from its lengths.
        max_wait_s: the starvation bound; None for none.
    """

    slots: int = 1
    batching: Batching = field(default_factory=Continuous)
    service: LinearServiceModel = field(default_factory=LinearServiceModel)
    max_wait_s: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Trace:
    """What is asked and how long the answers are; entry i of every list is one request.

    Attributes:
        index: row numbers of the input.
        arrival_s: instants; need not be sorted.
        input_tokens, output_tokens: true lengths.
        predicted_tokens: what the policy may know; None where it must know the truth (an oracle).
        predicted_quantiles: (level, tokens) pairs of each prediction; empty where there are none.
    """

    index: Sequence[int]
    arrival_s: Sequence[float]
    input_tokens: Sequence[int]
    output_tokens: Sequence[int]
    predicted_tokens: Sequence[float] | None = None
    predicted_quantiles: Sequence[tuple[tuple[float, float], ...]] = ()

    def __len__(self) -> int:
        return len(self.index)


def simulate(trace: Trace, policy: Policy, host: Host, *, label: str, seed: int = 0) -> JobTable:
    """Serve the whole trace.

    Args:
        trace: what is asked.
        policy: who is served next.
        host: what serves.
        label: the policy's name in the result.
        seed: the repetition's number in the result.

    Returns:
        One row per request, in the order of the trace. The linear model says nothing of first tokens.
    """
    order = sorted(range(len(trace)), key=lambda row: (trace.arrival_s[row], trace.index[row]))
    seconds = host.service.seconds
    known = trace.output_tokens if trace.predicted_tokens is None else trace.predicted_tokens
    jobs: list[tuple[Job, float]] = []
    for row in order:
        num_prompt_tokens = trace.input_tokens[row]
        quantiles = trace.predicted_quantiles[row] if trace.predicted_quantiles else ()
        request = Request(
            request_id=str(row), num_prompt_tokens=num_prompt_tokens, arrival_time=float(trace.arrival_s[row])
        )
        job = Job(request, seconds(num_prompt_tokens, known[row]), Prediction(known[row], quantiles))
        jobs.append((job, seconds(num_prompt_tokens, trace.output_tokens[row])))
    scheduler = Scheduler(policy, Slots(host.slots), batching=host.batching, max_wait_s=host.max_wait_s)
    # nothing here makes cycles; collecting between allocations only costs time that grows with the trace
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        replay(jobs, scheduler)
    finally:
        if was_enabled:
            gc.enable()
    start, finish = np.empty(len(trace)), np.empty(len(trace))
    for row, (job, _) in zip(order, jobs, strict=True):
        start[row] = math.nan if job.started_at is None else job.started_at
        finish[row] = math.nan if job.finished_at is None else job.finished_at
    return JobTable(
        policy=label,
        seed=seed,
        index=np.asarray(trace.index, dtype=np.int64),
        arrival_s=np.asarray(trace.arrival_s, dtype=np.float64),
        start_s=start,
        first_token_s=np.full(len(trace), math.nan),
        finish_s=finish,
        input_tokens=np.asarray(trace.input_tokens, dtype=np.int64),
        output_tokens=np.asarray(trace.output_tokens, dtype=np.int64),
        predicted_tokens=np.full(len(trace), math.nan)
        if trace.predicted_tokens is None
        else np.asarray(trace.predicted_tokens, dtype=np.float64),
        status=["completed"] * len(trace),
    )
