"""Generated lengths follow the distributions they are named after."""

import math
from collections.abc import Sequence

import numpy as np
import pytest

from ssjf.errors import ConfigError
from ssjf.workload.arrivals import Poisson
from ssjf.workload.generated.lengths import generate, parse_lengths

MANY = 40_000


def lengths(spec: str, seed: int = 0) -> Sequence[int]:
    items = generate(MANY, outputs=parse_lengths(spec), inputs=parse_lengths("constant:7"), seed=seed)
    assert {item.input_tokens for item in items} == {7}
    return [item.output_tokens or 0 for item in items]


@pytest.mark.parametrize(
    ("spec", "mean", "cv"),
    [
        ("constant:12", 12, 0),
        ("uniform:100:300", 200, 200 / math.sqrt(12) / 200),
        ("exponential:180", 180, 1),
        ("lognormal:180:0.7", 180, 0.7),
    ],
)
def test_mean_and_variation_are_as_asked(spec: str, mean: float, cv: float) -> None:
    drawn = np.array(lengths(spec))
    error = 4 * max(cv, 0.01) * mean / math.sqrt(MANY)
    assert drawn.mean() == pytest.approx(mean, abs=error)
    assert drawn.std() / drawn.mean() == pytest.approx(cv, abs=0.03)


def test_the_papers_lengths_have_its_published_percentiles() -> None:
    drawn = np.array(lengths("paper"))
    for level, tokens in ((25, 41), (50, 140), (75, 294), (95, 447), (99, 502)):
        assert np.percentile(drawn, level) == pytest.approx(tokens, abs=4)
    assert drawn.mean() == pytest.approx(177, rel=0.03)
    assert (drawn.min() >= 1, drawn.max() <= 512) == (True, True)


def test_lengths_are_whole_and_at_least_one() -> None:
    assert min(lengths("exponential:2")) == 1


def test_a_seed_gives_the_same_lengths_everywhere_and_another_one_others() -> None:
    assert lengths("paper", 1) == lengths("paper", 1) != lengths("paper", 2)


def test_inputs_outputs_and_arrivals_of_one_seed_are_independent() -> None:
    both = generate(MANY, outputs=parse_lengths("exponential:500"), inputs=parse_lengths("exponential:500"), seed=5)
    inputs, outputs = [item.input_tokens for item in both], [item.output_tokens or 0 for item in both]
    gaps = np.diff(Poisson(1.0).times(MANY + 1, 5))
    for one, other in ((inputs, outputs), (gaps, outputs), (gaps, inputs)):
        assert abs(np.corrcoef(one, other)[0, 1]) < 4 / math.sqrt(MANY)


@pytest.mark.parametrize(
    "spec", ["", "normal:3", "paper:1", "constant", "constant:x", "exponential:-3", "lognormal:3", "uniform:0:3"]
)
def test_a_distribution_that_does_not_exist_is_refused_with_the_grammar(spec: str) -> None:
    with pytest.raises(ConfigError, match=r"expected constant:TOKENS"):
        parse_lengths(spec)


def test_an_upside_down_range_is_refused() -> None:
    with pytest.raises(ConfigError, match="lower end must come first"):
        parse_lengths("uniform:30:10")
