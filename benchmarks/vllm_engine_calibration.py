"""Does a simulation calibrated on vLLM's engine predict its mean completion time, under each policy?

    .venv-vllm/bin/python -m benchmarks.vllm_engine_calibration [--jobs 300] [--slots 8] [--loads 0.5 0.7]

As `benchmarks/vllm_calibration.py`, but with the engine in this process and on a clock that moves by the processor time
of its steps, so that what else the machine does matters little: what is left is how well the step model describes the
engine. Probes and fit are those of `ssjf calibrate`, before and after; arrivals are Poisson, lengths log-normal and
known to the policies. Load is arrival rate over the throughput that the first cost model has at saturation. At loads
of .9 a queue turns each per cent of throughput into several of waiting.
"""

import argparse
import itertools
import json
import os
import random
import tempfile
from dataclasses import replace
from pathlib import Path

from tests.vllm import conftest as _environment  # noqa: F401 - before vLLM is imported: one thread, no network

os.environ["VLLM_LOGGING_LEVEL"] = "CRITICAL"

from benchmarks.calibration_prediction import between

from ssjf.core.places.capacity import Slots
from ssjf.core.scheduler import Scheduler
from ssjf.core.types import Job, Request
from ssjf.plugins import make_policy
from ssjf.sim.steps.calibrate import Probe, StreamTiming, concurrencies, fit_step_cost
from ssjf.sim.steps.cost import EngineLimits, StepCostModel
from ssjf.sim.steps.engine import serve_steps
from ssjf.sim.steps.load import saturated_requests_per_s
from tests.vllm.bench import Ask
from tests.vllm.tiny_model import write_tiny_model
from tests.vllm.whole_engine import make_engine, serve_whole
from vllm import LLM

POLICIES = ("fcfs", "ssjf", "aged-ssjf", "auto")
CHUNK = 256
LIMITS = EngineLimits(num_kv_blocks=10**6, max_num_batched_tokens=CHUNK)
PROMPTS = (16, 128, 400)
MIXED_OUTPUTS = (8, 16, 32, 64, 128, 256)
SCHEDULER = "ssjf.integrations.vllm.SSJFScheduler"


def calibrate(engine: LLM, slots: int, seed: int) -> StepCostModel:
    """Waves and longer probes, as `ssjf calibrate` sends them."""
    probes = []
    for _, size, length in itertools.product(range(2), concurrencies(slots), (*PROMPTS, None)):
        if length is not None:
            asks = [Ask(0.0, length, 64)] * size
        else:
            kinds = list(itertools.product(MIXED_OUTPUTS, PROMPTS))
            asks = [
                Ask(0.0, prompt, output) for output, prompt in itertools.islice(itertools.cycle(kinds), 4 * size + 3)
            ]
            random.Random(seed).shuffle(asks)
        run = serve_whole(engine, asks, processor_time=True, at_once=size)
        streams = [
            StreamTiming(ask.num_prompt_tokens, ask.num_output_tokens, run.start[i], run.first_token[i], run.finish[i])
            for i, ask in enumerate(asks)
        ]
        probes.append(Probe(size, tuple(streams)))
    return fit_step_cost(probes, max_num_batched_tokens=CHUNK).model


def make_asks(num_jobs: int) -> list[Ask]:
    """Lengths, with the arrivals of one request per second."""
    rng = random.Random(0)
    now, asks = 0.0, []
    for _ in range(num_jobs):
        now += rng.expovariate(1.0)
        tokens = min(400, 2 + int(rng.lognormvariate(3.8, 1.0)))
        asks.append(Ask(now, 1 + min(400, int(rng.expovariate(1 / 60))), tokens, float(tokens)))
    return asks


def simulated_mean_jct_s(asks: list[Ask], policy: str, slots: int, cost: StepCostModel) -> float:
    """What the simulator says."""
    service = cost.service_model(num_seqs=slots, context_tokens=150)
    jobs = []
    for index, ask in enumerate(asks):
        request = Request(request_id=str(index), arrival_time=ask.arrival, num_prompt_tokens=ask.num_prompt_tokens)
        predicted_s = service.seconds(ask.num_prompt_tokens, ask.num_output_tokens)
        jobs.append((Job(request, predicted_s), ask.num_output_tokens))
    scheduler = Scheduler(make_policy(policy), Slots(slots))
    run = serve_steps(jobs, scheduler, cost=cost, limits=LIMITS, service=service)
    return sum((s.job.finished_at or 0.0) - s.job.request.arrival_time for s in run.served) / len(run.served)


def main() -> None:
    """Measure, predict, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--jobs", type=int, default=300)
    parser.add_argument("--slots", type=int, default=8)
    parser.add_argument("--loads", type=float, nargs="+", default=[0.5, 0.7])
    parser.add_argument("--out", type=Path, default=Path("out/vllm_engine_calibration.json"))
    arguments = parser.parse_args()
    slots, asks = arguments.slots, make_asks(arguments.jobs)
    limits = {"max_num_seqs": slots, "max_num_batched_tokens": CHUNK, "max_model_len": 1024}
    results = []
    with tempfile.TemporaryDirectory() as folder:
        model = write_tiny_model(Path(folder), hidden_size=256, num_layers=6)

        def start() -> LLM:
            engine = make_engine(model, enable_prefix_caching=False, scheduler_cls=SCHEDULER, **limits)
            serve_whole(engine, [Ask(0.0, 100, 20)] * slots)  # the first steps of an engine are slow
            return engine

        for policy in POLICIES:
            settings = {"POLICY": policy, "ACCEPT_HINTS": "true", "IGNORE_MAX_TOKENS": "true"}
            os.environ.update({f"SSJF_VLLM_{name}": value for name, value in settings.items()})
            for load in arguments.loads:
                engine = start()
                before = calibrate(engine, slots, seed=0)
                sizes = [(ask.num_prompt_tokens, ask.num_output_tokens) for ask in asks]
                rate = load * saturated_requests_per_s(sizes, max_num_seqs=slots, cost=before, limits=LIMITS)
                timed = [replace(ask, arrival=ask.arrival / rate) for ask in asks]
                engine.llm_engine.engine_core.shutdown()
                engine = start()  # a new one: the policy is not to know the probes
                run = serve_whole(engine, timed, processor_time=True)
                cost = between(before, calibrate(engine, slots, seed=1))
                engine.llm_engine.engine_core.shutdown()
                measured_s = sum(run.finish[i] - ask.arrival for i, ask in enumerate(timed)) / len(timed)
                predicted_s = simulated_mean_jct_s(timed, policy, slots, cost)
                error = predicted_s / measured_s - 1
                results.append({"policy": policy, "load": load, "measured_s": measured_s, "predicted_s": predicted_s})
                print(
                    f"load {load:g} {policy:10} mean JCT measured {measured_s:.3f} s, predicted {predicted_s:.3f} s: "
                    f"{error:+.1%}",
                    flush=True,
                )
    arguments.out.parent.mkdir(parents=True, exist_ok=True)
    arguments.out.write_text(json.dumps(results, indent=2) + "\n")


if __name__ == "__main__":
    main()
