"""Where SSJF stops helping: its gain over load and slots, by clean rules. Prints the tables of docs/when-not.md.

    python benchmarks/when_not.py PREDICTIONS.csv.gz [--jobs 10000] [--seeds 5]

Continuous batching with the linear service model (0.1 s + 0.02 s per output token on every slot, however many run),
exponential gaps, requests sampled from a file of recorded lengths and predicted length classes. The first tenth of
each run warms up and is not counted. Load is arrival rate × mean service seconds ÷ slots.
"""

import argparse
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ssjf.core.places.capacity import Slots
from ssjf.core.policies import FCFS, SSJF, AgedSSJF
from ssjf.core.replay import replay
from ssjf.core.scheduler import Scheduler
from ssjf.core.service import LinearServiceModel
from ssjf.core.types import Job, Policy, Request
from ssjf.workload.predictions import Predictions, read_predictions

LOADS = (0.3, 0.5, 0.7, 0.8, 0.9, 0.95)
SLOTS = (1, 2, 4, 8, 16, 32, 64)
POLICIES: dict[str, Policy] = {"fcfs": FCFS(), "sjf": SSJF(), "ssjf": SSJF(), "aged-ssjf": AgedSSJF()}


def measure(
    predictions: Predictions, policy: str, *, load: float, slots: int, num_jobs: int, seed: int
) -> tuple[float, float, float]:
    """Mean JCT, p99 JCT and mean wait in seconds of one run."""
    rng = np.random.default_rng(seed)
    service = LinearServiceModel()
    sample = rng.integers(len(predictions.output_tokens), size=num_jobs)
    mean_service_s = service.seconds(0, float(np.mean(predictions.output_tokens)))
    arrivals = np.cumsum(rng.exponential(mean_service_s / load / slots, num_jobs)).tolist()
    jobs = []
    for number, (row, arrival) in enumerate(zip(sample.tolist(), arrivals, strict=True)):
        service_s = service.seconds(0, predictions.output_tokens[row])
        predicted_s = service_s if policy == "sjf" else service.seconds(0, predictions.expected_tokens[row])
        jobs.append((Job(Request(request_id=str(number), arrival_time=arrival), predicted_s), service_s))
    replay(jobs, Scheduler(POLICIES[policy], Slots(slots)))
    counted = [job for job, _ in jobs[num_jobs // 10 :]]
    jct = np.array([(job.finished_at or 0.0) - job.request.arrival_time for job in counted])
    wait = np.array([(job.started_at or 0.0) - job.request.arrival_time for job in counted])
    return float(jct.mean()), float(np.percentile(jct, 99)), float(wait.mean())


def main() -> None:
    """Print a table for each question."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("predictions", type=Path)
    parser.add_argument("--jobs", type=int, default=10_000)
    parser.add_argument("--seeds", type=int, default=5)
    arguments = parser.parse_args()
    predictions = read_predictions(arguments.predictions, num_classes=5)

    found: dict[tuple[str, int, float], NDArray[np.float64]] = {}
    for slots in SLOTS:
        for load in LOADS:
            for policy in POLICIES:
                runs = [
                    measure(predictions, policy, load=load, slots=slots, num_jobs=arguments.jobs, seed=seed)
                    for seed in range(arguments.seeds)
                ]
                found[policy, slots, load] = np.array(runs).mean(axis=0)

    show(
        "Mean wait under FCFS, seconds",
        {cell[1:]: f"{means[2]:.2f}" for cell, means in found.items() if cell[0] == "fcfs"},
    )
    for policy in ("ssjf", "sjf", "aged-ssjf"):
        ratios = {
            (slots, load): found[policy, slots, load] / found["fcfs", slots, load] for slots in SLOTS for load in LOADS
        }
        show(f"Gain of {policy} in mean JCT", {cell: percent(1 - ratio[0]) for cell, ratio in ratios.items()})
        show(f"Change of p99 JCT under {policy}", {cell: percent(ratio[1] - 1) for cell, ratio in ratios.items()})


def percent(share: float) -> str:
    """A whole number of percent with its sign."""
    return f"{round(100 * share):+d} %" if round(100 * share) else "0 %"


def show(title: str, values: Mapping[tuple[int, float], str]) -> None:
    """Print one Markdown table, slots down and loads across."""
    print(f"\n{title}\n")
    print("| slots | " + " | ".join(f"load {load}" for load in LOADS) + " |")
    print("|---|" + "---|" * len(LOADS))
    for slots in SLOTS:
        print(f"| {slots} | " + " | ".join(values[slots, load] for load in LOADS) + " |")


if __name__ == "__main__":
    main()
