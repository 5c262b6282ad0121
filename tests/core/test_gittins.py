"""The Gittins index against its definition, against known theorems, and against optimal play by dynamic programming."""

import itertools
import math
from collections.abc import Sequence
from functools import cache

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ssjf.core.gittins import Gittins, PreemptiveGittins
from ssjf.core.places.capacity import Slots
from ssjf.core.policies import SRPT, SSJF
from ssjf.core.replay import replay
from ssjf.core.scheduler import Scheduler
from ssjf.core.types import Job, Policy, Request

Quantiles = tuple[tuple[float, float], ...]
LEVELS = (0.1, 0.25, 0.5, 0.75, 0.9)


def job(quantiles: Quantiles = (), *, predicted: float = 1.0, attained: float = 0.0, name: str = "x") -> Job:
    made = Job(Request(request_id=name, arrival_time=0.0), predicted, service_quantiles=quantiles)
    made.attained_s = attained
    return made


def index(quantiles: Quantiles, attained: float = 0.0) -> float:
    return PreemptiveGittins().key(job(quantiles, attained=attained), now=0.0)


def expected_left(quantiles: Quantiles, attained: float = 0.0) -> float:
    return Gittins().key(job(quantiles, attained=attained), now=0.0)


# -- the definition ----------------------------------------------------------------------------------------------------

levels_and_tenths = st.lists(
    st.tuples(st.integers(1, 99), st.integers(1, 400)),
    min_size=2,
    max_size=7,
    unique_by=(lambda pair: pair[0], lambda pair: pair[1]),
)
increasing = levels_and_tenths.map(
    lambda pairs: tuple(zip(sorted(level / 100 for level, _ in pairs), sorted(s / 10 for _, s in pairs), strict=True))
)


@given(quantiles=increasing, share=st.floats(0, 0.98))
@settings(max_examples=60)
def test_the_index_is_the_best_quotient_over_all_quanta_and_not_only_over_those_that_it_looks_at(
    quantiles: Quantiles, share: float
) -> None:
    (low, first), (next_low, second), *_ = quantiles
    level, last = quantiles[-1]
    start = max(0.0, first - low * (second - first) / (next_low - low))
    attained = share * last
    grid = np.unique(np.concatenate([np.linspace(attained, last, 20_001), [s for _, s in quantiles if s > attained]]))
    done = np.interp(grid, [start, *(s for _, s in quantiles)], [0.0, *(q for q, _ in quantiles)])
    tail = np.linspace(0, 40 * last, 20_001)[1:]  # at a constant rate, as long again as the last quantile on average
    grid = np.concatenate([grid, last + tail])
    done = np.concatenate([done, 1 - (1 - level) * np.exp(-tail / last)])
    spent = np.concatenate([[0.0], np.cumsum(np.diff(grid) * (1 - (done[1:] + done[:-1]) / 2))])
    ended = done - done[0]
    some = ended > 1e-9
    quotients = spent[some] / ended[some]
    assert index(quantiles, attained) == pytest.approx(quotients.min(), rel=2e-3)
    assert expected_left(quantiles, attained) == pytest.approx(quotients[-1], rel=2e-3)


@given(quantiles=increasing, share=st.floats(0, 0.98), further=st.floats(0, 0.999))
def test_a_running_job_only_gets_better_until_its_next_quantile(
    quantiles: Quantiles, share: float, further: float
) -> None:
    attained = share * quantiles[-1][1]
    left = PreemptiveGittins().look_again_s(job(quantiles, attained=attained))
    assert any(attained + left == pytest.approx(s) for _, s in quantiles)
    assert index(quantiles, attained + further * left) <= index(quantiles, attained) * (1 + 1e-9)


@given(quantiles=increasing, beyond=st.floats(1, 100))
def test_beyond_the_last_quantile_the_index_is_finite_and_stays(quantiles: Quantiles, beyond: float) -> None:
    last = quantiles[-1][1]
    assert index(quantiles, beyond * last) == expected_left(quantiles, beyond * last) == last
    assert PreemptiveGittins().look_again_s(job(quantiles, attained=beyond * last)) == math.inf


# -- theorems ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("policy", [Gittins(), PreemptiveGittins()])
def test_with_certain_lengths_gittins_is_what_it_should_be(policy: Policy) -> None:
    for length in (0.2, 1.0, 7.5):
        for known in (job(predicted=length), job(((1.0, length),)), job(((0.5, length), (1.0, length)))):
            assert policy.key(known, now=0.0) == pytest.approx(SSJF().key(job(predicted=length), now=0.0))
            known.attained_s = 0.6 * length
            running = job(predicted=length, attained=0.6 * length)
            assert policy.key(known, now=0.0) == pytest.approx(SRPT().key(running, now=0.0))


def test_a_job_of_certain_length_that_goes_on_is_expected_to_need_as_long_again() -> None:
    assert index((), 1.0) == expected_left((), 1.0) == 1.0
    assert math.isfinite(PreemptiveGittins().key(job(predicted=0.0), now=0.0))


def test_one_shape_of_distribution_at_several_scales_is_served_in_the_order_of_the_predictions() -> None:
    shape = ((0.1, 0.3), (0.5, 1.0), (0.9, 3.0))
    scaled = [tuple((level, scale * seconds) for level, seconds in shape) for scale in (0.5, 1.0, 2.0, 16.0)]
    for keys in ([index(q) for q in scaled], [expected_left(q) for q in scaled]):
        assert keys == sorted(keys)
        assert keys[3] == pytest.approx(16 * keys[1])


def test_with_exponential_lengths_the_index_is_the_mean_whatever_was_attained() -> None:
    # memoryless: shortest expected first, preemptive or not; quantiles up to .99, so that little is left to the tail
    levels = [i / 100 for i in range(1, 100)]
    for mean in (1.0, 10.0):
        quantiles = tuple((level, -mean * math.log(1 - level)) for level in levels)
        for attained in (0.0, 0.5 * mean, 1.5 * mean):
            assert index(quantiles, attained) == pytest.approx(mean, rel=0.03)


@pytest.mark.parametrize("attained", [0.0, 0.5, 1.9, 2.5, 3.9])
def test_with_an_increasing_rate_of_completion_a_job_that_has_begun_runs_to_its_end(attained: float) -> None:
    # uniform on (0, 4): new is worse than used, hence the best quantum has no end, and SERPT is optimal
    uniform = ((0.25, 1.0), (0.5, 2.0), (0.75, 3.0), (1.0, 4.0))
    assert index(uniform, attained) == pytest.approx((4 - attained) / 2) == expected_left(uniform, attained)


def test_with_a_decreasing_rate_of_completion_the_job_that_has_had_least_comes_first() -> None:
    # nine of ten with mean 1, one with mean 30: each further second of service is a worse sign
    def survival(x: float) -> float:
        return 0.9 * math.exp(-x) + 0.1 * math.exp(-x / 30)

    xs = [0.25 * i for i in range(1, 200)]
    quantiles = tuple((1 - survival(x), x) for x in xs)
    indices = [index(quantiles, attained) for attained in (0.0, *xs[:40])]
    assert indices == sorted(indices)
    assert indices[0] < 1.2 < expected_left(quantiles) < 5 < indices[-1]


# -- optimal play ------------------------------------------------------------------------------------------------------

Discrete = tuple[tuple[float, int], ...]  # (probability, length)


def quantiles_of(lengths: Discrete) -> Quantiles:
    """Steps, a hair's breadth apart in level."""
    points: list[tuple[float, float]] = []
    for index, (_, x) in enumerate(lengths):
        low, high = (math.fsum(p for p, _ in lengths[:count]) for count in (index, index + 1))
        points += [(low + 1e-12, float(x)), (min(high, 1.0), float(x))]
    return tuple(points)


def least_expected_total(jobs: Sequence[Discrete]) -> float:
    """Of completion times, when all jobs are there from the beginning and may be interrupted at any whole second."""

    @cache
    def least(ages: tuple[int | None, ...]) -> float:
        alive = [i for i, age in enumerate(ages) if age is not None]
        if not alive:
            return 0.0
        costs = []
        for i in alive:
            age = ages[i]
            assert age is not None
            left = [(p, x) for p, x in jobs[i] if x > age]
            ends = sum(p for p, x in left if x == age + 1) / sum(p for p, _ in left)
            cost = float(len(alive))
            if ends > 0:
                cost += ends * least((*ages[:i], None, *ages[i + 1 :]))
            if ends < 1:
                cost += (1 - ends) * least((*ages[:i], age + 1, *ages[i + 1 :]))
            costs.append(cost)
        return min(costs)

    return least((0,) * len(jobs))


def expected_total(jobs: Sequence[Discrete], policy: Policy) -> float:
    """The same under a policy, over all outcomes."""
    total = 0.0
    for outcome in itertools.product(*jobs):
        served = [
            (job(quantiles_of(lengths), predicted=sum(p * x for p, x in lengths), name=str(i)), float(x))
            for i, (lengths, (_, x)) in enumerate(zip(jobs, outcome, strict=True))
        ]
        replay(served, Scheduler(policy, Slots(1)))
        total += math.prod(p for p, _ in outcome) * sum(j.finished_at or math.nan for j, _ in served)
    return total


weights_and_lengths = st.lists(
    st.tuples(st.integers(1, 9), st.integers(1, 8)), min_size=1, max_size=3, unique_by=lambda pair: pair[1]
)
discrete = weights_and_lengths.map(
    lambda pairs: tuple((weight / sum(w for w, _ in pairs), x) for weight, x in sorted(pairs, key=lambda p: p[1]))
)


@given(jobs=st.lists(discrete, min_size=1, max_size=4))
@settings(max_examples=80, deadline=None)
def test_no_order_with_preemption_has_a_lower_expected_completion_time(jobs: list[Discrete]) -> None:
    assert expected_total(jobs, PreemptiveGittins()) == pytest.approx(least_expected_total(jobs), rel=1e-6)


@given(jobs=st.lists(discrete, min_size=1, max_size=4))
@settings(max_examples=40, deadline=None)
def test_no_order_without_preemption_has_a_lower_expected_completion_time(jobs: list[Discrete]) -> None:
    means = [sum(p * x for p, x in lengths) for lengths in jobs]
    least = min(sum(itertools.accumulate(order)) for order in itertools.permutations(means))
    assert expected_total(jobs, Gittins()) == pytest.approx(least, rel=1e-6)


def test_one_long_job_among_many_short_ones_is_put_aside_once_it_shows() -> None:
    # 1 s with probability .9, else 100 s; one job of certainly 8 s waits beside two such
    gamble: Discrete = ((0.9, 1), (0.1, 100))
    certain: Discrete = ((1.0, 8),)
    jobs = [gamble, certain, gamble]
    assert expected_total(jobs, PreemptiveGittins()) < expected_total(jobs, SSJF())
    assert index(quantiles_of(gamble)) == pytest.approx(1 / 0.9)
    assert index(quantiles_of(gamble), attained=1.0) == pytest.approx(99.0)
