"""Priorities are ordered like (tier, key), stay apart and stay in range; policies that cannot be put so are refused."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ssjf.core.policies import EDF, FCFS, HRRN, PSJF, SSJF, AgedSSJF, Auto, AutoStatic, Boost
from ssjf.core.priority import NUM_TIERS, RESOLUTION_S, PriorityMap, sortable
from ssjf.core.types import Job, Policy, Request
from ssjf.errors import ConfigError
from ssjf.plugins import make_policy
from ssjf.testing import sample_jobs

EPOCH_S = 1.8e9  # a clock that counts from 1970

any_key = st.floats(allow_nan=False, allow_infinity=False)
any_tier = st.integers(-1_000_000, 1_000_000)
real_key = st.floats(-1e9, 3e9)
real_tier = st.integers(-NUM_TIERS, NUM_TIERS)


class _Given:
    """A policy whose key is in the job, whatever it may be."""

    static = True

    def key(self, job: Job, now: float) -> float:
        return job.predicted_service_s


def _priority(key: float, tier: int = 0, *, higher_first: bool = False) -> int:
    job = Job(Request(request_id="a", arrival_time=0.0, tier=tier), key)
    return PriorityMap(_Given(), higher_first).priority(job, 0.0)


@given(any_key, any_key, any_tier)
def test_a_larger_key_never_has_the_better_priority(one: float, other: float, tier: int) -> None:
    small, large = sorted((one, other))
    assert _priority(small, tier) <= _priority(large, tier)
    assert _priority(small, tier, higher_first=True) >= _priority(large, tier, higher_first=True)


@given(real_key, st.floats(1.01, 1e9), real_tier)
def test_keys_further_apart_than_the_resolution_differ(key: float, steps: float, tier: int) -> None:
    assert _priority(key, tier) < _priority(min(key + steps * RESOLUTION_S, 3.5e9), tier)


@given(any_key, any_key, real_tier, real_tier)
def test_tiers_never_overlap_whatever_the_keys(one: float, other: float, tier: int, other_tier: int) -> None:
    low, high = sorted((tier, other_tier))
    if low < high:
        assert _priority(one, low) < _priority(other, high)
        assert _priority(one, low, higher_first=True) > _priority(other, high, higher_first=True)


@given(any_key, any_tier, st.booleans())
def test_every_priority_passes_through_json_and_float64(key: float, tier: int, higher_first: bool) -> None:
    priority = _priority(key, tier, higher_first=higher_first)
    assert isinstance(priority, int)
    assert abs(priority) < 2**53
    assert int(float(priority)) == priority


@given(any_key, st.integers(0, 1_000_000))
def test_tiers_beyond_the_last_count_as_the_last(key: float, beyond: int) -> None:
    assert _priority(key, NUM_TIERS + beyond) == _priority(key, NUM_TIERS)
    assert _priority(key, -NUM_TIERS - beyond) == _priority(key, -NUM_TIERS)


def test_infinite_keys_stay_at_the_ends_of_their_tier() -> None:
    assert _priority(-math.inf) < _priority(-3e9) < _priority(3e9) < _priority(math.inf) < _priority(-math.inf, 1)


def test_no_deadline_comes_after_every_deadline_on_a_clock_that_counts_from_1970() -> None:
    def priority(deadline: float | None) -> int:
        request = Request(request_id="a", arrival_time=EPOCH_S, deadline=deadline)
        return PriorityMap(EDF()).priority(Job(request), EPOCH_S)

    assert priority(EPOCH_S + 1) < priority(EPOCH_S + 1.001) < priority(EPOCH_S + 3e8) < priority(None)


@pytest.mark.parametrize("name", ["fcfs", "ssjf", "aged-ssjf", "auto-static", "boost", "edf", "gittins"])
def test_priorities_order_jobs_as_the_policy_does(name: str) -> None:
    policy = sortable(make_policy(name))
    jobs = [job for job, _ in sample_jobs(300, seed=3)]
    to_priority = PriorityMap(policy).priority
    now = max(job.request.arrival_time for job in jobs)
    ranked = sorted(jobs, key=lambda job: (job.request.tier, policy.key(job, now)))
    priorities = [to_priority(job, now) for job in ranked]
    assert priorities == sorted(priorities)
    assert len(set(priorities)) > 100 or name == "fcfs"


@pytest.mark.parametrize("higher_first", [False, True])
@pytest.mark.parametrize("rate", [0.0, 0.05, 1.0, 1.96, 2.5, 100.0, 1e6, 1e12])
def test_ageing_of_any_rate_shows_on_a_clock_that_counts_from_1970(rate: float, higher_first: bool) -> None:
    policy = sortable(AgedSSJF(rate))
    to_priority = PriorityMap(policy, higher_first).priority
    arrivals = [EPOCH_S, EPOCH_S + 0.01, EPOCH_S + 1, EPOCH_S + 3600]
    jobs = [Job(Request(request_id="a", arrival_time=arrival), 0.1 * 2**n) for arrival in arrivals for n in range(12)]
    ranked = sorted(jobs, key=lambda job: policy.key(job, job.request.arrival_time))
    priorities = [to_priority(job, job.request.arrival_time) for job in ranked]
    assert priorities == sorted(priorities, reverse=higher_first)
    assert len(set(priorities)) >= (len(arrivals) if rate else 12)
    early, late = (to_priority(Job(Request(request_id="a", arrival_time=at), 1.0), at) for at in (EPOCH_S, EPOCH_S + 9))
    assert rate == 0 or (late < early) == higher_first


@pytest.mark.parametrize("policy", [AgedSSJF(1e300), Boost(1e-9)])
def test_a_policy_whose_keys_are_too_large_is_refused(policy: Policy) -> None:
    with pytest.raises(ConfigError, match="too large for priorities"):
        sortable(policy)


@pytest.mark.parametrize("policy", [FCFS(), SSJF(), AgedSSJF(), EDF(), AutoStatic()])
def test_a_policy_whose_key_is_enough_is_used_as_it_is(policy: Policy) -> None:
    assert sortable(policy) is policy


def test_auto_is_replaced_by_its_static_form_with_the_same_trust() -> None:
    used = sortable(Auto(full_trust=0.7))
    assert isinstance(used, AutoStatic)
    assert used.full_trust == 0.7


class _Limits(AutoStatic):
    limits_waits = True


@pytest.mark.parametrize(
    ("policy", "complaint"),
    [(HRRN(), "HRRN has keys that move"), (PSJF(), "PSJF takes slots"), (_Limits(), "_Limits limits waits")],
)
def test_a_policy_that_no_integer_can_stand_for_is_refused(policy: Policy, complaint: str) -> None:
    with pytest.raises(ConfigError, match=complaint):
        sortable(policy)
