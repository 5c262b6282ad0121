"""How near `auto` comes to the best rule with a fixed constant, found in hindsight for each of many workloads.

    python benchmarks/auto_workloads.py [--seeds 3] [--jobs 20000]

The workloads differ in lengths, spread, slots, load, burstiness and quality of the predictions; none of them needs a
file. The rules are ageing at seven rates, γ-Boost at seven γ, and HRRN. For each workload the best rule is the one with
the largest share of the oracle's gain among those that keep p99 within 1.05, p90 within 1.08 and the worst completion
time within 1.10 of FCFS's. Each line: what `auto` gives, that rule and its share, and auto's share over it.
"""

import argparse
import json
import os
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, replace
from itertools import repeat
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from rich.progress import track

from ssjf.core.policies import FCFS, SSJF
from ssjf.metrics.summary import oracle_share
from ssjf.plugins import make_policy
from ssjf.sim.host import LinearHost, Trace, simulate
from ssjf.sim.noise import lognormal, predict_all
from ssjf.workload.arrivals import Gamma, OnOff, Poisson
from ssjf.workload.generated.lengths import parse_lengths

RATES = (0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0)
GAMMAS = (0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5)
FIXED = (*(f"aged-ssjf:rate={rate:g}" for rate in RATES), *(f"boost:gamma={gamma:g}" for gamma in GAMMAS), "hrrn")
LIMITS = {"p90": 1.08, "p99": 1.05, "max": 1.10}
_BATCH = 2000
_SWING_S = 3600.0  # the period in which the load of a swinging workload rises and falls

Draw = Callable[[int, np.random.Generator], NDArray[np.float64]]


def pareto(count: int, rng: np.random.Generator) -> NDArray[np.float64]:
    """A tail of exponent 1.5, cut at 20,000 tokens: a few jobs are most of the work."""
    drawn: NDArray[np.float64] = np.minimum(60 * (rng.pareto(1.5, count) + 1), 20_000)
    return drawn


def two_kinds(count: int, rng: np.random.Generator) -> NDArray[np.float64]:
    """Four short answers to each long one."""
    short = rng.random(count) < 0.8
    return np.where(short, rng.uniform(5, 60, count), rng.uniform(500, 1500, count))


@dataclass(frozen=True)
class Workload:
    """Lengths, slots, mean load, arrivals, noise of predictions.

    Arrivals "gamma" have CV 3, "swing" lets the load go .3 up and down, "batch" is 2,000 jobs at once.
    """

    lengths: str | Draw
    slots: int
    load: float
    arrivals: str
    sigma: float

    def trace(self, jobs: int, seed: int) -> Trace:
        """The same for the same seed."""
        if self.arrivals == "batch":
            jobs = min(jobs, _BATCH)
        rng = np.random.default_rng([seed, 0x776F])
        draw = parse_lengths(self.lengths).draw if isinstance(self.lengths, str) else self.lengths
        tokens = np.maximum(1, np.rint(draw(jobs, rng))).astype(int)
        rate = self.load / LinearHost().service.seconds(0, float(tokens.mean())) * self.slots
        arrival_s = self._arrival_s(rate, jobs, rng, seed)
        return Trace(
            index=range(jobs),
            arrival_s=arrival_s.tolist(),
            input_tokens=[0] * jobs,
            output_tokens=tokens.tolist(),
            predicted_tokens=predict_all(lognormal(self.sigma), tokens.tolist(), seed=seed),
        )

    def _arrival_s(self, rate: float, jobs: int, rng: np.random.Generator, seed: int) -> NDArray[np.float64]:
        if self.arrivals == "batch":
            return np.zeros(jobs)
        if self.arrivals == "swing":
            return self._swinging(rate, jobs, rng)
        kinds = {"poisson": Poisson(rate), "gamma": Gamma(rate, 3.0), "on-off": OnOff(rate)}
        return kinds[self.arrivals].times(jobs, seed)

    def _swinging(self, rate: float, jobs: int, rng: np.random.Generator) -> NDArray[np.float64]:
        now, times = 0.0, np.empty(jobs)
        for index, gap in enumerate(rng.exponential(1 / rate, jobs)):
            now += gap / (1 + 0.3 / self.load * np.sin(2 * np.pi * now / _SWING_S))
            times[index] = now
        return times


WORKLOADS = {
    "paper's lengths, 1 slot, .5": Workload("paper", 1, 0.5, "poisson", 0.8),
    "paper's lengths, 8 slots, .7": Workload("paper", 8, 0.7, "poisson", 0.8),
    "paper's lengths, 4 slots, .9, gamma": Workload("paper", 4, 0.9, "gamma", 0.8),
    "exponential, 1 slot, .8": Workload("exponential:180", 1, 0.8, "poisson", 0.8),
    "exponential, 4 slots, .9, σ .3": Workload("exponential:180", 4, 0.9, "poisson", 0.3),
    "log-normal CV 1, 8 slots, .8, gamma": Workload("lognormal:180:1", 8, 0.8, "gamma", 0.8),
    "log-normal CV 1, 16 slots, .8, on-off": Workload("lognormal:180:1", 16, 0.8, "on-off", 0.8),
    "log-normal CV 1, 4 slots, .8, swing": Workload("lognormal:180:1", 4, 0.8, "swing", 0.8),
    "log-normal CV 1, 32 slots, .8, swing": Workload("lognormal:180:1", 32, 0.8, "swing", 0.8),
    "log-normal CV 1, 1 slot, .9, σ 2": Workload("lognormal:180:1", 1, 0.9, "poisson", 2.0),
    "log-normal CV 2, 1 slot, .8": Workload("lognormal:180:2", 1, 0.8, "poisson", 0.8),
    "log-normal CV 2, 16 slots, .9": Workload("lognormal:180:2", 16, 0.9, "poisson", 0.8),
    "two kinds, 1 slot, .7, σ .3": Workload(two_kinds, 1, 0.7, "poisson", 0.3),
    "two kinds, 8 slots, .9": Workload(two_kinds, 8, 0.9, "poisson", 0.8),
    "uniform, 1 slot, .9, σ .3": Workload("uniform:100:300", 1, 0.9, "poisson", 0.3),
    "log-normal CV 1, 8 slots, a batch": Workload("lognormal:180:1", 8, 1.0, "batch", 0.8),
    "log-normal CV 1, 8 slots, a batch, σ 2": Workload("lognormal:180:1", 8, 1.0, "batch", 2.0),
    "Pareto 1.5, 4 slots, .8": Workload(pareto, 4, 0.8, "poisson", 0.8),
}


def measure(name: str, jobs: int, seed: int) -> dict[str, dict[str, float]]:
    """One seed of one workload under all rules."""
    workload = WORKLOADS[name]
    trace, host = workload.trace(jobs, seed), LinearHost(slots=workload.slots)
    fcfs = simulate(trace, FCFS(), host, label="fcfs")
    oracle = simulate(replace(trace, predicted_tokens=None), SSJF(), host, label="sjf")
    found = {}
    for spec in ("auto", *FIXED):
        table = simulate(trace, make_policy(spec), host, label=spec)
        found[spec] = {"share": oracle_share(table, fcfs, oracle) or 0.0} | {
            key: float(np.percentile(table.jct_s, level) / np.percentile(fcfs.jct_s, level))
            for key, level in (("p90", 90), ("p99", 99), ("max", 100))
        }
    return found


def main() -> None:
    """Run all workloads on all cores and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--jobs", type=int, default=20_000)
    parser.add_argument("--out", type=Path, default=Path("out/benchmarks/auto_workloads.json"))
    options = parser.parse_args()
    work = [(name, seed) for name in WORKLOADS for seed in range(options.seeds)]
    names, seeds = zip(*work, strict=True)
    with ProcessPoolExecutor(os.cpu_count()) as pool:
        results = list(track(pool.map(measure, names, repeat(options.jobs), seeds), total=len(work)))
    rows = []
    print(f"{'workload':40}{'auto':>6}{'p90':>7}{'p99':>7}{'max':>7}   best fixed rule within the limits")
    for name in WORKLOADS:
        of_name = [found for (other, _), found in zip(work, results, strict=True) if other == name]
        means = {
            spec: {key: float(np.mean([found[spec][key] for found in of_name])) for key in ("share", *LIMITS)}
            for spec in ("auto", *FIXED)
        }
        within = [spec for spec in FIXED if all(means[spec][key] <= limit for key, limit in LIMITS.items())]
        best = max(within, key=lambda spec: means[spec]["share"], default=None)
        auto = means["auto"]
        figures = "".join(f"{auto[key]:>7.2f}" for key in LIMITS)
        beside = (
            "none"
            if best is None
            else f"{best:22}{means[best]['share']:.3f}  {auto['share'] / means[best]['share']:.2f}"
        )
        print(f"{name:40}{auto['share']:>6.3f}{figures}   {beside}")
        rows.append({"workload": name, "best": best, "rules": means})
    options.out.parent.mkdir(parents=True, exist_ok=True)
    options.out.write_text(json.dumps(rows, indent=2) + "\n", encoding="utf-8")
    print(f"written: {options.out}")


if __name__ == "__main__":
    main()
