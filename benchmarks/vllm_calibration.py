"""Does a simulation calibrated on vLLM predict its mean completion time, under each policy?

    .venv-vllm/bin/python -m benchmarks.vllm_calibration [--jobs 300] [--slots 8] [--load 0.7]

Starts vLLM's own server with a small model, whose steps take some milliseconds, once for each policy, with the front
door, which takes each answer's true length from a header, and the scheduler class. Calibrates it with `ssjf calibrate`
before and after, sends the same Poisson workload of log-normal lengths, and simulates what was recorded with the mean
of both cost models. Load is arrival rate over the throughput that the first cost model has at saturation.

Everything is on one machine, and seconds are seconds: expect 10 % on a machine that does nothing else, and more on
others. In steps, without seconds, the simulator and vLLM agree exactly: tests/vllm/test_scheduler.py.
"""

import argparse
import asyncio
import json
import math
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from benchmarks.calibration_prediction import (
    CHUNK,
    LIMITS,
    between,
    planned,
    requests,
    send,
    simulated_mean_jct_s,
)

from ssjf.cli.simulation.calibrate import calibrate
from ssjf.loadgen.client import Endpoint
from ssjf.loadgen.sender import run_loop
from ssjf.sim.steps.cost import StepCostModel, load_cost_model
from ssjf.sim.steps.load import saturated_requests_per_s
from tests.vllm import conftest as _environment  # noqa: F401 - what its servers inherit: one thread, no network
from tests.vllm.serving import FRONT_DOOR, SCHEDULER, serving
from tests.vllm.tiny_model import write_tiny_model

POLICIES = ("fcfs", "ssjf", "aged-ssjf", "auto")
SETTINGS = {"tokens_in_priority": "true", "accept_hints": "true", "ignore_max_tokens": "true"}


async def calibrated(url: str, slots: int, folder: Path) -> StepCostModel:
    """What an iteration costs at present."""
    out = folder / "cost.json"
    options: dict[str, Any] = {"max_num_seqs": slots, "max_num_batched_tokens": CHUNK, "prompt_tokens": "16,64,128"}
    await asyncio.to_thread(calibrate, url=url, out=out, completions=True, repeats=2, **options)
    return load_cost_model(out)


async def main(options: argparse.Namespace) -> None:
    """Print measured and predicted means."""
    results = []
    with TemporaryDirectory() as name:
        folder = Path(name)
        model = write_tiny_model(folder / "model", hidden_size=384, num_layers=8)
        flags = [*FRONT_DOOR, *SCHEDULER, "--max-num-seqs", str(options.slots), "--no-enable-prefix-caching"]
        flags += ["--max-num-batched-tokens", str(CHUNK)]
        plan = None
        for policy in POLICIES:
            with serving(model, folder / "log", *flags, settings={**SETTINGS, "policy": policy}) as url:
                before = await calibrated(url, options.slots, folder)
                if plan is None:
                    # in the tiny model's context of 1024 tokens, of which a word takes four to six
                    sizes = [(1 + words // 4, min(tokens, 400)) for words, tokens in planned(options.jobs, seed=0)]
                    saturated = saturated_requests_per_s(
                        [(5 * words, tokens) for words, tokens in sizes],
                        max_num_seqs=options.slots,
                        cost=before,
                        limits=LIMITS,
                    )
                    plan = requests(sizes, options.load * saturated if options.load < math.inf else math.inf)
                records = await send(Endpoint(url=url, model="tiny", chat=False), plan, policy)
                cost = between(before, await calibrated(url, options.slots, folder))
            measured_s = sum((record.finish_s or 0.0) - record.arrival_s for record in records) / len(records)
            predicted_s = simulated_mean_jct_s(records, policy, options.slots, cost)
            error = predicted_s / measured_s - 1
            results.append({"policy": policy, "measured_s": measured_s, "predicted_s": predicted_s, "error": error})
            print(
                f"{policy:10} mean JCT measured {measured_s:.3f} s, predicted {predicted_s:.3f} s: {error:+.1%}",
                flush=True,
            )
    options.out.parent.mkdir(parents=True, exist_ok=True)
    options.out.write_text(json.dumps(results, indent=2) + "\n")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--jobs", type=int, default=300)
    parser.add_argument("--slots", type=int, default=8)
    parser.add_argument("--load", type=float, default=0.7)
    parser.add_argument("--out", type=Path, default=Path("out/vllm_calibration.json"))
    run_loop(main(parser.parse_args()))
