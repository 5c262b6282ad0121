"""Does a calibrated simulation predict the embedded engine's mean completion time, under FCFS and under SJF?

Starts the embedded engine and calibrates it with `ssjf calibrate`, through a gateway: on a small machine the gateway's
own work slows the engine down. Then the same Poisson workload is sent through a gateway with each policy: log-normal
answer lengths, which clients ask for exactly and hint to the gateway. Recorded arrivals and lengths are then simulated
with the mean of the cost models from just before and just after. Load is arrival rate over the throughput that the
first cost model has at saturation; inf is all at once.

Run: python benchmarks/calibration_prediction.py [--jobs 400] [--slots 8] [--loads 0.5,0.7,inf]
Expected on a machine that does nothing else: each prediction within 10 % of what was measured. Loads of .8 and more
are not asked for by default: there a queue turns each per cent of throughput into several of waiting.
"""

import argparse
import asyncio
import math
import random
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from tempfile import TemporaryDirectory

from ssjf.cli.demo.processes import running_server
from ssjf.cli.simulation.calibrate import calibrate
from ssjf.core.places.capacity import Slots
from ssjf.core.scheduler import Scheduler
from ssjf.core.types import Job, Request
from ssjf.loadgen.client import Endpoint, first_model
from ssjf.loadgen.plan import PlannedRequest, synthetic_prompt
from ssjf.loadgen.sender import Run, run_loop, send_open_loop
from ssjf.metrics.records import JobRecord
from ssjf.plugins import make_policy
from ssjf.sim.steps.cost import EngineLimits, StepCostModel, load_cost_model
from ssjf.sim.steps.engine import serve_steps
from ssjf.sim.steps.load import saturated_requests_per_s
from ssjf.workload.items import WorkItem

CHUNK = 256  # the embedded engine's max_num_batched_tokens
LIMITS = EngineLimits(num_kv_blocks=10**6, max_num_batched_tokens=CHUNK)  # its cache holds every running sequence
WORD_TOKENS, CHAT_TOKENS = 2.5, 4  # tokens of a word of the prompts, and of the chat template, in the bundled model
POLICIES = {"fcfs": "fcfs", "sjf": "ssjf"}  # with hints the prediction is the truth


def planned(num_jobs: int, seed: int) -> list[tuple[int, int]]:
    """Words of the prompt and tokens of the answer, for each job."""
    rng = random.Random(seed)
    return [
        (1 + int(rng.expovariate(1 / 60)), min(600, 2 + int(rng.lognormvariate(3.8, 1.0)))) for _ in range(num_jobs)
    ]


def requests(sizes: Sequence[tuple[int, int]], rate: float) -> list[PlannedRequest]:
    """The sizes as requests with Poisson arrivals, or all at once."""
    rng = random.Random(1)
    now, found = 0.0, []
    for index, (num_words, num_output_tokens) in enumerate(sizes):
        now += rng.expovariate(rate) if rate < math.inf else 0.0
        found.append(
            PlannedRequest(
                index=index,
                arrival_s=now,
                prompt=synthetic_prompt(WorkItem(index=index, input_tokens=num_words), seed=0),
                max_tokens=num_output_tokens,
                fixed_output=True,
                hint=num_output_tokens,
            )
        )
    return found


def simulated_mean_jct_s(records: Sequence[JobRecord], policy: str, slots: int, cost: StepCostModel) -> float:
    """What the simulator says of the jobs that were served."""
    context = sum(r.output_tokens * (r.input_tokens + r.output_tokens / 2) for r in records)
    service = cost.service_model(
        num_seqs=slots, context_tokens=context / sum(record.output_tokens for record in records)
    )
    jobs = []
    for record in sorted(records, key=lambda record: (record.arrival_s, record.index)):
        request = Request(
            request_id=str(record.index), arrival_time=record.arrival_s, num_prompt_tokens=record.input_tokens
        )
        predicted_s = service.seconds(record.input_tokens, record.output_tokens)
        jobs.append((Job(request, predicted_s), record.output_tokens))
    scheduler = Scheduler(make_policy(policy), Slots(slots))
    run = serve_steps(jobs, scheduler, cost=cost, limits=LIMITS, service=service)
    return sum((s.job.finished_at or 0.0) - s.job.request.arrival_time for s in run.served) / len(run.served)


def between(one: StepCostModel, other: StepCostModel) -> StepCostModel:
    """The mean of two calibrations: one from before and one from after a run, because machines change their speed."""
    return StepCostModel(**{name: (value + asdict(other)[name]) / 2 for name, value in asdict(one).items()})


async def send(endpoint: Endpoint, plan: Sequence[PlannedRequest], policy: str) -> list[JobRecord]:
    """Open-loop; every request must be answered."""
    run = Run(policy)
    await send_open_loop(endpoint, plan, run)
    assert not run.failed, run.errors
    return run.records


async def main(options: argparse.Namespace) -> None:
    """Print measured and predicted means."""
    with TemporaryDirectory() as folder_name:
        folder = Path(folder_name)
        async with running_server(
            "engine", ["--max-num-seqs", str(options.slots)], log=folder / "engine.log"
        ) as engine:
            gateway_options = ["--backend", engine, "--slots", str(options.slots), "--accept-hints", "--policy"]

            async def calibrated() -> StepCostModel:
                cost_file = folder / "cost.json"
                async with running_server("serve", [*gateway_options, "fcfs"], log=folder / "gateway.log") as gateway:
                    await asyncio.to_thread(
                        calibrate,
                        url=gateway,
                        out=cost_file,
                        max_num_seqs=options.slots,
                        max_num_batched_tokens=CHUNK,
                        repeats=2,
                    )
                return load_cost_model(cost_file)

            model = await first_model(Endpoint(url=engine))
            sizes = planned(options.jobs, seed=0)
            before = await calibrated()
            saturated = saturated_requests_per_s(
                [(CHAT_TOKENS + round(WORD_TOKENS * words), tokens) for words, tokens in sizes],
                max_num_seqs=options.slots,
                cost=before,
                limits=LIMITS,
            )
            for load in map(float, options.loads.split(",")):
                plan = requests(sizes, load * saturated)
                measured: dict[str, list[JobRecord]] = {}
                for name, policy in POLICIES.items():
                    log = folder / f"{name}.log"
                    async with running_server("serve", [*gateway_options, policy], log=log) as gateway:
                        measured[name] = await send(Endpoint(url=gateway, model=model), plan, name)
                after = await calibrated()
                for name, records in measured.items():
                    measured_s = sum((r.finish_s or 0.0) - r.arrival_s for r in records) / len(records)
                    predicted_s = simulated_mean_jct_s(records, POLICIES[name], options.slots, between(before, after))
                    print(
                        f"load {load:.2f} ({load * saturated:5.2f} requests/s) {name:5} mean JCT measured "
                        f"{measured_s:.3f} s, predicted {predicted_s:.3f} s: {predicted_s / measured_s - 1:+.1%}",
                        flush=True,
                    )
                before = after


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--jobs", type=int, default=400)
    parser.add_argument("--slots", type=int, default=8)
    parser.add_argument("--loads", default="0.5,0.7,inf")
    run_loop(main(parser.parse_args()))
