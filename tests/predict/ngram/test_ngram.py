"""The n-gram predictor: what it promises for any text, and that it learns."""

import math
import pickle
import statistics
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ssjf.metrics.rank import kendall_tau_b
from ssjf.predict.evaluation import evaluate
from ssjf.predict.ngram.features import featurize
from ssjf.predict.ngram.predictor import LEVELS, NgramPredictor
from ssjf.predict.training import as_request, fit
from tests.predict.made_up import ANY_TEXT, ask, make_samples


@pytest.fixture(scope="module")
def trained() -> NgramPredictor:
    return fit([*make_samples(300, model="small"), *make_samples(300, seed=1, model="wordy", factor=3.0)])[0]


@given(st.lists(ANY_TEXT, max_size=8))
def test_a_prediction_depends_on_neither_the_batch_nor_its_order(trained: NgramPredictor, prompts: list[str]) -> None:
    requests = [ask(prompt, model="small") for prompt in prompts]
    alone = [trained.predict([request])[0] for request in requests]
    assert trained.predict(requests) == alone
    assert trained.predict(requests[::-1]) == alone[::-1]


@given(ANY_TEXT, ANY_TEXT)
def test_every_text_and_model_name_gets_a_finite_prediction_with_rising_quantiles(
    trained: NgramPredictor, prompt: str, model: str
) -> None:
    for predictor in (trained, NgramPredictor()):
        (prediction,) = predictor.predict([ask(prompt, model=model)])
        tokens = [tokens for _, tokens in prediction.quantiles]
        assert [level for level, _ in prediction.quantiles] == list(LEVELS)
        assert all(low <= high for low, high in pairwise(tokens))
        assert tokens[0] >= 1
        assert tokens[-1] < math.inf
        assert 1 <= prediction.num_output_tokens < math.inf


@given(ANY_TEXT, st.integers(0, 100_000), st.booleans())
def test_observing_moves_the_prediction_towards_the_truth(prompt: str, truth: int, known: bool) -> None:
    predictor = NgramPredictor()
    request = ask(prompt, model="m" if known else "")

    def score() -> float:  # in log tokens, without the spread, which also moves
        target = predictor._targets.get(request.model, predictor._average)
        return max(target.level + float(predictor._weights.apply(featurize([prompt]))[0]), 0.0)

    before = score()
    predictor.observe(request, truth)
    after = score()
    wanted = math.log1p(truth)
    assert abs(after - wanted) < abs(before - wanted) or after == pytest.approx(wanted, abs=1e-6)
    for _ in range(60):
        predictor.observe(request, truth)
    assert score() == pytest.approx(wanted, abs=0.15)


def test_observing_any_prompt_of_a_trained_predictor_keeps_it_finite(trained: NgramPredictor) -> None:
    predictor = pickle.loads(pickle.dumps(trained))
    for prompt in ("", "\ud800 lone", "x" * 1_000_000, "Write a story"):
        for truth in (0, -1, 10**9):
            predictor.observe(ask(prompt, model="new"), truth)
    predictions = predictor.predict([ask("Write a story", model=model) for model in ("new", "small", "")])
    assert all(math.isfinite(prediction.num_output_tokens) for prediction in predictions)


def test_an_untrained_predictor_knows_that_it_knows_nothing() -> None:
    (prediction,) = NgramPredictor().predict([ask("Tell me everything")])
    quantiles = dict(prediction.quantiles)
    assert quantiles[0.9] / quantiles[0.1] > 10
    assert 100 < quantiles[0.5] < 200


def test_no_requests_get_no_predictions() -> None:
    assert NgramPredictor().predict([]) == []


def test_the_point_prediction_is_the_mean_in_tokens(trained: NgramPredictor) -> None:
    samples = make_samples(500, seed=7, model="small")
    predicted = trained.predict([as_request(sample) for sample in samples])
    mean = statistics.fmean(prediction.num_output_tokens for prediction in predicted)
    assert mean == pytest.approx(statistics.fmean(sample.num_output_tokens for sample in samples), rel=0.15)
    assert all(prediction.num_output_tokens > dict(prediction.quantiles)[0.5] for prediction in predicted)


def test_target_models_have_levels_of_their_own_and_unknown_ones_lie_between(trained: NgramPredictor) -> None:
    small, unknown, wordy = (
        p.num_output_tokens
        for p in trained.predict([ask("Write a story of Anna", model=m) for m in ("small", "never seen", "wordy")])
    )
    assert small < unknown < wordy
    assert wordy / small == pytest.approx(3, rel=0.15)
    assert trained.target_models == ("small", "wordy")


def test_the_cap_of_a_request_is_not_looked_at(trained: NgramPredictor) -> None:
    """A benchmark with a fixed number of output tokens puts the truth there."""
    first, second = trained.predict([ask("Write a story", max_tokens=cap) for cap in (1, 4096)])
    assert first == second


def test_it_learns_online_from_nothing() -> None:
    predictor, samples, predicted = NgramPredictor(), make_samples(500, model="m"), []
    for sample in samples:
        predicted += predictor.predict([as_request(sample)])
        predictor.observe(as_request(sample), sample.num_output_tokens)
    truth = [sample.num_output_tokens for sample in samples]
    late = [prediction.num_output_tokens for prediction in predicted[300:]]
    offline = fit(samples[:300])[0].predict([as_request(sample) for sample in samples[300:]])
    bound = kendall_tau_b([prediction.num_output_tokens for prediction in offline], truth[300:])
    reached = kendall_tau_b(late, truth[300:])
    assert bound is not None
    assert reached is not None
    assert reached > 0.9 * bound > 0.6
    for level in LEVELS:
        covered = sum(t <= dict(p.quantiles)[level] for t, p in zip(truth[300:], predicted[300:], strict=True)) / 200
        assert covered == pytest.approx(level, abs=0.12)


def test_it_follows_a_target_model_that_starts_to_answer_at_length(trained: NgramPredictor) -> None:
    predictor = pickle.loads(pickle.dumps(trained))
    samples = make_samples(300, seed=3, model="small", factor=6.0)
    for sample in samples:
        predictor.observe(as_request(sample), sample.num_output_tokens)
    later = make_samples(200, seed=4, model="small", factor=6.0)
    predictions = predictor.predict([as_request(sample) for sample in later])
    metrics = evaluate(predictions, [sample.num_output_tokens for sample in later])
    assert (metrics["tau_b"] or 0) > 0.7
    assert metrics["coverage_0.5"] == pytest.approx(0.5, abs=0.15)


def test_the_number_of_target_models_kept_is_bounded() -> None:
    predictor = NgramPredictor()
    for i in range(300):
        predictor.observe(ask("hello", model=f"model-{i}"), 10)
    assert len(predictor.target_models) == 256
