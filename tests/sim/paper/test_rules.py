"""Each rule of the artefact's loop on a case small enough to be worked out by hand, and its random streams."""

import itertools
import random
from fractions import Fraction

import pytest

from ssjf.sim.paper.rules import JOBS_PER_RUN, PaperJob, PaperPolicy, Setting, Streams, early_drain_rate, serve

ONE = Setting(1, continuous=False)


def finishes(
    policy: PaperPolicy, setting: Setting, *jobs: tuple[float, float] | tuple[float, float, float]
) -> list[float | None]:
    """Serve (arrival, service[, predicted]) jobs, in seconds."""
    return serve(
        [PaperJob(Fraction(job[0]), round(100 * job[1]), round(100 * job[-1])) for job in jobs], policy, setting
    )


def test_without_batching_fcfs_serves_in_order_of_arrival() -> None:
    assert finishes("fcfs", ONE, (0, 5), (1, 2), (20, 1)) == [5, 7, 21]


def test_a_static_batch_of_fcfs_sees_ten_seconds_into_the_future_and_waits_for_its_last_job() -> None:
    assert finishes("fcfs", Setting(2, continuous=False), (0, 1), (9, 3)) == [12, 12]
    assert finishes("fcfs", Setting(2, continuous=False), (0, 1), (10, 3)) == [13, 13]


def test_a_batch_of_fcfs_that_cannot_be_filled_idles_ten_seconds() -> None:
    # the second job could have joined at 11, when the first starts after its idle 10 s, but is only seen afterwards
    assert finishes("fcfs", Setting(2, continuous=False), (0, 3), (10.5, 1)) == [13, 24]


def test_continuous_fcfs_freezes_running_jobs_while_it_idles() -> None:
    # both run from 0; the short one ends at 1, then the long one's other 4 s wait 10 s for a partner that never comes
    assert finishes("fcfs", Setting(2, continuous=True), (0, 1), (0, 5)) == [1, 15]


def test_continuous_fcfs_puts_unfinished_jobs_before_those_waiting() -> None:
    assert finishes("fcfs", Setting(2, continuous=True), (0, 1), (0, 2), (0, 4), (0, 8))[:3] == [1, 2, 5]


def test_sjf_orders_by_true_time_and_ssjf_by_prediction() -> None:
    jobs = (0, 5, 1), (0, 2, 2), (0, 1, 3), (0, 3, 4)
    assert finishes("sjf", ONE, *jobs) == [11, 3, 1, 6]
    assert finishes("ssjf", ONE, *jobs) == [5, 7, 8, 11]


def test_equal_predictions_keep_the_order_of_arrival() -> None:
    assert finishes("ssjf", ONE, (0, 4, 1), (0, 1, 1), (0, 2, 1)) == [4, 5, 7]


def test_shortest_first_never_waits_for_a_batch_to_fill() -> None:
    assert finishes("sjf", Setting(2, continuous=False), (0, 1), (0.5, 3), (0.75, 2)) == [1, 4, 4]


def test_a_static_batch_ends_with_its_longest() -> None:
    assert finishes("sjf", Setting(2, continuous=False), (0, 1), (0, 2), (0, 9)) == [2, 2, 11]


def test_continuous_sjf_sets_running_jobs_aside_for_shorter_ones_at_no_cost() -> None:
    # at 1 the long job has 7 s left; the two that have arrived are shorter, so it stands still until 3
    assert finishes("sjf", Setting(2, continuous=True), (0, 1), (0, 8), (0.5, 2), (0.5, 2)) == [1, 10, 3, 3]


def test_continuous_ssjf_orders_by_the_unchanged_prediction() -> None:
    jobs = (0, 1, 1), (0, 3, 5), (0.5, 4, 4), (0.5, 4, 4)
    # the second job has 2 s left at 1, fewer than anybody; its prediction still says 5
    assert finishes("ssjf", Setting(2, continuous=True), *jobs) == [1, 7, 5, 5]
    assert finishes("sjf", Setting(2, continuous=True), *jobs) == [1, 3, 5, 7]


def test_waiting_beyond_ten_times_the_true_remaining_time_comes_first() -> None:
    # job 1 is predicted long but takes 1 s: at 12 its counter is past 10 s, and it overtakes the better predicted
    jobs = (0, 6, 1), (0, 1, 9), (5, 6, 1), (11, 6, 1)
    assert finishes("ssjf", ONE, *jobs) == [6, 13, 12, 19]


def test_exactly_ten_times_is_not_yet_starved() -> None:
    assert finishes("ssjf", ONE, (0, 10, 1), (0, 1, 9), (9, 5, 1)) == [10, 16, 15]


def test_waiting_beyond_a_hundred_seconds_comes_first() -> None:
    jobs = (0, 34, 1), (0, 50, 50), (33, 34, 1), (67, 34, 1), (101, 34, 1)
    assert finishes("ssjf", ONE, *jobs) == [34, 152, 68, 102, 186]


def test_waiting_counters_charge_the_whole_step_to_whoever_came_during_it() -> None:
    # at 100 the 9 s job has waited 1 s, but its counter says 100 s, over 10 times its length: the 1 s job must wait
    assert finishes("sjf", ONE, (0, 100), (99, 9), (99, 1)) == [100, 109, 110]
    assert finishes("sjf", ONE, (0, 90), (89, 9), (89, 1)) == [90, 100, 91]


def test_waiting_counters_charge_the_idle_time_before_the_step_too() -> None:
    # nobody waited from 0 to 200, yet after the first step the counters say 201 s
    assert finishes("sjf", ONE, (200, 1), (200, 9), (200.5, 2)) == [201, 210, 212]


def test_a_last_job_that_comes_to_an_empty_queue_is_dropped() -> None:
    assert finishes("sjf", ONE, (0, 1), (5, 1)) == [1, None]
    assert finishes("fcfs", ONE, (0, 1), (5, 1)) == [1, 6]
    assert finishes("sjf", ONE, (0, 6), (5, 1)) == [6, 7], "it came while the server was busy"


def test_times_are_exact_for_arrivals_between_hundredths() -> None:
    third = Fraction(1, 3)
    jobs = [PaperJob(third, 10, 10), PaperJob(third, 10, 10)]
    assert serve(jobs, "fcfs", ONE) == [float(third + Fraction(1, 10)), float(third + Fraction(2, 10))]


@pytest.mark.parametrize("seed", range(20))
def test_with_everybody_there_at_once_the_order_without_batching_is_that_of_a_sort(seed: int) -> None:
    rng = random.Random(seed)
    times = [rng.randint(100, 110) / 100 for _ in range(10)]  # so alike that nobody waits ten times his own
    orders: tuple[tuple[PaperPolicy, list[int]], ...] = (
        ("fcfs", list(range(10))),
        ("sjf", sorted(range(10), key=times.__getitem__)),
    )
    for policy, order in orders:
        ends = itertools.accumulate(round(100 * times[job]) for job in order)
        expected = {job: end / 100 for job, end in zip(order, ends, strict=True)}
        assert finishes(policy, ONE, *((0, time) for time in times)) == [expected[job] for job in range(10)]


def test_early_drain_rate_looks_at_the_first_quarter_only() -> None:
    assert early_drain_rate([float(i) for i in range(1, 51)]) == pytest.approx(12 / 13)
    assert early_drain_rate([float(i) for i in range(1, 14)] + [1000.0] * 37) == pytest.approx(12 / 13)


def test_poisson_arrivals_come_at_whole_seconds() -> None:
    arrivals = Streams(42).poisson(10)
    assert len(arrivals) == JOBS_PER_RUN
    assert all(arrival.denominator == 1 for arrival in arrivals)
    assert len(set(arrivals)) < 12


def test_gamma_gaps_grow_from_first_to_last() -> None:
    arrivals = Streams(42).gamma(0.05, cv=2)
    gaps = [later - earlier for earlier, later in itertools.pairwise([Fraction(0), *arrivals])]
    assert gaps == sorted(gaps)
    assert len(gaps) == JOBS_PER_RUN


def test_trace_arrivals_take_milliseconds_for_seconds() -> None:
    arrivals = Streams(42).trace([i * 0.25 for i in range(JOBS_PER_RUN)], scale=100)
    assert arrivals == [Fraction(5 * i, 2) for i in range(JOBS_PER_RUN)]


def test_samples_are_those_of_numpys_legacy_stream() -> None:
    assert Streams(42).sample(range(1000))[:5] == [521, 737, 740, 660, 411]  # np.random.seed(42); np.random.choice(...)


def test_a_setting_has_the_name_of_the_tables() -> None:
    names = [str(Setting(size, continuous=continuous)) for size in (1, 2) for continuous in (False, True)]
    assert names == ["none", "none", "static 2", "continuous 2"]
