"""Policies in virtual time against what theory says of them: order, optimality, and who may overtake whom."""

import itertools
import math
import random
from collections.abc import Sequence
from functools import cache

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.integrate import quad
from scipy.stats import t as student_t

from ssjf.core.gittins import PreemptiveGittins
from ssjf.core.places.capacity import Slots
from ssjf.core.policies import (
    EDF,
    FCFS,
    HRRN,
    PSJF,
    SRPT,
    SSJF,
    AgedSSJF,
    Auto,
    AutoStatic,
    Boost,
    PreemptiveEDF,
    SRPTBounce,
)
from ssjf.core.replay import replay
from ssjf.core.scheduler import Scheduler
from ssjf.core.types import Job, Policy, Request

Work = tuple[float, float, float]  # arrival, predicted service, true service


def serve(works: Sequence[Work], policy: Policy, *, slots: int = 1) -> tuple[list[Job], Scheduler]:
    """Jobs in the order of `works`, after all are served."""
    jobs = [
        (Job(Request(request_id=str(i), arrival_time=arrival), predicted), true)
        for i, (arrival, predicted, true) in enumerate(works)
    ]
    scheduler = Scheduler(policy, Slots(slots))
    replay(jobs, scheduler)
    return [job for job, _ in jobs], scheduler


def started(job: Job) -> float:
    assert job.started_at is not None
    return job.started_at


def jct(job: Job) -> float:
    assert job.finished_at is not None
    return job.finished_at - job.request.arrival_time


def below(values: Sequence[float], limit: float) -> bool:
    """Whether the mean lies below the limit by more than its one-sided 99 % interval."""
    half_width = student_t.ppf(0.99, len(values) - 1) * np.std(values, ddof=1) / math.sqrt(len(values))
    return bool(np.mean(values) + half_width < limit)


works_of = st.lists(st.tuples(st.floats(0, 8), st.floats(0.01, 20), st.floats(0.01, 20)), min_size=2, max_size=60).map(
    # gaps, not instants
    lambda works: [
        (sum(gap for gap, *_ in works[: i + 1]), predicted, true) for i, (_, predicted, true) in enumerate(works)
    ]
)


# -- HRRN --------------------------------------------------------------------------------------------------------------


@given(works=works_of)
@settings(max_examples=50)
def test_hrrn_serves_whoever_has_the_highest_response_ratio_by_hand(works: list[Work]) -> None:
    now, order, left = 0.0, [], dict(enumerate(works))
    while left:
        present = [i for i, (arrival, *_) in left.items() if arrival <= now]
        if not present:
            now = min(arrival for arrival, *_ in left.values())
            continue
        # waiting over service plus one; ties to the earlier arrival
        chosen = max(present, key=lambda i: ((now - left[i][0]) / left[i][1] + 1, -left[i][0], -i))
        order.append(chosen)
        now += left.pop(chosen)[2]
    jobs, _ = serve(works, HRRN())
    assert sorted(range(len(works)), key=lambda i: started(jobs[i])) == order


# -- earliest deadline first -------------------------------------------------------------------------------------------

Task = tuple[int, int, int]  # release, processing, deadline


def can_meet_all(tasks: Sequence[Task]) -> bool:
    """By trying every preemptive schedule of one server in whole time units."""

    @cache
    def possible(now: int, left: tuple[int, ...]) -> bool:
        if not any(left):
            return True
        if any(now + units > deadline for units, (_, _, deadline) in zip(left, tasks, strict=True) if units):
            return False
        ready = [i for i, units in enumerate(left) if units and tasks[i][0] <= now]
        if not ready:
            return possible(now + 1, left)
        return any(possible(now + 1, (*left[:i], left[i] - 1, *left[i + 1 :])) for i in ready)

    return possible(0, tuple(processing for _, processing, _ in tasks))


def lateness(tasks: Sequence[tuple[float, float, float | None]], policy: Policy) -> float:
    """The largest of finish − deadline."""
    jobs = [
        (Job(Request(request_id=str(i), arrival_time=float(release), deadline=deadline), 1.0), float(processing))
        for i, (release, processing, deadline) in sorted(enumerate(tasks), key=lambda pair: pair[1][0])
    ]
    replay(jobs, Scheduler(policy, Slots(1)))
    assert all(job.finished_at is not None for job, _ in jobs)
    return max(
        (job.finished_at or math.inf) - job.request.deadline for job, _ in jobs if job.request.deadline is not None
    )


tasks_of = st.lists(
    st.tuples(st.integers(0, 6), st.integers(1, 3), st.integers(0, 5)).map(lambda t: (t[0], t[1], t[0] + t[1] + t[2])),
    min_size=1,
    max_size=4,
)


@given(tasks=tasks_of)
@settings(max_examples=300, deadline=None)
def test_edf_with_preemption_meets_all_deadlines_exactly_when_some_schedule_does(tasks: list[Task]) -> None:
    assert (lateness(tasks, PreemptiveEDF()) <= 0) == can_meet_all(tasks)


def test_without_preemption_edf_may_miss_a_deadline_that_preemption_meets() -> None:
    tasks = [(0.0, 8.0, 20.0), (1.0, 1.0, 2.0)]
    assert lateness(tasks, PreemptiveEDF()) == 0
    assert lateness(tasks, EDF()) == 7


@pytest.mark.parametrize("seed", range(20))
def test_edf_with_preemption_meets_the_deadlines_that_a_schedule_was_made_for(seed: int) -> None:
    rng = random.Random(seed)
    now = 0.0
    tasks: dict[int, tuple[float, float, float]] = {}
    for index in range(200):  # a schedule without reserve: a task is wanted when its last slice ends
        task, length, gap = index // 5 + rng.randrange(4), rng.randint(1, 16) / 8, rng.choice([0, 0, 0, 2]) / 8
        release, processing, _ = tasks.get(task, (now, 0.0, 0.0))
        tasks[task] = (release, processing + length, now + length)
        now += length + gap
    background: list[tuple[float, float, float | None]] = [(rng.randrange(100) / 8, 2.0, None) for _ in range(5)]
    assert lateness([*tasks.values(), *background], PreemptiveEDF()) <= 0


# -- predictions that are too short ------------------------------------------------------------------------------------


def test_a_job_predicted_too_short_blocks_everybody_under_srpt_and_nobody_with_bounce() -> None:
    giant = (0.0, 1.0, 1000.0)
    small = [(2.0 + 2 * i, 0.5, 0.5) for i in range(100)]

    def mean_of_small(policy: Policy) -> float:
        jobs, _ = serve([giant, *small], policy)
        return sum(map(jct, jobs[1:])) / len(small)

    assert mean_of_small(SRPT()) > 850
    assert mean_of_small(PSJF()) == 0.5
    assert mean_of_small(SRPTBounce()) == pytest.approx(0.5, abs=0.01)
    assert mean_of_small(PreemptiveGittins()) == 0.5


@pytest.mark.parametrize("arrival", [1.25, 2.0, 2.5])
def test_the_bounced_job_loses_its_place_at_the_moment_its_key_passes_that_of_who_waits(arrival: float) -> None:
    # between 2 − .75 s and 2 + .75 s of service it is nearer to its prediction than .75
    jobs, _ = serve([(0.0, 2.0, 9.0), (arrival, 0.75, 1.0)], SRPTBounce())
    assert jobs[1].started_at == pytest.approx(2.75, abs=2 / 64)
    assert jobs[1].finished_at == pytest.approx(3.75, abs=2 / 64)
    assert jobs[0].finished_at == 10.0


@pytest.mark.parametrize("factor", [1.0, 0.25])
def test_with_bounce_srpt_is_srpt_for_exact_predictions_and_near_it_for_ones_that_are_too_short(factor: float) -> None:
    ratios, naive = [], []
    for seed in range(8):
        rng = np.random.default_rng(seed)
        arrivals = np.cumsum(rng.exponential(1 / 0.8, 4000)).tolist()
        true = rng.lognormal(-0.72, 1.2, 4000).tolist()  # mean 1
        wrong = (rng.random(4000) < 0.2).tolist()
        works = [(a, s * (factor if w else 1.0), s) for a, s, w in zip(arrivals, true, wrong, strict=True)]
        best = math.fsum(map(jct, serve([(a, s, s) for a, _, s in works], SRPT())[0]))
        ratios.append(math.fsum(map(jct, serve(works, SRPTBounce())[0])) / best)
        naive.append(math.fsum(map(jct, serve(works, SRPT())[0])) / best)
    if factor == 1.0:
        assert ratios == naive == [1.0] * 8
    else:
        assert below([bounced - blind for bounced, blind in zip(ratios, naive, strict=True)], 0)
        assert below(ratios, 1.2)


# -- distributions -----------------------------------------------------------------------------------------------------


def test_gittins_beats_ssjf_where_only_the_distribution_is_known() -> None:
    # 1 s for nine of ten, 20 s for the tenth, and nothing tells them apart: SSJF is FCFS, Gittins sorts them out
    quantiles = ((1e-9, 1.0), (0.9, 1.0), (0.9 + 1e-9, 20.0), (1.0, 20.0))
    ratios = []
    for seed in range(8):
        rng = np.random.default_rng(seed)
        arrivals = np.cumsum(rng.exponential(2.9 / 0.8, 4000)).tolist()
        true = np.where(rng.random(4000) < 0.9, 1.0, 20.0).tolist()
        totals = []
        for policy in (SSJF(), PreemptiveGittins()):
            jobs = [
                (Job(Request(request_id=str(i), arrival_time=a), 2.9), s)
                for i, (a, s) in enumerate(zip(arrivals, true, strict=True))
            ]
            for job, _ in jobs:
                job.service_quantiles = quantiles
            replay(jobs, Scheduler(policy, Slots(1)))
            totals.append(math.fsum(jct(job) for job, _ in jobs))
        ratios.append(totals[1] / totals[0])
    assert below(ratios, 0.4)


# -- tails -------------------------------------------------------------------------------------------------------------


def test_boost_lowers_the_tail_of_fcfs_in_mm1_by_the_factor_that_theory_gives() -> None:
    load = 0.6
    gamma = 1 - load  # the decay rate of FCFS's completion times is the difference of the rates
    ratios: dict[float, list[float]] = {99: [], 99.9: []}
    for seed in range(10):
        rng = np.random.default_rng(seed)
        arrivals = np.cumsum(rng.exponential(1 / load, 30_000)).tolist()
        true = rng.exponential(1.0, 30_000).tolist()
        works = [(a, s, s) for a, s in zip(arrivals, true, strict=True)]
        boosted, fcfs = ([jct(job) for job in serve(works, policy)[0]] for policy in (Boost(gamma=gamma), FCFS()))
        for level, found in ratios.items():
            found.append(float(np.percentile(boosted, level) / np.percentile(fcfs, level)))
    # P(T > t) tends to C·exp(−γt). Boosts multiply FCFS's C by E[exp(γ(S − b(S)))] / E[exp(γS)], for what is measured
    # from the boosted arrival, and by exp(load·E[b(S)(exp(γS) − 1)]), for the work that is brought forward.
    boost, _ = quad(lambda s: -math.log(-math.expm1(-gamma * s)) / gamma * math.expm1(gamma * s) * math.exp(-s), 0, 99)
    factor = gamma * math.exp(load * boost)  # E[exp(γS) − 1] = γ / load, and E[exp(γS)] = 1 / load
    for level, found in ratios.items():
        assert below(found, 1)
        expected = 1 + math.log(factor) / math.log(100 / (100 - level))
        assert np.mean(found) == pytest.approx(expected, abs=0.012)
        assert expected < 0.98


# -- guarantees --------------------------------------------------------------------------------------------------------


@given(works=works_of, rate=st.sampled_from([0.05, 0.5, 3.0]), slots=st.integers(1, 3))
def test_ageing_lets_nobody_be_overtaken_by_work_that_comes_later_than_the_difference_of_sizes_over_the_rate(
    works: list[Work], rate: float, slots: int
) -> None:
    jobs, _ = serve(works, AgedSSJF(rate=rate), slots=slots)
    for early, late in itertools.combinations(jobs, 2):
        if started(late) < started(early):
            difference = early.predicted_service_s - late.predicted_service_s
            assert late.request.arrival_time - early.request.arrival_time <= difference / rate + 1e-9


class WatchedAuto(Auto):
    """Notes for how long it let each job that was the oldest be overtaken."""

    limits: dict[int, float]

    def wait_limit_s(self, oldest: Job, now: float) -> float:
        limit_s = super().wait_limit_s(oldest, now)
        if now - oldest.request.arrival_time < limit_s:
            self.limits = getattr(self, "limits", {})
            self.limits[oldest.sequence] = max(limit_s, self.limits.get(oldest.sequence, 0.0))
        return limit_s


@given(works=works_of, lie=st.booleans())
@settings(max_examples=200)
def test_auto_starts_nobody_later_than_fcfs_by_more_than_the_slack_granted_before_and_one_service(
    works: list[Work], lie: bool
) -> None:
    # predictions are anything at all, or good
    works = works if lie else [(arrival, true, true) for arrival, _, true in works]
    jobs, scheduler = serve(works, WatchedAuto())
    fcfs = [started(job) for job in serve(works, FCFS())[0]]
    limits: dict[int, float] = getattr(scheduler.adaptive, "limits", {})
    slack_s = 0.0
    for i, job in enumerate(jobs):
        slack_s = max(slack_s, limits.get(i, 0.0) - (fcfs[i] - works[i][0]))
        assert started(job) <= fcfs[i] + slack_s + max(true for *_, true in works) + 1e-6


@given(works=works_of, slots=st.integers(1, 3))
def test_with_predictions_that_say_nothing_auto_and_its_static_form_are_fcfs(works: list[Work], slots: int) -> None:
    works = [(arrival, 1.0, true) for arrival, _, true in works]
    expected = [started(job) for job in serve(works, FCFS(), slots=slots)[0]]
    for policy in (Auto(), AutoStatic()):
        assert [started(job) for job in serve(works, policy, slots=slots)[0]] == expected


@pytest.mark.parametrize("slots", [1, 4])
def test_the_static_form_of_auto_lets_nobody_be_overtaken_by_work_that_comes_later_than_its_reach(slots: int) -> None:
    rng = random.Random(1)
    now, works = 0.0, []
    for _ in range(3000):
        now += rng.expovariate(0.92 * slots / 2.0)
        true = rng.lognormvariate(0.3, 0.9)
        works.append((now, true * rng.lognormvariate(0, 0.4), true))
    jobs, scheduler = serve(works, AutoStatic(), slots=slots)
    assert isinstance(scheduler.adaptive, AutoStatic)
    reach_s = 2.36 * max(reach_s for reach_s, _ in scheduler.adaptive._boost._values)
    overtaken = 0.0
    for early, late in zip(range(3000), itertools.count(1)):
        for other in jobs[late : late + 400]:
            if started(other) < started(jobs[early]):
                overtaken = max(overtaken, other.request.arrival_time - jobs[early].request.arrival_time)
    assert 0 < overtaken <= reach_s
