"""Checks that any policy must pass, ours and a stranger's: call `check_policy` from your own tests.

    from ssjf.testing import check_policy

    def test_my_policy() -> None:
        check_policy(MyPolicy())

The checks draw their jobs from a fixed seed: the same policy passes or fails everywhere.
"""

import copy
import math
import random

from ssjf.core.places.capacity import Slots
from ssjf.core.replay import replay
from ssjf.core.scheduler import Scheduler
from ssjf.core.service import LinearServiceModel
from ssjf.core.types import AdaptivePolicy, Job, Policy, Prediction, Request

_SERVICE = LinearServiceModel()


def sample_jobs(count: int, seed: int) -> list[tuple[Job, float]]:
    """Jobs with ties, bursts, extreme sizes, tiers, tenants and deadlines, with a true service time for each.

    Args:
        count: how many.
        seed: of the draw.

    Returns:
        (job, true service seconds) in order of arrival.
    """
    rng = random.Random(seed)  # noqa: S311 - test data
    now, jobs = 0.0, []
    for index in range(count):
        now += rng.choice([0.0, 0.0, 0.25, rng.expovariate(1.0), 20.0 * (rng.random() < 0.05)])
        tokens = rng.choice([1.0, 8.0, float(rng.randint(1, 2000)), rng.lognormvariate(5, 1)])
        request = Request(
            request_id=f"job-{index}",
            num_prompt_tokens=rng.choice([0, 1, rng.randint(1, 8000)]),
            max_tokens=rng.choice([1, 256, 4096]),
            arrival_time=now,
            tenant=rng.choice(["", "a", "b"]),
            tier=rng.choice([0, 0, 0, 1, 5]),
            deadline=rng.choice([None, now + rng.uniform(0.1, 60)]),
        )
        spread = ((0.1, tokens / 2), (0.5, tokens), (0.9, 3 * tokens))
        prediction = rng.choice([None, Prediction(tokens), Prediction(tokens, spread, "sample@1")])
        job = Job(request, _SERVICE.seconds(0, tokens), prediction)
        if prediction is not None:
            job.service_quantiles = tuple((level, _SERVICE.seconds(0, at)) for level, at in prediction.quantiles)
        jobs.append((job, rng.choice([job.predicted_service_s, _SERVICE.seconds(0, rng.randint(1, 2000))])))
    return jobs


def check_policy(policy: Policy) -> None:
    """Hold a policy against what every host relies on.

    Raises:
        AssertionError: saying which promise is broken and for which job.
    """
    name = type(policy).__name__
    assert isinstance(policy.static, bool), f"{name}.static must be True or False, not {policy.static!r}"
    for job, _ in sample_jobs(200, seed=1):
        _check_key(policy, name, job)
        for share in (0.01, 0.5, 1.0, 1.5, 3.0, 40.0):  # it has run, as predicted and beyond
            job.attained_s = share * job.predicted_service_s
            _check_key(policy, name, job)
            _check_running(policy, name, job)
    for slots in (1, 4):
        _check_order_of_service(policy, name, slots)


def _check_key(policy: Policy, name: str, job: Job) -> None:
    before = {slot: copy.copy(getattr(job, slot)) for slot in Job.__slots__}
    arrival = job.request.arrival_time
    first = policy.key(job, arrival)
    assert isinstance(first, (int, float)), f"{name}.key must return a number, not {first!r}"
    for now in (arrival, arrival + 0.001, arrival + 10.0, arrival + 1e6):
        key = policy.key(job, now)
        assert math.isfinite(key), f"{name}.key is {key} for {job} at {now}"
        assert key == policy.key(job, now), f"{name}.key gives two answers to one question: {job} at {now}"
        if policy.static:
            assert key == first, f"{name} says it is static, but its key moved for {job} at {now}"
    after = {slot: getattr(job, slot) for slot in Job.__slots__}
    assert before == after, f"{name}.key changed the job it was asked about: {before} -> {after}"


def _check_running(policy: Policy, name: str, job: Job) -> None:
    """Where service makes the key worse, the policy says when to look again."""
    if not getattr(policy, "preemptive", False):
        return
    now = job.request.arrival_time + 1e6
    look_again_s = getattr(policy, "look_again_s", lambda _: math.inf)(job)
    assert look_again_s > 0, f"{name}.look_again_s is {look_again_s} for {job}: the host would look without end"

    def key_after(served_s: float) -> float:
        further = copy.copy(job)
        further.attained_s += served_s
        return policy.key(further, now)

    until_s, worst = 10 * job.predicted_service_s, key_after(0.0)
    if look_again_s < math.inf:
        until_s, worst = look_again_s, max(worst, key_after(look_again_s))
    for share in (0.1, 0.5, 0.9):
        key = key_after(share * until_s)
        assert key <= worst or math.isclose(key, worst), f"{name}.key gets worse before look_again_s: {key} for {job}"


def _check_order_of_service(policy: Policy, name: str, slots: int) -> None:
    jobs = sample_jobs(300, seed=2)
    scheduler = Scheduler(policy, Slots(slots))
    if scheduler.preemptive:
        finished = replay(jobs, scheduler)
        assert len(finished) == len(jobs), f"{name} lost a job"
        assert all(job.finished_at is not None for job in finished), f"{name} left a job unfinished"
        jobs, scheduler.preemptive = sample_jobs(300, seed=2), False  # and the order in which jobs wait
    served = replay(jobs, scheduler)
    policy = scheduler.adaptive or policy  # that which has learned
    assert sorted(id(job) for job in served) == sorted(id(job) for job, _ in jobs), f"{name} lost or repeated a job"
    for position, job in enumerate(served):
        now = job.started_at
        assert now is not None
        rank = _rank(policy, job, now)
        present = [other for other in served[position + 1 :] if other.request.arrival_time <= now]
        if isinstance(policy, AdaptivePolicy) and all(_age(job) < _age(other) for other in present):
            continue  # the oldest of the best tier may go first
        for other in present:
            assert rank < _rank(policy, other, now), (
                f"{name}: {job.request.request_id} was served before {other.request.request_id} at {now}, "
                "against the order of their keys"
            )


def _age(job: Job) -> tuple[int, float, int]:
    return job.request.tier, job.request.arrival_time, job.sequence


def _rank(policy: Policy, job: Job, now: float) -> tuple[int, float, float, int]:
    return job.request.tier, policy.key(job, now), job.request.arrival_time, job.sequence
