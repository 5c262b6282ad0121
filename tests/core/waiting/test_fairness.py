"""Fairness over tenants: bounded differences, nobody starved, no work held back."""

import random
from collections import defaultdict

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ssjf.core.places.capacity import Slots
from ssjf.core.policies import FCFS, HRRN, PSJF, SSJF, AgedSSJF, Auto
from ssjf.core.replay import replay
from ssjf.core.scheduler import Scheduler
from ssjf.core.types import Job, Policy, Request
from ssjf.core.waiting.fairness import FairQueue, TenantCounters
from tests.conftest import MakeJob


def job(name: str, tenant: str, *, arrival: float = 0.0, service: float = 1.0, tier: int = 0) -> Job:
    return Job(Request(request_id=name, arrival_time=arrival, tenant=tenant, tier=tier), service)


def fair(policy: Policy, slots: int = 1, max_wait_s: float | None = None, **weights: float) -> Scheduler:
    return Scheduler(policy, Slots(slots), max_wait_s=max_wait_s, tenant_weights=weights)


@given(
    st.lists(st.tuples(st.sampled_from("ab"), st.floats(0.1, 5)), min_size=20, max_size=60),
    st.integers(1, 4),
    st.sampled_from([(1.0, 1.0), (2.0, 1.0), (0.5, 3.0)]),
    st.sampled_from([FCFS(), SSJF(), AgedSSJF(0.1), HRRN(), Auto()]),
)
def test_two_tenants_that_wait_are_given_service_by_their_weights_up_to_two_jobs(
    jobs: list[tuple[str, float]], slots: int, weights: tuple[float, float], policy: Policy
) -> None:
    scheduler = fair(policy, slots, a=weights[0], b=weights[1])
    requests = [job(str(i), tenant, service=service) for i, (tenant, service) in enumerate(jobs)]
    left = {tenant: sum(tenant == other for other, _ in jobs) for tenant in "ab"}
    given_s: dict[str, float] = {"a": 0.0, "b": 0.0}
    bound = 2 * max(service for _, service in jobs) / min(weights)
    for started in replay([(one, one.predicted_service_s) for one in requests], scheduler):
        if min(left.values()) > 0:  # both waited when it was chosen
            tenant = started.request.tenant
            given_s[tenant] += started.predicted_service_s / dict(zip("ab", weights, strict=True))[tenant]
            assert abs(given_s["a"] - given_s["b"]) <= bound + 1e-9
        left[started.request.tenant] -= 1


def test_a_flood_of_one_tenant_does_not_starve_another() -> None:
    flood = [job(f"f{i}", "flood", arrival=0.001 * i, service=0.1) for i in range(500)]
    timeline = sorted([*flood, job("long", "quiet", arrival=1.0, service=5.0)], key=lambda j: j.request.arrival_time)
    served = replay([(one, one.predicted_service_s) for one in timeline], fair(SSJF()))
    assert next(i for i, one in enumerate(served) if one.request.request_id == "long") < 20


def test_who_comes_back_after_a_pause_has_saved_nothing_up() -> None:
    early = [job(f"a{i}", "a") for i in range(50)]
    late = [job(f"{t}{i}", t, arrival=20.5) for t in ("b",) for i in range(20)]
    served = replay([(one, 1.0) for one in [*early, *late]], fair(FCFS()))
    after = [one.request.tenant for one in served if (one.started_at or 0) >= 21][:20]
    assert after.count("b") == pytest.approx(10, abs=1)


def test_service_that_was_predicted_wrongly_is_charged_as_it_was() -> None:
    jobs = [job(f"a{i}", "a", service=1.0) for i in range(40)] + [job(f"b{i}", "b", service=1.0) for i in range(40)]
    truth = {"a": 3.0, "b": 1.0}
    served = replay([(one, truth[one.request.tenant]) for one in jobs], fair(FCFS()))
    given_s: dict[str, float] = defaultdict(float)
    for one in served[:40]:
        given_s[one.request.tenant] += truth[one.request.tenant]
    assert abs(given_s["a"] - given_s["b"]) <= 2 * 3.0


def test_work_is_never_held_back_and_everybody_is_served_once() -> None:
    rng = random.Random(1)
    jobs = [
        job(str(i), rng.choice("abc"), arrival=0.3 * i, service=rng.expovariate(1.0), tier=rng.randrange(2))
        for i in range(300)
    ]
    served = replay([(one, one.predicted_service_s) for one in jobs], fair(SSJF(), slots=2, a=5.0))
    assert sorted(int(one.request.request_id) for one in served) == list(range(300))


def test_a_better_tier_goes_before_fairness_and_the_wait_bound_before_both() -> None:
    scheduler = fair(FCFS(), max_wait_s=10)
    for one in (job("old", "a", tier=1), job("new", "a", arrival=5, tier=0), job("other", "b", arrival=6, tier=1)):
        scheduler.add(one, one.request.arrival_time)
    assert [one.request.request_id for one in scheduler.admit(6)] == ["new"]
    scheduler.finish("new", 10)
    assert [one.request.request_id for one in scheduler.admit(10)] == ["old"]


def test_one_tenant_alone_is_served_in_the_policys_order() -> None:
    rng = random.Random(2)
    jobs = [job(str(i), "a", arrival=0.2 * i, service=rng.expovariate(1.0)) for i in range(200)]

    def order(scheduler: Scheduler) -> list[str]:
        fresh = [(Job(one.request, one.predicted_service_s), one.predicted_service_s) for one in jobs]
        return [one.request.request_id for one in replay(fresh, scheduler)]

    assert order(fair(SSJF())) == order(Scheduler(SSJF(), Slots(1)))


def test_who_lost_a_place_is_charged_once() -> None:
    counters = TenantCounters({})
    one = job("x", "a", service=4.0)
    counters.started(one)
    counters.returned(one)
    counters.started(one)
    counters.ended(one, 6.0)
    assert counters.of("a") == 6.0


def test_a_preempted_job_waits_again_in_its_tenants_queue() -> None:
    scheduler = fair(FCFS())
    scheduler.add(job("x", "a"), 0)
    scheduler.admit(0)
    scheduler.preempt("x", 1)
    assert "x" in scheduler.waiting
    assert [one.request.request_id for one in scheduler.admit(2)] == ["x"]
    assert scheduler.finish("x", 3).finished_at == 3


def test_many_tenants_that_pause_are_forgotten() -> None:
    counters = TenantCounters({})
    for number in range(10_000):
        counters.begin(str(number), [])
        counters.started(job("x", str(number)))
    assert len(counters._given) < 5000
    assert counters.of("9999") > 0


def test_the_queue_tells_what_waits(make_job: MakeJob) -> None:
    queue = FairQueue(SSJF(), TenantCounters({}), max_wait_s=100)
    assert queue.peek(0) is None
    queue.push(make_job("x", service=2), 0)
    queue.push(make_job("y", arrival=1, service=1), 1)
    assert (len(queue), "x" in queue, queue.oldest_arrival()) == (2, True, 0)
    assert [one.request.request_id for one in queue.in_order(1)] == ["y", "x"]
    queue.remove("x")
    assert queue.remove("x") is None
    assert [queue.pop(1).request.request_id, len(queue)] == ["y", 0]


@pytest.mark.parametrize("weight", [0.0, -1.0, float("nan"), float("inf")])
def test_a_weight_must_be_positive(weight: float) -> None:
    with pytest.raises(ValueError, match="weight of tenant 'a'"):
        TenantCounters({"a": weight})


def test_a_policy_that_preempts_is_refused() -> None:
    with pytest.raises(ValueError, match="preempts"):
        Scheduler(PSJF(), Slots(1), tenant_weights={})


def test_a_changed_prediction_changes_no_turn() -> None:
    scheduler = fair(SSJF(), max_wait_s=1000)
    for i in range(3):
        scheduler.add(job(f"flood{i}", tenant="flood"), 0.0)
    scheduler.add(job("other", tenant="other"), 0.0)
    (first,) = scheduler.admit(0.0)
    other = "other" if first.request.tenant == "flood" else "flood0"
    assert scheduler.reprioritize(other, 0.0)
    assert not scheduler.reprioritize("nobody", 0.0)
    scheduler.finish(first.request.request_id, 5.0)
    assert scheduler.reprioritize(other, 5.0)
    (second,) = scheduler.admit(5.0)
    assert second.request.tenant != first.request.tenant


def test_auto_keeps_its_limits_within_each_tenant() -> None:
    rng = random.Random(1)
    now, requests = 0.0, []
    for number in range(3000):
        now += rng.expovariate(0.9)
        true = rng.expovariate(1.0)
        # reversed predictions: trust goes, and with it every change to the order of arrival
        one = job(str(number), rng.choice("ab"), arrival=now, service=5 - min(true, 4.9))
        requests.append((one, true))
    auto, fcfs = fair(Auto()), fair(FCFS())
    served = replay(requests, auto)
    assert auto.adaptive is not None
    assert auto.adaptive.state()["trust"] == 0.0
    assert auto.adaptive.state()["fcfs_p99_jct_s"] > 0  # the shadow serves what has left
    waits = [(one.started_at or 0) - one.request.arrival_time for one in served]
    copies = [(job(o.request.request_id, o.request.tenant, arrival=o.request.arrival_time), t) for o, t in requests]
    fcfs_waits = [(one.started_at or 0) - one.request.arrival_time for one in replay(copies, fcfs)]
    assert sum(waits) < 1.1 * sum(fcfs_waits)
    assert max(waits) < 1.2 * max(fcfs_waits)


@pytest.mark.parametrize("weight", [1.0, 3.0])
def test_auto_has_its_gain_within_fairness_and_keeps_the_tail_that_fairness_makes(weight: float) -> None:
    rng, now, jobs = random.Random(1), 0.0, []
    for number in range(8000):
        service = rng.lognormvariate(0.7, 0.8)
        now += rng.expovariate(0.87 / 2.77)
        jobs.append((str(number), now, rng.choices("ab", (4, 1))[0], service, service * rng.lognormvariate(0, 0.6)))

    def jcts(policy: Policy) -> list[float]:
        timeline = [(job(name, tenant, arrival=at, service=predicted), s) for name, at, tenant, s, predicted in jobs]
        replay(timeline, fair(policy, b=weight))
        return sorted((one.finished_at or 0.0) - one.request.arrival_time for one, _ in timeline)

    fcfs, auto, ssjf = jcts(FCFS()), jcts(Auto()), jcts(SSJF())
    gain, most = sum(fcfs) - sum(auto), sum(fcfs) - sum(ssjf)
    assert gain > 0.3 * most
    assert auto[-80] < 1.05 * fcfs[-80]
