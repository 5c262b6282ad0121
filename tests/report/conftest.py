"""A small run of each of two policies."""

import numpy as np
import pytest

from ssjf.metrics.table import JobTable


def make_run(policy: str, count: int, *, seed: int = 0) -> JobTable:
    """Jobs that wait a little and are served for their length."""
    rng = np.random.default_rng(seed)
    tokens = rng.integers(2, 400, count)
    arrival = np.cumsum(rng.exponential(1.0, count))
    start = arrival + rng.exponential(3.0, count)
    return JobTable(
        policy=policy,
        seed=0,
        index=np.arange(count),
        arrival_s=arrival,
        start_s=start,
        first_token_s=start + 0.1,
        finish_s=start + 0.1 + 0.02 * tokens,
        input_tokens=np.full(count, 10),
        output_tokens=tokens,
        predicted_tokens=tokens * 1.5,
        status=["completed"] * count,
    )


@pytest.fixture
def runs() -> dict[str, JobTable]:
    return {"fcfs": make_run("fcfs", 40), "ssjf": make_run("ssjf", 40, seed=1)}
