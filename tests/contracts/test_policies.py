"""Every policy that an entry point names keeps the contract, and the contract notices those who break it."""

import itertools
from unittest.mock import Mock

import pytest

from ssjf.core.types import Job
from ssjf.errors import PluginError
from ssjf.plugins import POLICIES, make_policy, names
from ssjf.testing import check_policy


@pytest.mark.parametrize("name", names(POLICIES))
def test_every_installed_policy_keeps_the_contract(name: str) -> None:
    check_policy(make_policy(name))


def test_half_an_adaptive_policy_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    class Half(_Breaks):
        def wait_limit_s(self, oldest: Job, now: float) -> float:
            return 0.0

    monkeypatch.setattr("ssjf.plugins.find", Mock(return_value=Half))
    with pytest.raises(PluginError, match="lacks other methods"):
        make_policy("half")


def test_our_policies_are_found_through_entry_points() -> None:
    assert {"fcfs", "ssjf", "aged-ssjf", "auto", "gittins", "psjf", "edf"} <= set(names(POLICIES))


class _Breaks:
    static = True
    calls = itertools.count()

    def key(self, job: Job, now: float) -> float:
        raise NotImplementedError


class _Moves(_Breaks):
    def key(self, job: Job, now: float) -> float:
        return now - job.request.arrival_time


class _Infinite(_Breaks):
    def key(self, job: Job, now: float) -> float:
        return float("inf") if job.request.deadline is None else job.request.deadline


class _Whimsical(_Breaks):
    static = False

    def key(self, job: Job, now: float) -> float:
        return float(next(self.calls))


class _Meddles(_Breaks):
    def key(self, job: Job, now: float) -> float:
        job.predicted_service_s += 1
        return 0.0


class _Texts(_Breaks):
    def key(self, job: Job, now: float) -> float:
        return job.request.request_id  # type: ignore[return-value]


class _Unsure(_Breaks):
    static = None  # type: ignore[assignment]


class _Falls(_Breaks):
    """Gets worse as it runs, and says nothing of it."""

    preemptive = True

    def key(self, job: Job, now: float) -> float:
        return job.attained_s


class _Fidgets(_Falls):
    def look_again_s(self, job: Job) -> float:
        return 0.0


@pytest.mark.parametrize(
    ("policy", "complaint"),
    [
        (_Moves(), "says it is static"),
        (_Infinite(), "is inf"),
        (_Whimsical(), "two answers"),
        (_Meddles(), "gives|moved|changed"),
        (_Texts(), "must return a number"),
        (_Unsure(), "must be True or False"),
        (_Falls(), "gets worse before"),
        (_Fidgets(), "without end"),
    ],
    ids=lambda value: type(value).__name__,
)
def test_the_contract_notices_a_policy_that_breaks_it(policy: _Breaks, complaint: str) -> None:
    with pytest.raises(AssertionError, match=complaint):
        check_policy(policy)
