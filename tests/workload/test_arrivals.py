"""Arrival processes have the rate and the burstiness they are named for, and a seed fixes them."""

from pathlib import Path

import numpy as np
import pytest
from scipy import stats

from ssjf.errors import ConfigError, DataError
from ssjf.workload.arrivals import (
    GRAMMAR,
    Burst,
    Gamma,
    OnOff,
    Poisson,
    Process,
    Trace,
    Uniform,
    parse_arrivals,
    parse_process,
    times_at_rate,
)


@pytest.fixture
def trace(tmp_path: Path) -> Path:
    path = tmp_path / "trace.csv"
    path.write_text("arrival_s,output_tokens\n14,1\n10,2\n11.5,3\n")
    return path


def test_each_name_gives_its_process() -> None:
    assert parse_arrivals("poisson:2.5") == Poisson(2.5)
    assert parse_arrivals("gamma:2:3") == Gamma(2.0, 3.0)
    assert parse_arrivals("uniform:4") == Uniform(4.0)
    assert parse_arrivals("onoff:1e-1") == OnOff(0.1)
    assert parse_arrivals("burst") == Burst()


@pytest.mark.parametrize("spec", ["poisson:3", "gamma:3:2.5", "uniform:3", "onoff:3"])
def test_the_mean_rate_is_the_one_asked_for(spec: str) -> None:
    times = parse_arrivals(spec).times(360_000, seed=0)
    assert len(times) / times[-1] == pytest.approx(3, rel=0.02)
    assert times[0] > 0
    assert (np.diff(times) >= 0).all()


@pytest.mark.parametrize("spec", ["poisson:3", "gamma:3:2.5", "onoff:3"])
def test_a_seed_gives_the_same_times_and_another_seed_others(spec: str) -> None:
    arrivals = parse_arrivals(spec)
    assert arrivals.times(50, seed=1).tolist() == arrivals.times(50, seed=1).tolist()
    assert arrivals.times(50, seed=1).tolist() != arrivals.times(50, seed=2).tolist()


def test_fewer_arrivals_are_the_first_of_more() -> None:
    for spec in ("poisson:3", "gamma:3:2.5", "uniform:3", "onoff:3"):
        arrivals = parse_arrivals(spec)
        assert arrivals.times(20, seed=0).tolist() == arrivals.times(50, seed=0)[:20].tolist()


def test_gaps_have_the_distribution_of_their_name() -> None:
    poisson = np.diff(Poisson(2.0).times(20_000, seed=0))
    assert stats.kstest(poisson, stats.expon(scale=0.5).cdf).pvalue > 0.01
    gamma = np.diff(Gamma(2.0, 3.0).times(20_000, seed=0))
    assert gamma.std() / gamma.mean() == pytest.approx(3, rel=0.05)
    assert Uniform(4.0).times(3, seed=0).tolist() == [0.25, 0.5, 0.75]
    assert Burst().times(3, seed=0).tolist() == [0, 0, 0]


def test_bursts_have_three_times_the_rate_for_120_s_and_half_of_it_for_480_s() -> None:
    times = OnOff(2.0).times(240_000, seed=0)
    whole = times[times < 600 * (times[-1] // 600)]
    phase, periods = whole % 600, times[-1] // 600
    assert (phase < 120).sum() / (periods * 120) == pytest.approx(6, rel=0.02)
    assert (phase >= 120).sum() / (periods * 480) == pytest.approx(1, rel=0.02)
    # within a phase nothing is preferred
    assert stats.kstest(phase[phase < 120] / 120, "uniform").pvalue > 0.01
    assert stats.kstest((phase[phase >= 120] - 120) / 480, "uniform").pvalue > 0.01


def test_a_trace_is_sorted_begins_at_zero_and_runs_scale_times_as_fast(trace: Path) -> None:
    assert parse_arrivals(f"trace:{trace}").times(3, seed=7).tolist() == [0, 1.5, 4]
    assert parse_arrivals(f"trace:{trace}:2").times(2, seed=7).tolist() == [0, 0.75]


def test_a_path_may_contain_colons(trace: Path) -> None:
    odd = trace.rename(trace.with_name("a:2:b.csv"))
    assert parse_arrivals(f"trace:{odd}:0.5").times(2, seed=0).tolist() == [0, 3]


def test_a_trace_that_is_too_short_says_so(trace: Path) -> None:
    with pytest.raises(ConfigError, match="3 arrivals, but 4 are needed"):
        parse_arrivals(f"trace:{trace}").times(4, seed=0)


def test_a_trace_needs_times_and_must_exist(tmp_path: Path) -> None:
    (tmp_path / "prompts.csv").write_text("prompt\nHello\n")
    with pytest.raises(DataError, match="no column arrival_s"):
        parse_arrivals(f"trace:{tmp_path / 'prompts.csv'}")
    with pytest.raises(DataError, match="No such file"):
        parse_arrivals(f"trace:{tmp_path / 'missing.csv'}")


@pytest.mark.parametrize(
    "spec",
    [
        *("", "poison:3", "poisson", "poisson:", "poisson:x", "poisson:0", "poisson:-1", "poisson:nan", "poisson:inf"),
        *("poisson:1:2", "gamma:1", "gamma:1:0", "burst:3", "trace", "trace:", "trace:x.csv:0", "trace:x.csv:"),
    ],
)
def test_anything_else_shows_the_grammar(spec: str) -> None:
    with pytest.raises(ConfigError) as caught:
        parse_arrivals(spec)
    assert GRAMMAR in str(caught.value)
    assert repr(spec) in str(caught.value)


@pytest.mark.parametrize("spec", ["poisson", "gamma:2.5", "uniform", "onoff"])
def test_a_process_without_a_rate_can_be_had_at_any(spec: str) -> None:
    kind, _, rest = spec.partition(":")
    named = parse_arrivals(":".join(filter(None, (kind, "3", rest))))
    times = times_at_rate(parse_process(spec), 3.0, 500, seed=1)
    assert times.tolist() == named.times(500, seed=1).tolist()


def test_a_trace_is_stretched_so_that_what_is_taken_of_it_has_the_rate(trace: Path) -> None:
    process = parse_process(f"trace:{trace}")
    assert times_at_rate(process, 1.5, 3, seed=0).tolist() == pytest.approx([0, 0.75, 2.0])
    assert times_at_rate(process, 1.0, 2, seed=0).tolist() == pytest.approx([0, 2.0])


@pytest.mark.parametrize("spec", ["", "poisson:2", "gamma", "gamma:0", "onoff:1", "burst", "trace:", "poison"])
def test_what_is_no_process_without_a_rate_is_refused(spec: str) -> None:
    with pytest.raises(ConfigError, match="expected"):
        parse_process(spec)


def test_a_trace_whose_rate_follows_from_the_load_has_no_scale(trace: Path) -> None:
    with pytest.raises(ConfigError, match="the rate follows from the load"):
        parse_process(f"trace:{trace}:50")


@pytest.mark.parametrize(("process", "count"), [(Trace([4.0, 4.0, 9.0]), 2), (Trace([1.0]), 1), (Trace([1.0]), 2)])
def test_a_trace_without_an_extent_has_no_rate(process: Process, count: int) -> None:
    with pytest.raises(ConfigError, match=r"all at once|1 arrivals, but 2"):
        times_at_rate(process, 1.0, count, seed=0)
