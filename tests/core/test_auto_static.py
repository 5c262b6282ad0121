import math
import random
from collections.abc import Sequence

import pytest

from ssjf.core.places.capacity import Slots
from ssjf.core.policies import FCFS, SSJF, AutoStatic
from ssjf.core.replay import replay
from ssjf.core.scheduler import Scheduler
from ssjf.core.types import Job, Policy, Request
from tests.core.test_auto import HOSTILE, jcts, mean, percentile, workload


def good(rng: random.Random, service: float) -> float:
    return service * rng.lognormvariate(0, 0.6)


@pytest.mark.parametrize(("slots", "load"), [(1, 0.9), (8, 0.92)])
def test_the_static_form_takes_a_good_part_of_the_gain_at_a_small_price_for_the_tail(slots: int, load: float) -> None:
    shares, tails, worst = [], [], []
    for seed in range(3):
        jobs = workload(8000, load=load, slots=slots, seed=seed, distort=good)
        fcfs, auto = jcts(FCFS(), jobs, slots), jcts(AutoStatic(), jobs, slots)
        oracle = jcts(SSJF(), [(Job(job.request, service), service) for job, service in jobs], slots)
        shares.append((mean(fcfs) - mean(auto)) / (mean(fcfs) - mean(oracle)))
        tails.append(percentile(auto, 0.99) / percentile(fcfs, 0.99))
        worst.append(max(auto) / max(fcfs))
    assert mean(shares) > 0.4
    assert mean(tails) < 1.12  # it is not steered by the tail, as `auto` is
    assert mean(worst) < 1.2


@pytest.mark.parametrize("name", ["constant", "random", "reversed"])
@pytest.mark.parametrize("slots", [1, 8])
def test_after_300_completions_no_prediction_makes_the_static_form_worse_than_fcfs(name: str, slots: int) -> None:
    means, tails = [], []
    for seed in range(3):
        jobs = workload(6000, load=0.9, slots=slots, seed=seed, distort=HOSTILE[name])
        fcfs, auto = jcts(FCFS(), jobs, slots)[300:], jcts(AutoStatic(), jobs, slots)[300:]
        means.append(mean(auto) / mean(fcfs))
        tails.append(percentile(auto, 0.99) / percentile(fcfs, 0.99))
    assert mean(means) < 1.05
    assert mean(tails) < 1.05


def learned(seed: int) -> AutoStatic:
    scheduler = Scheduler(AutoStatic(), Slots(1))
    replay(workload(2000, load=0.9, slots=1, seed=seed, distort=good), scheduler)
    assert isinstance(scheduler.adaptive, AutoStatic)
    return scheduler.adaptive


def test_what_is_learned_never_moves_the_key_of_who_has_arrived() -> None:
    policy = AutoStatic()
    waiting: list[tuple[Job, float]] = []
    now = 0.0
    for job, service in workload(3000, load=0.9, slots=1, seed=1, distort=good):
        now = max(now, job.request.arrival_time) + service
        waiting.append((job, policy.key(job, job.request.arrival_time)))
        policy.started(job, now - service, 1)
        job.finished_at = now
        policy.finished(job, service)
        assert all(policy.key(old, now) == key for old, key in waiting[-200:])
    assert len({key - old.request.arrival_time for old, key in waiting}) > 1000


def test_equal_predictions_of_one_time_are_served_in_order_of_arrival_and_short_ones_first() -> None:
    policy = learned(seed=2)
    late = 1e6  # after all that it has learned

    def key(arrival: float, service: float) -> float:
        return policy.key(Job(Request(request_id="x", arrival_time=late + arrival), service), late)

    assert key(0.0, 2.0) < key(0.1, 2.0)
    assert key(0.1, 0.5) < key(0.0, 2.0)
    reach_s = policy.state()["reach_s"]
    assert key(0.0, 0.0) == pytest.approx(late - 2.352 * reach_s, abs=1e-3 * reach_s)
    assert math.isfinite(key(0.0, 1e12))


def test_predictions_that_are_all_too_long_by_one_factor_give_the_same_order() -> None:
    def order(policy: Policy, factor: float) -> Sequence[str]:
        jobs = workload(1500, load=0.95, slots=2, seed=4, distort=good)
        for job, _ in jobs:
            job.predicted_service_s *= factor
        return [job.request.request_id for job in replay(jobs, Scheduler(policy, Slots(2)))]

    assert order(AutoStatic(), 1.0) == order(AutoStatic(), 16.0)


def test_trust_and_reach_are_shown() -> None:
    state = learned(seed=3).state()
    assert state["trust"] == 1.0
    assert state["reach_s"] > 1.0
    assert state["concordance"] > 0.6
    assert AutoStatic().state()["reach_s"] == 0.0
