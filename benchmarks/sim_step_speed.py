"""How many requests a second the simulator's step model serves on one core.

Requests of 500 prompt and 177 output tokens on average arrive by a Poisson process at load .8 of an engine that runs
32 sequences; load is arrival rate over the throughput measured at saturation. The same is measured with ample and with
tight KV memory (for six tenths of what 32 average sequences hold, so that some are thrown out), and for growing numbers
of requests. CPU time of `serve_steps` alone; making the requests is not in it.

Run: python benchmarks/sim_step_speed.py [--quick]
Expected: at least 6,000 requests/s at every size, tight or not. Measured on a server core, Python 3.11: FCFS and SSJF
68,000-75,000 with ample and 49,000-60,000 with tight memory, SRPT 10,000-28,000, the same at 10,000 and 200,000
requests; 560 bytes per job.
"""

import argparse
import gc
import random
import time
import tracemalloc

from ssjf.core.places.capacity import Slots
from ssjf.core.policies import FCFS, SRPT, SSJF
from ssjf.core.scheduler import Scheduler
from ssjf.core.types import Job, Policy, Request
from ssjf.sim.steps.cost import EngineLimits, StepCostModel
from ssjf.sim.steps.engine import StepRun, serve_steps
from ssjf.sim.steps.load import saturated_requests_per_s

MAX_NUM_SEQS = 32
LOAD = 0.8
MEAN_PROMPT_TOKENS, MEAN_OUTPUT_TOKENS = 500, 177
# of the order of a 7-billion-parameter model on a data-centre GPU
COST = StepCostModel(base_s=0.008, per_prefill_token_s=6e-5, per_decode_token_s=6e-5, per_kv_token_s=1.5e-7)
AMPLE = EngineLimits(num_kv_blocks=100_000)
TIGHT = EngineLimits(num_kv_blocks=800)
SERVICE = COST.service_model(num_seqs=MAX_NUM_SEQS, context_tokens=MEAN_PROMPT_TOKENS + MEAN_OUTPUT_TOKENS)
POLICIES: dict[str, Policy] = {"fcfs": FCFS(), "ssjf": SSJF(), "srpt": SRPT()}


def lengths(num_requests: int, seed: int) -> list[tuple[int, int]]:
    """Exponential prompt and output lengths of at least 1."""
    rng = random.Random(seed)
    return [
        (1 + int(rng.expovariate(1 / MEAN_PROMPT_TOKENS)), 1 + int(rng.expovariate(1 / MEAN_OUTPUT_TOKENS)))
        for _ in range(num_requests)
    ]


def workload(num_requests: int, requests_per_s: float, seed: int = 0) -> list[tuple[Job, int]]:
    """Jobs with Poisson arrivals and predictions that are off by a log-normal factor."""
    rng = random.Random(seed + 1)
    jobs, now = [], 0.0
    for index, (num_prompt_tokens, num_output_tokens) in enumerate(lengths(num_requests, seed)):
        now += rng.expovariate(requests_per_s)
        request = Request(request_id=str(index), arrival_time=now, num_prompt_tokens=num_prompt_tokens)
        predicted = SERVICE.seconds(num_prompt_tokens, num_output_tokens * rng.lognormvariate(0, 0.5))
        jobs.append((Job(request, predicted), num_output_tokens))
    return jobs


def measure(jobs: list[tuple[Job, int]], policy: Policy, limits: EngineLimits) -> tuple[float, StepRun]:
    """CPU seconds of one run, and its result."""
    scheduler = Scheduler(policy, Slots(MAX_NUM_SEQS))
    began = time.process_time()
    run = serve_steps(jobs, scheduler, cost=COST, limits=limits, service=SERVICE)
    return time.process_time() - began, run


def main() -> None:
    """Print the figures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="the two smaller sizes only")
    sizes = (10_000, 50_000) if parser.parse_args().quick else (10_000, 50_000, 200_000)
    print(
        f"garbage collector: {'on' if gc.isenabled() else 'off'}, thresholds {gc.get_threshold()}; CPU time, one core"
    )
    for name, limits in (("ample", AMPLE), ("tight", TIGHT)):
        rate = LOAD * saturated_requests_per_s(
            lengths(5_000, seed=99), max_num_seqs=MAX_NUM_SEQS, cost=COST, limits=limits
        )
        print(f"\nKV {name}: {limits.num_kv_blocks} blocks; load {LOAD} is {rate:.2f} requests/s")
        for policy_name, policy in POLICIES.items():
            for size in sizes:
                seconds, run = measure(workload(size, rate), policy, limits)
                jct = sum((s.job.finished_at or 0.0) - s.job.request.arrival_time for s in run.served) / size
                print(
                    f"  {policy_name:5} {size:7,} requests: {size / seconds:8,.0f} requests/s, "
                    f"{seconds / size * 1e6:5.1f} µs each, {run.num_iterations / seconds:10,.0f} iterations/s, "
                    f"{sum(s.num_preemptions for s in run.served):6,} preemptions, mean JCT {jct:.2f} s"
                )
    tracemalloc.start()
    _, run = measure(workload(20_000, 10.0), FCFS(), AMPLE)
    bytes_per_job = tracemalloc.get_traced_memory()[1] / len(run.served)
    print(f"\nmemory: {bytes_per_job:.0f} bytes per job at the peak, requests included")


if __name__ == "__main__":
    main()
