"""The core under virtual time against queueing theory: each closed formula lies within the simulation's interval.

Twelve seeds give a Student-t interval at 99.9 %, so that a correct simulator practically never fails, and a wrong
one (a missed wait, a wrong order, an idle slot) does: each test's formula also differs by many intervals from that
of the next best order.
"""

import math
from collections.abc import Callable

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy.integrate import quad
from scipy.stats import t as student_t

from ssjf.core.places.batching import Batching, Continuous, Static
from ssjf.core.places.capacity import Slots
from ssjf.core.policies import FCFS, SRPT, SSJF
from ssjf.core.replay import replay
from ssjf.core.scheduler import Scheduler
from ssjf.core.types import Job, Policy, Request

JOBS, SEEDS = 12_000, 12
WARM_UP = JOBS // 10
Draw = Callable[[np.random.Generator, int], NDArray[np.float64]]


def exponential(rng: np.random.Generator, count: int) -> NDArray[np.float64]:
    return rng.exponential(1.0, count)


def uniform(rng: np.random.Generator, count: int) -> NDArray[np.float64]:
    return rng.uniform(0.0, 2.0, count)


def simulate(
    policy: Policy,
    *,
    load: float,
    draw: Draw = exponential,
    slots: int = 1,
    batching: Batching | None = None,
    tier_of: Callable[[float], int] = lambda _: 0,
) -> list[list[Job]]:
    """Jobs of each seed after the warm-up; mean service is 1."""
    runs = []
    for seed in range(SEEDS):
        rng = np.random.default_rng(seed)
        arrivals = np.cumsum(rng.exponential(1 / (load * slots), JOBS)).tolist()
        services = draw(rng, JOBS).tolist()
        jobs = [
            (Job(Request(request_id=str(i), arrival_time=a, tier=tier_of(s)), s), s)
            for i, (a, s) in enumerate(zip(arrivals, services, strict=True))
        ]
        replay(jobs, Scheduler(policy, Slots(slots), batching=batching or Continuous()))
        runs.append([job for job, _ in jobs[WARM_UP:]])
    return runs


def mean_jct(jobs: list[Job]) -> float:
    return math.fsum((job.finished_at or math.nan) - job.request.arrival_time for job in jobs) / len(jobs)


def assert_within_interval(expected: float, means: list[float]) -> None:
    half_width = student_t.ppf(0.9995, len(means) - 1) * np.std(means, ddof=1) / math.sqrt(len(means))
    assert np.mean(means) == pytest.approx(expected, abs=half_width), f"±{half_width:.3g}"
    assert half_width < 0.1 * expected, "the interval is too wide to prove anything"


def test_mm1_mean_time_in_system() -> None:
    runs = simulate(FCFS(), load=0.7)
    assert_within_interval(1 / (1 - 0.7), [mean_jct(run) for run in runs])


def test_mg1_pollaczek_khinchine() -> None:
    load, second_moment = 0.7, 4 / 3  # uniform on (0, 2)
    runs = simulate(FCFS(), load=load, draw=uniform)
    assert_within_interval(1 + load * second_moment / (2 * (1 - load)), [mean_jct(run) for run in runs])


def test_non_preemptive_shortest_job_first_phipps() -> None:
    load = 0.8

    def load_below(x: float) -> float:
        return load * (1 - math.exp(-x) * (1 + x))

    wait, _ = quad(lambda x: load / (1 - load_below(x)) ** 2 * math.exp(-x), 0, math.inf)
    runs = simulate(SSJF(), load=load)
    assert_within_interval(1 + wait, [mean_jct(run) for run in runs])


def test_two_priority_classes_cobham() -> None:
    load, cut = 0.7, 1.0  # the better tier: jobs shorter than 1, uniform on (0, 2)
    residual = load * (4 / 3) / 2
    load_better = load * 0.5 * 0.5
    wait = {0: residual / (1 - load_better), 1: residual / ((1 - load_better) * (1 - load))}
    runs = simulate(FCFS(), load=load, draw=uniform, tier_of=lambda service: int(service >= cut))
    for tier, mean_service in ((0, 0.5), (1, 1.5)):
        means = [mean_jct([job for job in run if job.request.tier == tier]) for run in runs]
        assert_within_interval(mean_service + wait[tier], means)


@pytest.mark.parametrize("slots", [2, 8])
def test_mmc_erlang_c(slots: int) -> None:
    load = 0.8
    offered = load * slots
    tail = offered**slots / math.factorial(slots) / (1 - load)
    must_wait = tail / (sum(offered**k / math.factorial(k) for k in range(slots)) + tail)
    runs = simulate(FCFS(), load=load, slots=slots)
    assert_within_interval(1 + must_wait / (slots * (1 - load)), [mean_jct(run) for run in runs])


def test_shortest_remaining_time_schrage_miller() -> None:
    load = 0.8

    def load_below(x: float) -> float:
        return load * (1 - math.exp(-x) * (1 + x))

    def time_in_system(x: float) -> float:
        truncated_square = 2 - math.exp(-x) * (x * x + 2 * x + 2) + x * x * math.exp(-x)
        residence, _ = quad(lambda t: 1 / (1 - load_below(t)), 0, x)
        return load * truncated_square / (2 * (1 - load_below(x)) ** 2) + residence

    expected, _ = quad(lambda x: time_in_system(x) * math.exp(-x), 0, 60)
    runs = simulate(SRPT(), load=load)
    assert_within_interval(expected, [mean_jct(run) for run in runs])


@pytest.mark.parametrize(("size", "load"), [(2, 0.45), (4, 0.35)])
def test_static_batches_by_markov_chain(size: int, load: float) -> None:
    rate = load * size  # arrivals per mean service; a full batch of exponentials lasts its harmonic number
    states = 400  # waiting jobs left behind by a batch

    def arrivals_during(batch: int) -> NDArray[np.float64]:
        """P(k arrivals while the longest of `batch` exponentials runs), by expanding its density."""
        k = np.arange(states)
        out = np.zeros(states)
        for j in range(batch):
            pole = rate + j + 1
            out += (-1) ** j * math.comb(batch - 1, j) * batch * (rate / pole) ** k / pole
        return out

    longest = {b: sum(1 / i for i in range(1, b + 1)) for b in range(1, size + 1)}
    longest_square = {b: longest[b] ** 2 + sum(1 / i**2 for i in range(1, b + 1)) for b in range(1, size + 1)}
    transition = np.zeros((states, states))
    for n in range(states):
        batch = min(max(n, 1), size)
        left = max(n, 1) - batch
        transition[n, left:] = arrivals_during(batch)[: states - left]
    transition[:, -1] += 1 - transition.sum(axis=1)
    values, vectors = np.linalg.eig(transition.T)
    stationary = np.real(vectors[:, np.argmin(abs(values - 1))])
    stationary /= stationary.sum()

    cycle = waiting = batch_time = served = 0.0
    for n, probability in enumerate(stationary):
        batch = min(max(n, 1), size)
        left = max(n, 1) - batch
        cycle += probability * (longest[batch] + (1 / rate if n == 0 else 0.0))
        waiting += probability * (left * longest[batch] + rate * longest_square[batch] / 2)
        batch_time += probability * batch * longest[batch]
        served += probability * batch
    expected = waiting / cycle / rate + batch_time / served

    runs = simulate(FCFS(), load=load, slots=size, batching=Static())
    assert_within_interval(expected, [mean_jct(run) for run in runs])
