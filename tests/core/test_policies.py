import math

import pytest

from ssjf.core.policies import EDF, FCFS, HRRN, PSJF, SRPT, SSJF, AgedSSJF, Boost, PreemptiveEDF, SRPTBounce
from ssjf.core.types import Job, Request


def job(arrival: float, service: float) -> Job:
    return Job(Request(request_id=f"{arrival}/{service}", arrival_time=arrival), service)


def test_fcfs_serves_the_earlier_arrival_whatever_the_sizes() -> None:
    assert FCFS().key(job(1, 100), now=5) < FCFS().key(job(2, 0.1), now=5)


def test_ssjf_serves_the_shorter_prediction_whatever_the_arrivals() -> None:
    assert SSJF().key(job(2, 0.1), now=5) < SSJF().key(job(1, 100), now=5)


@pytest.mark.parametrize(("late_by", "overtakes"), [(9.9, True), (10.1, False)])
def test_aged_ssjf_lets_short_work_overtake_only_within_the_difference_of_sizes_over_the_rate(
    late_by: float, overtakes: bool
) -> None:
    # 1.5 s against 0.5 s of work at 0.1 s forgiven per second waited: at most 10 s
    policy = AgedSSJF(rate=0.1)
    assert (policy.key(job(late_by, 0.5), now=20) < policy.key(job(0, 1.5), now=20)) is overtakes


def test_the_static_key_of_ageing_orders_like_the_moving_one() -> None:
    policy, now = AgedSSJF(rate=0.3), 100.0
    jobs = [job(a, s) for a, s in [(0, 9), (3, 8), (3, 1), (50, 2), (99, 0.5), (99.5, 30)]]

    def moving(j: Job) -> float:
        return j.predicted_service_s - 0.3 * (now - j.request.arrival_time)

    assert sorted(jobs, key=lambda j: policy.key(j, now)) == sorted(jobs, key=moving)


@pytest.mark.parametrize("rate", [-0.1, math.inf, math.nan])
def test_a_meaningless_ageing_rate_is_refused(rate: float) -> None:
    with pytest.raises(ValueError, match="rate must be"):
        AgedSSJF(rate=rate)


def test_hrrn_serves_the_highest_response_ratio() -> None:
    # at t = 10: (10 - 0) / 5 = 2 waited per second of work against (10 - 8) / 0.5 = 4
    assert HRRN().key(job(8, 0.5), now=10) < HRRN().key(job(0, 5), now=10)
    assert HRRN().key(job(8, 0.5), now=8.5) == -1.0


def test_hrrn_takes_a_prediction_of_no_work_at_all() -> None:
    assert math.isfinite(HRRN().key(job(0, 0.0), now=10))


def test_boost_brings_short_jobs_forward_by_a_bounded_time() -> None:
    boost = Boost(gamma=0.1)
    # ln(1 / (1 - exp(-0.1·s))) / 0.1: 23.5 s for one second of work, 0.67 s for 28 s
    assert boost.key(job(100, 1.0), now=0) == pytest.approx(100 - 23.52, abs=0.01)
    assert boost.key(job(100, 27.4), now=0) == pytest.approx(100 - 0.667, abs=0.01)
    assert boost.key(job(0, 27.4), now=50) < boost.key(job(50, 1.0), now=50)
    assert math.isfinite(boost.key(job(0, 0.0), now=0))


@pytest.mark.parametrize(
    ("attained", "srpt", "bounced", "psjf"),
    [(0.0, 4.0, 4.0, 4.0), (3.0, 1.0, 1.0, 4.0), (4.0, 0.0, 0.0, 4.0), (6.5, -2.5, 2.5, 4.0), (100.0, -96.0, 4.0, 4.0)],
)
def test_a_job_that_outruns_its_prediction_has_the_best_place_under_srpt_and_climbs_back_with_bounce(
    attained: float, srpt: float, bounced: float, psjf: float
) -> None:
    outruns = job(0, 4.0)
    outruns.attained_s = attained
    assert [policy.key(outruns, now=attained) for policy in (SRPT(), SRPTBounce(), PSJF())] == [srpt, bounced, psjf]


def test_bounce_is_looked_at_when_the_prediction_ends_then_in_small_steps_then_no_more() -> None:
    def look_again_s(attained: float) -> float:
        running = job(0, 4.0)
        running.attained_s = attained
        return SRPTBounce().look_again_s(running)

    assert look_again_s(1.0) == 3.0
    assert 0 < look_again_s(4.0) == look_again_s(7.9) <= 0.1
    assert look_again_s(8.0) == math.inf
    assert SRPTBounce().look_again_s(job(0, 0.0)) == math.inf


def test_edf_serves_the_earlier_deadline_and_those_without_one_last_in_order_of_arrival() -> None:
    def with_deadline(arrival: float, deadline: float | None) -> Job:
        return Job(Request(request_id="x", arrival_time=arrival, deadline=deadline))

    for policy in (EDF(), PreemptiveEDF()):
        keys = [policy.key(with_deadline(*pair), now=9) for pair in ((5, 10.0), (0, 20.0), (1, None), (2, None))]
        assert keys == sorted(keys)
