"""Helpers for every test."""

import os
from collections.abc import Callable

# before numpy is first imported: threads for small matrices cost more than they bring, most of all on a busy machine
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

import hypothesis
import pytest

from ssjf.core.types import Job, Request

MakeJob = Callable[..., Job]


@pytest.fixture
def make_job() -> MakeJob:
    """A factory of jobs: ``make_job("a", arrival=1.0, service=2.0, tier=0)``."""

    def make(request_id: str, *, arrival: float = 0.0, service: float = 1.0, tier: int = 0) -> Job:
        return Job(Request(request_id=request_id, arrival_time=arrival, tier=tier), service)

    return make


# the same examples on every machine: a red test is red for everybody
hypothesis.settings.register_profile("deterministic", derandomize=True, deadline=None, print_blob=True)
hypothesis.settings.load_profile("deterministic")
