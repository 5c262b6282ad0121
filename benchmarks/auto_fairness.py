"""What `auto` and SSJF gain where fairness over tenants decides whose turn it is.

    python benchmarks/auto_fairness.py [--jobs 10000] [--load 0.87]

Log-normal lengths, Poisson arrivals, predictions with log-normal noise of σ = .6, two tenants. Everything is relative
to FCFS with the same weights on the same jobs: the mean, p99, and p99 of the tenant whose own rises most under `auto`.
"""

import argparse
import random
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ssjf.core.places.capacity import Slots
from ssjf.core.policies import FCFS, SSJF, Auto
from ssjf.core.replay import replay
from ssjf.core.scheduler import Scheduler
from ssjf.core.types import Job, Policy, Request

NOISE = 0.6


@dataclass(frozen=True, slots=True)
class Ask:
    """A request of the workload; times in seconds."""

    arrival_s: float
    service_s: float
    predicted_s: float
    tenant: str


def workload(num_jobs: int, *, load: float, slots: int, share: float) -> list[Ask]:
    """Requests of tenants a and b, of which a has that share."""
    rng, now = random.Random(1), 0.0
    mean_s = 0.1 + 0.02 * np.exp(5 + 0.8**2 / 2)
    asks = []
    for _ in range(num_jobs):
        now += rng.expovariate(load * slots / mean_s)
        service_s = 0.1 + 0.02 * rng.lognormvariate(5, 0.8)
        tenant = "a" if rng.random() < share else "b"
        asks.append(Ask(now, service_s, service_s * rng.lognormvariate(0, NOISE), tenant))
    return asks


def jcts(policy: Policy, asks: Sequence[Ask], slots: int, weights: dict[str, float] | None) -> NDArray[np.float64]:
    """Completion times in the order of arrival."""
    timeline = [
        (Job(Request(request_id=str(i), arrival_time=a.arrival_s, tenant=a.tenant), a.predicted_s), a.service_s)
        for i, a in enumerate(asks)
    ]
    replay(timeline, Scheduler(policy, Slots(slots), tenant_weights=weights))
    return np.array([(job.finished_at or 0.0) - job.request.arrival_time for job, _ in timeline])


def main() -> None:
    """Print a line for each case."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--jobs", type=int, default=10_000)
    parser.add_argument("--load", type=float, default=0.87)
    arguments = parser.parse_args()
    print("slots  share of a  weight of b  gain: ssjf   auto    p99   p99 of a tenant")
    for slots in (1, 8):
        for share, weight in ((0.8, None), (0.8, 1.0), (0.8, 3.0), (0.5, 1.0), (0.5, 3.0)):
            asks = workload(arguments.jobs, load=arguments.load, slots=slots, share=share)
            weights = None if weight is None else {"b": weight}
            fcfs, ssjf, auto = (jcts(policy, asks, slots, weights) for policy in (FCFS(), SSJF(), Auto()))
            tenants = np.array([ask.tenant for ask in asks])
            p99 = np.quantile(auto, 0.99) / np.quantile(fcfs, 0.99)
            worst = max(
                np.quantile(auto[tenants == t], 0.99) / np.quantile(fcfs[tenants == t], 0.99) for t in ("a", "b")
            )
            gains = [1 - found.mean() / fcfs.mean() for found in (ssjf, auto)]
            told = "not fair" if weight is None else f"{weight:g}"
            print(f"{slots:5}  {share:10}  {told:>11}  {gains[0]:10.1%} {gains[1]:6.1%}  {p99:5.2f}  {worst:5.2f}")


if __name__ == "__main__":
    main()
