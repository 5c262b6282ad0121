"""What load means in the step model: arrival rate over the throughput of an engine that never lacks work."""

from collections.abc import Sequence

from ssjf.core.places.capacity import Slots
from ssjf.core.policies import FCFS
from ssjf.core.scheduler import Scheduler
from ssjf.core.service import LinearServiceModel
from ssjf.core.types import Job, Request
from ssjf.sim.steps.cost import EngineLimits, StepCostModel
from ssjf.sim.steps.engine import serve_steps


def saturated_requests_per_s(
    lengths: Sequence[tuple[int, int]], *, max_num_seqs: int, cost: StepCostModel, limits: EngineLimits
) -> float:
    """Throughput of an engine that never lacks work: load is arrival rate over this.

    Args:
        lengths: (prompt tokens, output tokens), all waiting from the start and served in this order. Hundreds per slot
            make the fringes at begin and end negligible.
        max_num_seqs: sequences that run at once.
        cost: of the iterations.
        limits: of the engine.

    Returns:
        Requests per second: output tokens per second while somebody waits, over output tokens per request.

    Raises:
        ValueError: there are not more requests than slots.
    """
    if len(lengths) <= max_num_seqs:
        raise ValueError(f"{len(lengths)} requests cannot saturate {max_num_seqs} slots")
    jobs = [
        (Job(Request(request_id=str(index), arrival_time=0.0, num_prompt_tokens=num_prompt_tokens)), num_output_tokens)
        for index, (num_prompt_tokens, num_output_tokens) in enumerate(lengths)
    ]
    scheduler = Scheduler(FCFS(), Slots(max_num_seqs))
    run = serve_steps(jobs, scheduler, cost=cost, limits=limits, service=LinearServiceModel())
    mean_output_tokens = sum(max(num_output_tokens, 1) for _, num_output_tokens in lengths) / len(lengths)
    return run.contended_output_tokens / run.contended_s / mean_output_tokens
