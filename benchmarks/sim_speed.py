"""How fast the linear simulator is: jobs per second of CPU on one core, its growth, and its memory.

    python benchmarks/sim_speed.py [--sizes 10000,50000,200000,1000000] [--load 1.2] [--repeat 3]

Counts everything between columns in and columns out: requests and jobs are made, served by the deployed scheduling
core, and turned into result columns. Overload (the default) is the worst case, because the queue grows to a sixth of
all jobs. Garbage collection is off while jobs are served, as `ssjf simulate` has it.
"""

import argparse
import gc
import json
import statistics
import sys
import time
import tracemalloc
from pathlib import Path

import numpy as np

from ssjf.core.policies import FCFS, SSJF
from ssjf.sim.host import LinearHost, Trace, simulate


def trace_of(size: int, load: float) -> Trace:
    """Log-normal lengths around 180 tokens, Poisson arrivals, predictions with log-normal noise."""
    rng = np.random.default_rng(0)
    tokens = np.maximum(1, rng.lognormal(4.7, 1.0, size)).astype(int)
    rate = load / (0.1 + 0.02 * tokens.mean())
    return Trace(
        index=list(range(size)),
        arrival_s=np.cumsum(rng.exponential(1 / rate, size)).tolist(),
        input_tokens=[0] * size,
        output_tokens=tokens.tolist(),
        predicted_tokens=(tokens * np.exp(0.8 * rng.standard_normal(size))).tolist(),
    )


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sizes", default="10000,50000,200000,1000000")
    parser.add_argument("--load", type=float, default=1.2)
    parser.add_argument("--repeat", type=int, default=3)
    parser.add_argument("--out", type=Path, default=Path("out/benchmarks/sim_speed.json"))
    options = parser.parse_args()
    rows = []
    print(f"Python {sys.version.split()[0]}, load {options.load}, best and spread of {options.repeat} runs")
    print(f"{'policy':8}{'jobs':>10}{'jobs/s':>12}{'spread':>9}{'µs/job':>9}{'bytes/job':>11}")
    for size in (int(part) for part in options.sizes.split(",")):
        trace = trace_of(size, options.load)
        for name, policy in (("fcfs", FCFS()), ("ssjf", SSJF())):
            seconds = []
            for _ in range(options.repeat):
                gc.collect()
                began = time.process_time()
                simulate(trace, policy, LinearHost(), label=name)
                seconds.append(time.process_time() - began)
            tracemalloc.start()
            simulate(trace_of(10_000, options.load), policy, LinearHost(), label=name)
            memory = tracemalloc.get_traced_memory()[1] / 10_000
            tracemalloc.stop()
            best, spread = min(seconds), (max(seconds) - min(seconds)) / statistics.median(seconds)
            rows.append({"policy": name, "jobs": size, "jobs_per_s": size / best, "bytes_per_job": memory})
            print(f"{name:8}{size:>10,}{size / best:>12,.0f}{spread:>8.0%}{1e6 * best / size:>9.2f}{memory:>11,.0f}")
    options.out.parent.mkdir(parents=True, exist_ok=True)
    options.out.write_text(json.dumps(rows, indent=2) + "\n", encoding="utf-8")
    print(f"written: {options.out}")


if __name__ == "__main__":
    main()
