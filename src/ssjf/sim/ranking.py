"""What a ranking of lengths buys: completion times with the shortest predicted first, against FCFS's."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from ssjf.core.policies import FCFS, SSJF
from ssjf.metrics.summary import gain, interval95, oracle_share
from ssjf.sim.host import LinearHost, Trace, simulate
from ssjf.workload.arrivals import Poisson


def ranking_gain(
    predicted: Sequence[float], truth: Sequence[int], *, load: float = 0.8, seeds: int = 5, num_jobs: int = 4000
) -> dict[str, Any]:
    """Simulate one slot in steady state, with jobs drawn from these lengths.

    Args:
        predicted: tokens; any numbers that rank will do.
        truth: output tokens, in the same order.
        load: of the slot.
        seeds: of draws and arrivals.
        num_jobs: for each seed.

    Returns:
        ``gain``: mean share by which the mean completion time falls; ``gain_interval``: half the width of its 95 %
        interval over seeds, None for one; ``oracle_share``: of the true lengths' gain, None where that is none.
    """
    host = LinearHost()
    gains, shares = [], []
    for seed in range(seeds):
        rows = np.random.default_rng([seed, 0x6576]).integers(0, len(truth), num_jobs)
        output_tokens = [truth[row] for row in rows]
        rate = load * host.saturated_requests_per_s([0] * num_jobs, output_tokens)
        trace = Trace(
            index=range(num_jobs),
            arrival_s=Poisson(rate).times(num_jobs, seed).tolist(),
            input_tokens=[0] * num_jobs,
            output_tokens=output_tokens,
            predicted_tokens=[predicted[row] for row in rows],
        )
        fcfs = simulate(trace, FCFS(), host, label="fcfs")
        ssjf = simulate(trace, SSJF(), host, label="ssjf")
        oracle = simulate(replace(trace, predicted_tokens=None), SSJF(), host, label="sjf")
        gains.append(gain(ssjf, fcfs) or 0.0)
        share = oracle_share(ssjf, fcfs, oracle)
        if share is not None:
            shares.append(share)
    mean, half = interval95(gains)
    return {
        "gain": mean,
        "gain_interval": half,
        "oracle_share": interval95(shares)[0] if shares else None,
    }
