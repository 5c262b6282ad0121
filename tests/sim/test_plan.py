"""Searching for capacity, against queues whose answers are known."""

import math
from collections.abc import Callable

import numpy as np
import pytest

from ssjf.core.policies import FCFS
from ssjf.core.service import LinearServiceModel
from ssjf.errors import ConfigError
from ssjf.sim.host import LinearHost, Trace, simulate
from ssjf.sim.plan import HIGHEST, RESOLUTION, Limit, fewest_replicas, largest_load, parse_limit, worst_ratio
from ssjf.workload.arrivals import Poisson


@pytest.mark.parametrize("border", [0.05, 0.137, 0.5, 0.849, 0.93])
def test_the_border_is_found_to_the_resolution(border: float) -> None:
    found = largest_load(lambda load: load / border)
    assert border - RESOLUTION <= found <= border


def test_where_the_limit_always_holds_stability_is_the_answer() -> None:
    assert largest_load(lambda _: 0.5) == HIGHEST


def test_where_the_limit_never_holds_no_load_is_the_answer() -> None:
    assert largest_load(lambda _: 2.0) < RESOLUTION


def test_loads_beyond_the_first_that_fails_do_not_count() -> None:
    assert largest_load(lambda load: 2.0 if 0.55 < load < 0.65 else 0.5) <= 0.55


@pytest.mark.parametrize("needed", [1, 2, 7, 40])
def test_the_fewest_replicas_are_found(needed: int) -> None:
    asked: list[int] = []

    def ratio(count: int) -> float:
        asked.append(count)
        return needed / count

    assert fewest_replicas(ratio, at_least=1) == needed
    assert len(asked) < 14


def test_fewer_replicas_than_the_load_needs_are_never_tried() -> None:
    assert fewest_replicas(lambda _: 0.1, at_least=5) == 5


def test_a_limit_that_no_number_of_replicas_keeps_has_no_answer() -> None:
    assert fewest_replicas(lambda _: 2.0, at_least=1, most=100) is None


@pytest.mark.parametrize(
    ("text", "limit"), [("p99-jct=30", Limit("p99", "jct", 30.0)), (" mean-wait=.5", Limit("mean", "wait", 0.5))]
)
def test_a_limit_is_read_from_its_text(text: str, limit: Limit) -> None:
    assert parse_limit(text) == limit


@pytest.mark.parametrize("text", ["", "p99=3", "p98-jct=3", "p99-tpot=3", "p99-jct", "p99-jct=0", "p99-jct=nan"])
def test_a_limit_that_makes_no_sense_is_refused_with_the_grammar(text: str) -> None:
    with pytest.raises(ConfigError, match="expected STATISTIC-TIME=SECONDS"):
        parse_limit(text)


def exponential(seed: int, jobs: int) -> Callable[[float], Trace]:
    """Jobs of exponential service with mean 1 s, as a function of their rate."""
    tokens = np.maximum(1, np.rint(np.random.default_rng([seed, 1]).exponential(10_000, jobs))).astype(int).tolist()

    def at(rate: float) -> Trace:
        times = Poisson(rate).times(jobs, seed).tolist()
        return Trace(index=range(jobs), arrival_s=times, input_tokens=[0] * jobs, output_tokens=tokens)

    return at


def test_one_server_takes_the_rate_that_theory_says() -> None:
    """M/M/1 under FCFS: completion times are exponential with rate μ − λ, so p90 ≤ L up to λ = μ − ln(10)/L."""
    host = LinearHost(service=LinearServiceModel(0.0, 0.0, 1e-4))
    limit = Limit("p90", "jct", 6.0)
    found = []
    for seed in range(5):
        trace = exponential(seed, 20_000)

        def ratio(load: float, trace: Callable[[float], Trace] = trace) -> float:
            return worst_ratio([limit], [simulate(trace(load), FCFS(), host, label="fcfs")])

        found.append(largest_load(ratio))
    expected = 1 - math.log(10) / 6
    spread = np.std(found, ddof=1) / math.sqrt(len(found))
    assert np.mean(found) == pytest.approx(expected, abs=3 * spread + RESOLUTION)
    assert spread < 0.02


def test_several_slots_take_the_rate_that_erlang_says() -> None:
    """M/M/4 under FCFS: mean wait = C(4, 4ρ) / (4 − 4ρ), by Erlang's C."""
    host = LinearHost(slots=4, service=LinearServiceModel(0.0, 0.0, 1e-4))

    def mean_wait_s(load: float) -> float:
        offered = 4 * load
        blocked = offered**4 / math.factorial(4) / (1 - load)
        waits = blocked / (sum(offered**k / math.factorial(k) for k in range(4)) + blocked)
        return waits / (4 * (1 - load))

    limit = Limit("mean", "wait", mean_wait_s(0.8))
    found = []
    for seed in range(5):
        trace = exponential(seed, 20_000)

        def ratio(load: float, trace: Callable[[float], Trace] = trace) -> float:
            return worst_ratio([limit], [simulate(trace(4 * load), FCFS(), host, label="fcfs")])

        found.append(largest_load(ratio))
    spread = np.std(found, ddof=1) / math.sqrt(len(found))
    assert np.mean(found) == pytest.approx(0.8, abs=3 * spread + RESOLUTION)


def test_all_limits_must_hold_and_jobs_of_all_tables_count() -> None:
    host = LinearHost(service=LinearServiceModel(1.0, 0.0, 0.0))
    trace = Trace(index=[0, 1], arrival_s=[0.0, 0.0], input_tokens=[1, 1], output_tokens=[1, 1])
    table = simulate(trace, FCFS(), host, label="fcfs")  # completion times 1 and 2 s, waits 0 and 1 s
    assert worst_ratio([Limit("max", "jct", 4.0), Limit("mean", "wait", 0.5)], [table]) == 1.0
    assert worst_ratio([Limit("mean", "jct", 3.0)], [table, table]) == 0.5


def test_a_limit_on_first_tokens_needs_a_host_that_knows_them() -> None:
    host = LinearHost()
    trace = Trace(index=[0], arrival_s=[0.0], input_tokens=[1], output_tokens=[1])
    with pytest.raises(ConfigError, match="--cost-model"):
        worst_ratio([Limit("p99", "ttft", 1.0)], [simulate(trace, FCFS(), host, label="fcfs")])
