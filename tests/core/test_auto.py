"""The default policy: most of the gain, FCFS's tail, and no harm from bad predictions."""

import math
import random
from collections.abc import Callable, Sequence
from dataclasses import replace

import pytest

from ssjf.core.observed.estimates import History, RankingQuality, RunningQuantile, RunningRatio
from ssjf.core.observed.shadow import ShadowFCFS
from ssjf.core.places.capacity import Slots
from ssjf.core.policies import FCFS, SSJF, Auto
from ssjf.core.replay import replay
from ssjf.core.scheduler import Scheduler
from ssjf.core.types import Job, Policy, Request, Status

Distort = Callable[[random.Random, float], float]


def workload(count: int, *, load: float, slots: int, seed: int, distort: Distort) -> list[tuple[Job, float]]:
    """Log-normal service times, Poisson arrivals; predictions are the truth, distorted."""
    rng = random.Random(seed)
    now, jobs = 0.0, []
    for index in range(count):
        service = rng.lognormvariate(0.7, 0.9)
        now += rng.expovariate(load * slots / math.exp(0.7 + 0.9**2 / 2))
        jobs.append((Job(Request(request_id=str(index), arrival_time=now), distort(rng, service)), service))
    return jobs


def jcts(policy: Policy, jobs: Sequence[tuple[Job, float]], slots: int) -> list[float]:
    fresh = [(Job(job.request, job.predicted_service_s), service) for job, service in jobs]
    replay(fresh, Scheduler(policy, Slots(slots)))
    return [(job.finished_at or math.nan) - job.request.arrival_time for job, _ in fresh]


def percentile(values: Sequence[float], level: float) -> float:
    return sorted(values)[int(level * (len(values) - 1))]


def mean(values: Sequence[float]) -> float:
    return math.fsum(values) / len(values)


@pytest.mark.parametrize(("slots", "load"), [(1, 0.9), (8, 0.92)])
def test_auto_takes_a_good_part_of_the_gain_and_leaves_the_tail_where_fcfs_has_it(slots: int, load: float) -> None:
    shares, tails, worst = [], [], []
    for seed in range(3):
        jobs = workload(8000, load=load, slots=slots, seed=seed, distort=lambda r, s: s * r.lognormvariate(0, 0.6))
        fcfs, auto = jcts(FCFS(), jobs, slots), jcts(Auto(), jobs, slots)
        oracle = jcts(SSJF(), [(Job(job.request, service), service) for job, service in jobs], slots)
        shares.append((mean(fcfs) - mean(auto)) / (mean(fcfs) - mean(oracle)))
        tails.append(percentile(auto, 0.99) / percentile(fcfs, 0.99))
        worst.append(max(auto) / max(fcfs))
    assert mean(shares) > 0.4
    assert mean(tails) < 1.06
    assert mean(worst) < 1.12


HOSTILE: dict[str, Distort] = {
    "constant": lambda _, __: 3.0,
    "random": lambda rng, _: rng.uniform(0.1, 10),
    "reversed": lambda _, service: 1 / service,
    "ten times too long": lambda rng, service: 10 * service * rng.lognormvariate(0, 0.6),
}


@pytest.mark.parametrize("name", HOSTILE)
@pytest.mark.parametrize("slots", [1, 8])
def test_after_300_completions_no_prediction_makes_auto_worse_than_fcfs(name: str, slots: int) -> None:
    means, tails = [], []
    for seed in range(8):
        jobs = workload(6000, load=0.9, slots=slots, seed=seed, distort=HOSTILE[name])
        fcfs, auto = jcts(FCFS(), jobs, slots)[300:], jcts(Auto(), jobs, slots)[300:]
        means.append(mean(auto) / mean(fcfs))
        tails.append(percentile(auto, 0.99) / percentile(fcfs, 0.99))
    assert mean(means) < 1.05
    assert mean(tails) < 1.05


@pytest.mark.parametrize("served", [1, 16])
def test_nothing_is_kept_of_those_who_gave_up_waiting(served: int) -> None:
    scheduler, now = Scheduler(Auto(), Slots(1)), 0.0
    for number in range(3000):
        scheduler.add(Job(Request(request_id=str(number), arrival_time=now), 1.0), now)
        if number % 16 < served:
            for job in scheduler.admit(now):
                now += 1.0
                scheduler.finish(job.request.request_id, now)
        scheduler.abort(str(number), now)
    assert len(scheduler.adaptive._shadow._line) < 200  # type: ignore[union-attr]
    assert len(scheduler.adaptive._unread) <= 16  # type: ignore[union-attr]


def test_requests_that_are_given_up_while_they_run_teach_nothing_about_predictions() -> None:
    scheduler = Scheduler(Auto(), Slots(4))
    rng, now = random.Random(0), 0.0
    for number in range(2000):
        service = rng.lognormvariate(0.7, 0.9)
        job = Job(Request(request_id=str(number), arrival_time=now), service)
        scheduler.add(job, now)
        scheduler.admit(now)
        if number % 5 < 3:
            scheduler.abort(str(number), now + 0.01)  # refused by the engine
        else:
            scheduler.finish(str(number), now + service)
        now += 5.0 * service
    assert scheduler.adaptive is not None
    state = scheduler.adaptive.state()
    assert state["concordance"] > 0.95
    assert state["prediction_scale"] == pytest.approx(1.0, rel=0.01)
    assert state["fcfs_p50_jct_s"] > 1.0


def batch(count: int, *, seed: int, distort: Distort) -> list[tuple[Job, float]]:
    """The same lengths, all there from the beginning."""
    jobs = workload(count, load=1.0, slots=1, seed=seed, distort=distort)
    return [
        (Job(Request(request_id=job.request.request_id, arrival_time=0.0), job.predicted_service_s), service)
        for job, service in jobs
    ]


@pytest.mark.parametrize("slots", [1, 8])
def test_of_a_batch_nobody_has_to_be_spared_and_auto_gains_nearly_what_shortest_first_does(slots: int) -> None:
    shares, tails = [], []
    for seed in range(3):
        jobs = batch(800, seed=seed, distort=lambda r, s: s * r.lognormvariate(0, 0.9))
        fcfs, ssjf, auto = (jcts(policy, jobs, slots) for policy in (FCFS(), SSJF(), Auto()))
        shares.append((mean(fcfs) - mean(auto)) / (mean(fcfs) - mean(ssjf)))
        tails.append(percentile(auto, 0.99) / percentile(fcfs, 0.99))
    assert mean(shares) > 0.8
    assert mean(tails) < 1.01


def test_predictions_that_come_later_and_tiers_do_not_spoil_a_batch() -> None:
    jobs = batch(800, seed=0, distort=lambda r, s: s * r.lognormvariate(0, 0.9))
    fcfs, ssjf = mean(jcts(FCFS(), jobs, 1)), mean(jcts(SSJF(), jobs, 1))

    scheduler, now, served = Scheduler(Auto(), Slots(1)), 0.0, []
    truth = {}
    for job, service in jobs:
        request = replace(job.request, tier=1)
        truth[request.request_id] = service
        late = Job(request, 0.01)  # until its prediction comes
        scheduler.add(late, now)
        late.predicted_service_s = job.predicted_service_s
        scheduler.reprioritize(request.request_id, now)
    scheduler.add(Job(Request(request_id="urgent", arrival_time=0.0), 1.0), now)
    truth["urgent"] = 1.0
    while scheduler.waiting:
        (job,) = scheduler.admit(now)
        now += truth[job.request.request_id]
        served.append(scheduler.finish(job.request.request_id, now))
    assert served[0].request.request_id == "urgent"
    auto = mean([job.finished_at or math.nan for job in served[1:]])
    assert (fcfs - auto) / (fcfs - ssjf) > 0.8


def test_who_gave_up_waiting_is_not_counted_among_those_who_wait() -> None:
    shadow = ShadowFCFS()
    jobs = [Job(Request(request_id=str(i), arrival_time=0.0), 2.0, sequence=i) for i in range(20)]
    for job in jobs:
        shadow.arrived(job)
    for job in jobs[1::2]:
        job.status = Status.ABORTED
    shadow.wait_of(jobs[0], now=0.0, scale=1.0)
    assert shadow.coming_jct_at(1.0) == 20.0


def test_a_bound_on_waits_keeps_the_books_of_auto_all_the_same() -> None:
    for weights in (None, {"": 1.0}):
        scheduler = Scheduler(Auto(), Slots(1), max_wait_s=0.0, tenant_weights=weights)
        replay(workload(2000, load=1.05, slots=1, seed=0, distort=lambda _, s: s), scheduler)
        assert scheduler.adaptive is not None
        assert scheduler.adaptive.state()["fcfs_p99_jct_s"] > 0
        assert len(scheduler.adaptive._shadow._line) < 200  # type: ignore[attr-defined]


def test_one_absurd_prediction_does_not_stand_for_all() -> None:
    for place in (0, 100):
        ratio, rng = RunningRatio(2000), random.Random(0)
        for number in range(1000):
            service = rng.lognormvariate(0.7, 0.9)
            ratio.add(service, 1e12 if number == place else service * rng.lognormvariate(0, 0.6))
        assert 0.6 < ratio.value < 1.0


@pytest.mark.parametrize("name", ["constant", "random", "reversed"])
@pytest.mark.parametrize("slots", [1, 8])
def test_a_batch_with_predictions_that_say_nothing_is_served_about_as_it_came(name: str, slots: int) -> None:
    means, tails = [], []
    for seed in range(3):
        jobs = batch(800, seed=seed, distort=HOSTILE[name])
        fcfs, auto = jcts(FCFS(), jobs, slots), jcts(Auto(), jobs, slots)
        means.append(mean(auto) / mean(fcfs))
        tails.append(percentile(auto, 0.99) / percentile(fcfs, 0.99))
    assert mean(means) < 1.03
    assert mean(tails) < 1.02


def test_once_others_come_again_the_limit_is_what_fcfs_did_to_those_who_are_done() -> None:
    policy, jobs = (
        Auto(),
        [Job(Request(request_id=str(i), arrival_time=0.0), 1.0 + i % 5, sequence=i) for i in range(200)],
    )
    for job in jobs:
        policy.arrived(job)
    now = 0.0

    def serve(some: Sequence[Job]) -> None:
        nonlocal now
        for job in some:
            policy.wait_limit_s(jobs[0], now)  # the first of the batch is still waiting
            policy.started(job, now, 1)
            job.started_at, now = now, now + job.predicted_service_s
            job.finished_at = now
            policy.finished(job, job.predicted_service_s)

    serve(sorted(jobs[1:65], key=lambda job: job.predicted_service_s))
    limit_s = policy.wait_limit_s(jobs[0], now)
    assert limit_s > 0.85 * sum(job.predicted_service_s for job in jobs)
    for number in range(8):
        policy.arrived(Job(Request(request_id=f"late-{number}", arrival_time=now), 1.0, sequence=200 + number))
    serve(jobs[65:81])
    assert policy.wait_limit_s(jobs[0], now) < 0.7 * limit_s


def test_with_predictions_that_say_nothing_the_order_is_that_of_arrival() -> None:
    jobs = workload(500, load=1.2, slots=1, seed=1, distort=lambda _, __: 1.0)
    served = replay(jobs, Scheduler(Auto(), Slots(1)))
    assert [job.sequence for job in served] == list(range(500))


def test_trust_comes_back_within_300_completions_when_predictions_turn_good_again() -> None:
    policy, rng = Auto(), random.Random(2)

    def complete(count: int, distort: Distort) -> None:
        for _ in range(count):
            service = rng.lognormvariate(0.7, 0.9)
            job = Job(Request(request_id="x", arrival_time=0.0), distort(rng, service), finished_at=service)
            policy.arrived(job)
            policy.finished(job, service)

    complete(1000, HOSTILE["reversed"])
    assert policy.trust == 0
    complete(300, lambda r, s: s * r.lognormvariate(0, 0.6))
    assert policy.trust == 1


@pytest.mark.parametrize(("longer", "tail_slack"), [(0.9, 2.0), (1.025, 1.0), (1.2, 0.0)])
def test_the_slack_follows_how_the_tail_compares_with_that_of_fcfs(longer: float, tail_slack: float) -> None:
    policy, now = Auto(), 0.0
    for index in range(640):  # one at a time on a server that is never idle; what FCFS gives is known exactly
        service = 2.0 + index % 7
        job = Job(Request(request_id=str(index), arrival_time=now), service, sequence=index, started_at=now)
        policy.started(job, now, 1)
        now += service
        job.finished_at = job.request.arrival_time + longer * service
        policy.finished(job, service)
        following = Job(Request(request_id="next", arrival_time=now), 1.0, sequence=index + 1)
        policy.wait_limit_s(following, now)
    assert policy.state()["tail_slack"] == pytest.approx(tail_slack, abs=1e-6)


def test_two_schedulers_never_share_what_a_policy_learned() -> None:
    policy = Auto()
    replay(workload(200, load=0.9, slots=1, seed=0, distort=lambda _, s: s), Scheduler(policy, Slots(1)))
    assert policy.state() == Auto().state()


def test_a_scheduler_shows_what_its_policy_goes_by() -> None:
    scheduler = Scheduler(Auto(), Slots(1))
    replay(workload(400, load=0.9, slots=1, seed=0, distort=lambda _, s: 2 * s), scheduler)
    assert scheduler.adaptive is not None
    state = scheduler.adaptive.state()
    assert state["concordance"] == pytest.approx(1.0, abs=0.02)
    assert state["trust"] == 1.0
    assert state["prediction_scale"] == pytest.approx(0.5, rel=0.01)
    assert 0 < state["fcfs_p50_jct_s"] < state["fcfs_p99_jct_s"]


@pytest.mark.parametrize("slots", [1, 3])
def test_the_shadow_gives_fcfs_waits_exactly_when_all_lengths_are_known(slots: int) -> None:
    jobs = workload(400, load=0.95, slots=slots, seed=3, distort=lambda _, __: 1.0)
    expected = [
        (job.started_at or 0.0) - job.request.arrival_time for job in replay(jobs, Scheduler(FCFS(), Slots(slots)))
    ]
    shadow = ShadowFCFS()
    shadow.resize(slots)
    # a real server that served them in quite another order, and is long done with all but the oldest waiting one
    for index, (job, service) in reversed(list(enumerate(jobs))):
        job.sequence = index
        shadow.started(job)
        shadow.finished(job, service)
    for (job, _), wait in zip(jobs, expected, strict=True):
        assert shadow.wait_of(job, now=1e9, scale=1.0) == pytest.approx(wait, abs=1e-9)


@pytest.mark.parametrize("slots", [1, 4])
def test_the_shadow_foresees_what_fcfs_gives_those_who_wait(slots: int) -> None:
    jobs = workload(100, load=1.5, slots=slots, seed=5, distort=lambda _, s: s)
    expected = replay(jobs, Scheduler(FCFS(), Slots(slots)))
    truth = sorted((job.finished_at or 0.0) - job.request.arrival_time for job in expected)
    shadow = ShadowFCFS()
    shadow.resize(slots)
    for job, _ in jobs:
        shadow.arrived(job)
    for job, service in jobs[:80]:  # the last 20 wait
        shadow.started(job)
        shadow.finished(job, service)
    shadow.wait_of(jobs[80][0], now=1e9, scale=1.0)
    for level in (0.0, 0.3, 0.6, 0.92, 0.98, 1.0):
        exact = truth[int(level * 99)]
        assert shadow.coming_jct_at(level) == pytest.approx(exact, rel=1e-9 if slots == 1 else 0.1, abs=1e-9)


def test_before_anybody_is_done_the_shadow_goes_by_those_who_wait() -> None:
    shadow = ShadowFCFS()
    assert shadow.coming_jct_at(0.9) == 0.0
    jobs = [Job(Request(request_id=str(i), arrival_time=0.0), 2.0, sequence=i) for i in range(11)]
    for job in jobs:
        shadow.arrived(job)
    shadow.wait_of(jobs[0], now=0.0, scale=1.0)
    assert [shadow.coming_jct_at(level) for level in (0.0, 0.5, 1.0)] == [2.0, 12.0, 22.0]


def test_the_shadow_forgets_a_heavy_hour() -> None:
    shadow, now = ShadowFCFS(), 0.0

    def serve(count: int, service_s: float) -> None:
        nonlocal now
        for _ in range(count):
            job = Job(Request(request_id="x", arrival_time=now), service_s, sequence=round(now), started_at=now)
            shadow.started(job)
            now += 100.0
            job.finished_at = now
            shadow.finished(job, service_s)
            shadow.wait_of(Job(Request(request_id="next", arrival_time=now), sequence=round(now)), now, scale=1.0)

    serve(4000, 50.0)
    serve(4000, 1.0)
    assert shadow.seen_jct_at(0.92) == 50.0
    serve(100, 1.0)
    assert shadow.jcts.at(0.92) == 50.0
    assert shadow.seen_jct_at(0.92) == 1.0


def test_the_shadow_forgets_who_has_been_served() -> None:
    shadow = ShadowFCFS()
    for index in range(1000):
        job = Job(
            Request(request_id=str(index), arrival_time=float(index)), 0.5, sequence=index, started_at=float(index)
        )
        shadow.arrived(job)
        shadow.wait_of(job, now=float(index), scale=1.0)
        shadow.started(job)
        job.status, job.finished_at = Status.FINISHED, index + 0.5
        shadow.finished(job, 0.5)
    assert len(shadow._line) < 200
    assert shadow.coming_jct_at(1.0) == 0.5


def test_the_shadow_corrects_itself_when_a_running_job_turns_out_shorter() -> None:
    shadow = ShadowFCFS()
    runs = Job(Request(request_id="runs", arrival_time=0.0), 10.0, sequence=0, started_at=0.0)
    waits = Job(Request(request_id="waits", arrival_time=1.0), 1.0, sequence=1)
    shadow.started(runs)
    assert shadow.wait_of(waits, now=1.0, scale=1.0) == 9.0
    runs.finished_at = 4.0
    shadow.finished(runs, 4.0)
    assert shadow.wait_of(waits, now=4.0, scale=1.0) == 3.0


def test_a_job_that_outlives_its_prediction_is_assumed_to_go_on() -> None:
    shadow = ShadowFCFS()
    runs = Job(Request(request_id="runs", arrival_time=0.0), 1.0, sequence=0, started_at=0.0)
    waits = Job(Request(request_id="waits", arrival_time=0.0), 1.0, sequence=1)
    shadow.started(runs)
    assert shadow.wait_of(waits, now=0.5, scale=1.0) == 1.0
    for now in (10.0, 100.0):
        assert now < shadow.wait_of(waits, now=now, scale=1.0) <= 1.5 * now
    runs.finished_at = 101.0
    shadow.finished(runs, 101.0)
    assert shadow.wait_of(waits, now=101.0, scale=1.0) == 101.0
    assert shadow.wait_of(waits, now=1000.0, scale=1.0) == 101.0


def test_the_shadow_follows_the_number_of_slots() -> None:
    shadow = ShadowFCFS()
    for index in range(2):
        job = Job(Request(request_id=str(index), arrival_time=0.0), 10.0, sequence=index, started_at=0.0)
        shadow.started(job)
    waits = Job(Request(request_id="waits", arrival_time=0.0), 1.0, sequence=9)
    assert shadow.wait_of(waits, now=0.0, scale=1.0) == 20.0
    shadow.resize(2)
    assert shadow.wait_of(waits, now=0.0, scale=1.0) == 0.0


def test_a_job_whose_virtual_slot_is_gone_changes_nothing_but_the_record() -> None:
    shadow = ShadowFCFS()
    shadow.resize(2)
    for index in range(2):
        shadow.started(Job(Request(request_id=str(index), arrival_time=0.0), 10.0, sequence=index, started_at=0.0))
    waits = Job(Request(request_id="waits", arrival_time=0.0), 1.0, sequence=9)
    assert shadow.wait_of(waits, now=0.0, scale=1.0) == 10.0
    shadow.resize(1)
    shadow.finished(Job(Request(request_id="1", arrival_time=0.0), 10.0, sequence=1, finished_at=4.0), 4.0)
    assert shadow.wait_of(waits, now=4.0, scale=1.0) == 10.0
    assert shadow.jcts.at(1.0) == 4.0


def test_a_history_knows_what_was_in_force_at_an_instant() -> None:
    history: History[str] = History("a", memory=2)
    assert history.at(-5.0) == "a"
    history.add(1.0, "b")
    assert [history.at(instant) for instant in (0.0, 1.0, 1.5)] == ["a", "a", "b"]
    history.add(2.0, "c")
    assert [history.at(instant) for instant in (0.0, 1.5, 3.0)] == ["b", "b", "c"]


def test_a_key_stands_still_whatever_is_learned_after_the_arrival() -> None:
    policy, now = Auto(), 0.0
    job = Job(Request(request_id="early", arrival_time=0.5), 2.0)
    before = policy.key(job, 0.5)
    for index in range(64):
        done = Job(Request(request_id=str(index), arrival_time=now), 3.0, sequence=index, started_at=now)
        policy.started(done, now, 1)
        now += 2.0
        done.finished_at = now
        policy.finished(done, 2.0)
        policy.wait_limit_s(Job(Request(request_id="next", arrival_time=now), 1.0, sequence=index + 1), now)
    assert policy.key(job, now) == before
    later = Job(Request(request_id="later", arrival_time=now), 2.0)
    assert policy.key(later, now) - now != pytest.approx(before - 0.5)


def test_quantiles_are_those_of_the_last_values() -> None:
    quantile = RunningQuantile(window=3)
    assert quantile.at(0.5) == 0.0
    for value in (100.0, 1.0, 2.0, 3.0):
        quantile.add(value)
    assert [quantile.at(level) for level in (0.0, 0.5, 1.0)] == [1.0, 2.0, 3.0]


@pytest.mark.parametrize(
    ("predict", "expected"),
    [(lambda s: s, 1.0), (lambda s: -s, 0.0), (lambda _: 1.0, 0.5)],
    ids=["right", "wrong", "tied"],
)
def test_ranking_quality_is_the_share_of_pairs_in_the_right_order(
    predict: Callable[[float], float], expected: float
) -> None:
    quality, rng = RankingQuality(memory=100), random.Random(0)
    for _ in range(2000):
        service = rng.random()
        quality.arrived(predict(service))
        quality.add(predict(service), service)
    assert quality.concordance == pytest.approx(expected, abs=0.01)


def test_ranking_quality_is_that_of_arrivals_though_jobs_of_like_predictions_finish_together() -> None:
    quality, rng = RankingQuality(), random.Random(0)
    jobs = [
        (predicted, predicted * rng.lognormvariate(0, 0.9))
        for predicted in (rng.lognormvariate(0.7, 0.9) for _ in range(3000))
    ]
    for predicted, _ in jobs:
        quality.arrived(predicted)
    for predicted, service in jobs[:200]:  # as they came: all there is to know
        quality.add(predicted, service)
    expected = quality.concordance
    assert expected == pytest.approx(0.75, abs=0.04)
    for predicted, service in sorted(jobs[200:]):
        quality.add(predicted, service)
    assert quality.concordance == pytest.approx(expected, abs=0.06)


def test_ranking_quality_finds_out_about_few_distinct_predictions() -> None:
    quality, rng = RankingQuality(), random.Random(0)
    for _ in range(2000):
        service = rng.random()
        quality.arrived(round(service))
        quality.add(round(service), service)
    assert quality.concordance == pytest.approx(0.75, abs=0.03)  # half of the pairs are tied
