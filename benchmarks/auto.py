"""What `auto` gives beside policies with fixed constants, on the SSJF paper's own predictions and on real arrivals.

    python benchmarks/auto.py PREDICTIONS.csv.gz [--trace AZURE.csv.gz ...] [--seeds 5] [--jobs 20000]

PREDICTIONS has the columns output_tokens and pred_class5; a class is predicted by its mean length. Service is 0.1 s +
0.02 s per output token. A trace brings arrivals and lengths of its own, is scaled to load .9 on 8 slots, and is
predicted with log-normal noise of σ = .8. Each line: the share of the oracle's gain with its 95 % interval over
seeds, and p90, p99 and the worst completion time relative to FCFS on the same jobs.
"""

import argparse
import json
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from rich.progress import track

from ssjf.core.policies import FCFS, SSJF
from ssjf.core.service import LinearServiceModel
from ssjf.metrics.summary import interval95, oracle_share
from ssjf.plugins import make_policy
from ssjf.sim.host import LinearHost, Trace, simulate
from ssjf.sim.noise import lognormal, predict_all
from ssjf.workload.arrivals import OnOff, Poisson
from ssjf.workload.predictions import read_predictions
from ssjf.workload.reader import read_workload

SERVICE = LinearServiceModel()
POLICIES = ("auto", "ssjf", "aged-ssjf:rate=0.05", "aged-ssjf:rate=0.5", "boost:gamma=0.05", "hrrn")
CASES: dict[str, tuple[int, float, type[Poisson | OnOff]]] = {  # slots, load, arrivals
    "1 slot, load .5": (1, 0.5, Poisson),
    "1 slot, load .8": (1, 0.8, Poisson),
    "1 slot, load .9": (1, 0.9, Poisson),
    "1 slot, load .95": (1, 0.95, Poisson),
    "8 slots, load .9": (8, 0.9, Poisson),
    "8 slots, load .95": (8, 0.95, Poisson),
    "32 slots, on-off .8": (32, 0.8, OnOff),
}
TRACE_SLOTS, TRACE_LOAD, TRACE_SIGMA = 8, 0.9, 0.8


def sampled(predictions: Path, case: str, jobs: int, seed: int) -> tuple[Trace, int]:
    """Rows drawn with replacement from the predictions, under generated arrivals."""
    slots, load, arrivals = CASES[case]
    table = read_predictions(predictions, num_classes=5)
    rows = np.random.default_rng(seed).integers(0, len(table.output_tokens), jobs)
    mean_s = SERVICE.seconds(0, float(np.mean(table.output_tokens)))
    trace = Trace(
        index=range(jobs),
        arrival_s=arrivals(load * slots / mean_s).times(jobs, seed).tolist(),
        input_tokens=[0] * jobs,
        output_tokens=[table.output_tokens[row] for row in rows],
        predicted_tokens=[table.expected_tokens[row] for row in rows],
    )
    return trace, slots


def recorded(path: Path, seed: int) -> tuple[Trace, int]:
    """A real trace, scaled in time to the load."""
    items = read_workload(path)
    output_tokens = [item.output_tokens or 0 for item in items]
    arrival_s = np.array([item.arrival_s for item in items], dtype=float)
    work_s = sum(SERVICE.seconds(0, tokens) for tokens in output_tokens)
    scale = work_s / TRACE_SLOTS / TRACE_LOAD / (arrival_s.max() - arrival_s.min())
    trace = Trace(
        index=range(len(items)),
        arrival_s=(arrival_s * scale).tolist(),
        input_tokens=[0] * len(items),
        output_tokens=output_tokens,
        predicted_tokens=predict_all(lognormal(TRACE_SIGMA), output_tokens, seed=seed),
    )
    return trace, TRACE_SLOTS


def measure(source: Path, case: str, jobs: int, seed: int) -> list[dict[str, Any]]:
    """One seed of one case under every policy."""
    trace, slots = sampled(source, case, jobs, seed) if case in CASES else recorded(source, seed)
    host = LinearHost(slots=slots, service=SERVICE)
    fcfs = simulate(trace, FCFS(), host, label="fcfs", seed=seed)
    oracle = simulate(replace(trace, predicted_tokens=None), SSJF(), host, label="sjf", seed=seed)
    rows = []
    for name in POLICIES:
        table = simulate(trace, make_policy(name), host, label=name, seed=seed)
        ratios = {
            key: float(np.percentile(table.jct_s, level) / np.percentile(fcfs.jct_s, level))
            for key, level in (("p90", 90), ("p99", 99), ("max", 100))
        }
        rows.append({"case": case, "policy": name, "seed": seed, "share": oracle_share(table, fcfs, oracle), **ratios})
    return rows


def main() -> None:
    """Run all cases on all cores and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("predictions", type=Path)
    parser.add_argument("--trace", type=Path, action="append", default=[])
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--jobs", type=int, default=20_000)
    parser.add_argument("--out", type=Path, default=Path("out/benchmarks/auto.json"))
    options = parser.parse_args()
    work = [(options.predictions, case, options.jobs, seed) for case in CASES for seed in range(options.seeds)]
    work += [(trace, trace.name.partition(".")[0], 0, seed) for trace in options.trace for seed in range(options.seeds)]
    rows: list[dict[str, Any]] = []
    with ProcessPoolExecutor() as pool:
        for found in track(pool.map(measure, *zip(*work, strict=True)), total=len(work), description="simulating"):
            rows += found
    print(f"{'case':28}{'policy':22}{'share':>14}{'p90':>7}{'p99':>7}{'max':>8}")
    for case in dict.fromkeys(row["case"] for row in rows):
        for policy in POLICIES:
            of_both = [row for row in rows if row["case"] == case and row["policy"] == policy]
            share, half = interval95([row["share"] for row in of_both])
            tail = [np.mean([row[key] for row in of_both]) for key in ("p90", "p99", "max")]
            interval = "" if half is None else f"±{half:.3f}"
            print(f"{case:28}{policy:22}{share:>8.3f}{interval:>6}{tail[0]:>7.2f}{tail[1]:>7.2f}{tail[2]:>8.2f}")
    options.out.parent.mkdir(parents=True, exist_ok=True)
    options.out.write_text(json.dumps(rows, indent=2) + "\n", encoding="utf-8")
    print(f"written: {options.out}")


if __name__ == "__main__":
    main()
