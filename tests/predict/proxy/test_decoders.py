"""Outputs to tokens, against what is known of made-up outputs."""

import json

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from sklearn.isotonic import IsotonicRegression

from ssjf.errors import ArtefactError, DataError
from ssjf.predict.evaluation import evaluate
from ssjf.predict.ngram.predictor import LEVELS
from ssjf.predict.proxy.decoders import decoder_from, fit_decoder, isotonic
from ssjf.predict.proxy.formulations import FORMULATIONS, Scale, Targets

SCALE = {"unit": "log", "centre": 0.0, "spread": 1.0}
RNG = np.random.default_rng(0)
MEDIANS = RNG.uniform(2, 6, 4000)  # of log lengths
LENGTHS = np.exp(MEDIANS + RNG.normal(0, 0.5, 4000)).round()


def ideal_outputs(name: str, targets: Targets) -> np.ndarray:
    """What a network would give that knows the distribution of every length."""
    kind = FORMULATIONS[name].decoder
    if kind == "rank":
        return np.tanh(MEDIANS - 4)[:, None]
    if kind == "class":
        draws = np.exp(MEDIANS[:, None] + np.random.default_rng(1).normal(0, 0.5, 400))
        chances = np.stack([(targets.classes(draws) == c).mean(axis=1) for c in range(targets.num_outputs)], axis=1)
        return np.log(np.maximum(chances, 1e-3) * targets.class_weights())  # as weighted likelihood teaches
    offsets = np.quantile(np.random.default_rng(1).normal(0, 0.5, 4000), LEVELS) if kind == "quantile" else [0.0]
    return (MEDIANS[:, None] + offsets - targets.scale.centre) / targets.scale.spread


@pytest.mark.parametrize("name", FORMULATIONS)
def test_whatever_the_head_predictions_are_tokens_with_honest_quantiles(name: str) -> None:
    targets = Targets(name, LENGTHS[:2000].astype(int).tolist())
    outputs = ideal_outputs(name, targets)
    decoder = decoder_from(
        json.loads(json.dumps(fit_decoder(targets, outputs[2000:3000], LENGTHS[2000:3000]).to_json()))
    )
    assert decoder.num_outputs == outputs.shape[1] == targets.num_outputs
    predictions = decoder.predictions(outputs[3000:], "me@1")
    assert [p.num_output_tokens for p in predictions] == decoder.scores(outputs[3000:]).tolist()
    for prediction in predictions[:50]:
        assert [level for level, _ in prediction.quantiles] == list(LEVELS)
        tokens = [tokens for _, tokens in prediction.quantiles]
        assert tokens == sorted(tokens)
        assert tokens[0] >= 1
    metrics = evaluate(predictions, LENGTHS[3000:].astype(int).tolist())
    assert metrics["tau_b"] > (0.45 if name == "binary" else 0.6)
    # two classes leave each quantile of one of them in the middle of a class
    for level in LEVELS:
        assert metrics[f"coverage_{level}"] == pytest.approx(level, abs=0.07)
    mean = np.mean([p.num_output_tokens for p in predictions])
    assert mean == pytest.approx(LENGTHS[3000:].mean(), rel=0.12)


def test_isotonic_knots_are_those_of_scikit_learn() -> None:
    scores, values = RNG.normal(size=300).round(1), RNG.normal(size=300)
    values += scores
    heights = IsotonicRegression().fit(scores, values).predict(np.unique(scores))
    centres, steps = isotonic(scores, values)
    assert steps == pytest.approx(np.unique(heights.round(12)))
    assert centres == sorted(centres)


def test_scores_that_order_the_wrong_way_round_are_not_believed() -> None:
    targets = Targets("listwise", LENGTHS[:2000].astype(int).tolist())
    decoder = fit_decoder(targets, -MEDIANS[:1000, None], LENGTHS[:1000])
    assert len(set(decoder.scores(-MEDIANS[1000:, None]))) == 1


def test_a_scale_and_back_in_either_unit() -> None:
    lengths = np.array([1, 10, 100, 700])
    for unit in ("log", "tokens"):
        scale = Scale.of(lengths, unit)
        labels = scale.labels(lengths)
        assert (labels.mean(), labels.std()) == pytest.approx((0, 1))
        assert np.expm1(scale.log_tokens(labels)) == pytest.approx(lengths)


def test_classes_lie_between_percentiles_of_the_training_data() -> None:
    targets = Targets("multiclass", list(range(1, 101)))
    assert targets.thresholds == [26, 51, 76, 100]
    assert targets.classes([1, 26, 60, 99, 100, 5000]).tolist() == [0, 1, 2, 3, 4, 4]
    assert [len(lengths) for lengths in targets.by_class()] == [25, 25, 25, 24, 1]
    assert targets.class_weights() @ [25, 25, 25, 24, 1] == pytest.approx(100)
    assert Targets("binary", list(range(1, 101)), percentiles=(0.5, 0.99)).num_outputs == 3


def test_a_class_that_ties_leave_empty_is_left_out() -> None:
    targets = Targets("multiclass", [7] * 60 + [9] * 40)
    assert targets.thresholds == [9.0]
    assert targets.num_outputs == 2
    assert Targets("binary", [7] * 60 + [9] * 30 + [8] * 10).thresholds == [8.0]
    with pytest.raises(DataError, match="only one class"):
        Targets("ordinal-l1", [7] * 100)


@given(st.lists(st.integers(1, 600), min_size=2, max_size=60), st.integers(1, 600))
def test_no_class_is_empty_where_answers_were_cut_off(lengths: list[int], cap: int) -> None:
    capped = [min(length, cap) for length in lengths]
    assume(len(set(capped)) > 1)
    for name in ("multiclass", "binary", "ordinal-mse"):
        targets = Targets(name, capped)
        assert all(len(found) for found in targets.by_class())
        assert np.isfinite(targets.class_weights()).all()


def test_outputs_that_are_no_numbers_say_what_to_do() -> None:
    with pytest.raises(DataError, match="learning-rate"):
        fit_decoder(Targets("listwise", [1, 2, 3]), [[float("nan")]] * 3, [1, 2, 3])


@pytest.mark.parametrize(
    "state",
    [
        {"kind": "score", "errors": [], "scale": SCALE, "knots": None},
        {"kind": "score", "errors": [0.0], "scale": None, "knots": None},
        {"kind": "score", "errors": [0.0], "scale": None, "knots": [[0.0, float("nan")], [1.0, 2.0]]},
        {"kind": "score", "errors": [0.0], "scale": None, "knots": [[0.0, 1.0], [1.0]]},
        {"kind": "score", "errors": [0.0], "scale": None, "knots": [[1.0, 0.0], [1.0, 2.0]]},
        {"kind": "score", "errors": [0.0], "scale": SCALE | {"spread": float("nan")}, "knots": None},
        {"kind": "score", "errors": [0.0], "scale": SCALE | {"spread": None}, "knots": None},
        {"kind": "score", "errors": [0.0], "scale": SCALE | {"unit": "miles"}, "knots": None},
        {"kind": "class", "points": [[1.0], [2.0]], "priors": [0.0], "temperature": 1.0},
        {"kind": "class", "points": [[1.0], [2.0]], "priors": [0.0, 0.0], "temperature": 0.0},
        {"kind": "quantile", "scale": SCALE, "shifts": [0.0], "factor": 1.0},
    ],
)
def test_a_damaged_decoder_is_refused(state: dict) -> None:
    with pytest.raises((ArtefactError, TypeError, ValueError)):  # which `read_predictor` takes for damage
        decoder_from(state)
