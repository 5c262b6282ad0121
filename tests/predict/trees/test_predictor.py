"""The family `trees` from samples to predictions and back from disk."""

import hashlib
import json
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from ssjf.errors import ArtefactError, DataError
from ssjf.predict.artefact import CARD, WEIGHTS, load_predictor, read_card, read_predictor, save_predictor
from ssjf.predict.training import Sample, as_request, measure, train
from ssjf.predict.trees.predictor import TreesPredictor
from ssjf.predict.trees.training import fit
from tests.predict.made_up import ask, make_samples

pytest.importorskip("lightgbm")

MIXED = ["Say hello of Anna", "Write a story of a fox", "", "日本語で答えて", "x" * 20_000, "What is 2 + 2?"]


@pytest.fixture(scope="module")
def both() -> TreesPredictor:
    """Of a terse model and one that says four times as much."""
    terse = make_samples(400, model="terse")
    return fit([*terse, *(Sample(s.prompt, 4 * s.num_output_tokens, "wordy") for s in terse)])[0]


@pytest.fixture(scope="module")
def saved(both: TreesPredictor, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("artefact") / "saved"
    save_predictor(both, folder)
    return folder


@pytest.fixture
def folder(saved: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(saved, tmp_path / "saved"))


def test_it_ranks_prompts_it_never_saw_and_knows_how_sure_it_is() -> None:
    trained = train(make_samples(1000, model="m"), fit)
    assert (trained.metrics["tau_b"] or 0) > 0.7
    for level in (0.1, 0.25, 0.5, 0.75, 0.9):
        assert trained.metrics[f"coverage_{level}"] == pytest.approx(level, abs=0.12)
    assert trained.settings["family"] == "trees"


def test_it_understands_requested_lengths_in_numbers_that_it_never_saw() -> None:
    rng = np.random.default_rng(0)
    amounts = rng.choice(np.arange(20, 20_000), 800, replace=False).tolist()
    samples = [Sample(f"Write {amount} words about {rng.integers(10**9)}", 2 * amount) for amount in amounts]
    ours, linear = train(samples, fit), train(samples)
    assert (ours.metrics["tau_b"] or 0) > 0.9
    assert (linear.metrics["tau_b"] or 0) < 0.7


def test_the_same_seed_gives_the_same_predictor_whatever_the_order_of_the_rows() -> None:
    samples = make_samples(200)
    requests = [ask(prompt) for prompt in MIXED]
    predictions = [fit(order, seed=3)[0].predict(requests) for order in (samples, samples[::-1])]
    assert predictions[0] == predictions[1]
    assert fit(samples, seed=4)[0].predict(requests) != predictions[0]


def test_target_models_share_what_they_have_in_common_and_keep_their_lengths(both: TreesPredictor) -> None:
    assert both.target_models == ("terse", "wordy")
    fresh = make_samples(200, seed=7)
    for model, factor in (("terse", 1), ("wordy", 4)):
        metrics = measure(both, [Sample(s.prompt, factor * s.num_output_tokens, model) for s in fresh])
        assert (metrics["tau_b"] or 0) > 0.7
        assert (metrics["log_mae"] or 9) < 0.4
        assert metrics["coverage_0.9"] == pytest.approx(0.9, abs=0.1)


def test_an_unknown_target_model_is_taken_for_an_average_one(both: TreesPredictor) -> None:
    story = "Write a story of Anna, number 5"
    terse, wordy, *unknown = both.predict([ask(story, model=model) for model in ("terse", "wordy", "new", "")])
    assert terse.num_output_tokens < unknown[0].num_output_tokens < wordy.num_output_tokens
    assert unknown[0] == unknown[1]


def test_a_model_seen_seldom_learns_from_the_others() -> None:
    many = make_samples(400, model="often")
    few = [Sample(s.prompt, 10 * s.num_output_tokens, "seldom") for s in make_samples(30, seed=5)]
    predictor, _ = fit([*many, *few])
    metrics = measure(predictor, [Sample(s.prompt, s.num_output_tokens, "seldom") for s in make_samples(200, seed=8)])
    assert (metrics["tau_b"] or 0) > 0.6


def test_predictions_depend_on_neither_company_nor_order(both: TreesPredictor) -> None:
    requests = [ask(prompt, model=model) for prompt in MIXED for model in ("terse", "wordy", "")] * 5
    together = both.predict(requests)
    assert together == [both.predict([request])[0] for request in requests]
    assert together[::-1] == both.predict(requests[::-1])
    assert both.predict([]) == []


def test_quantiles_are_ordered_and_predictions_at_least_one_token(both: TreesPredictor) -> None:
    for prediction in both.predict([ask(prompt, model=model) for prompt in MIXED for model in ("terse", "")]):
        tokens = [value for _, value in prediction.quantiles]
        assert tokens == sorted(tokens)
        assert min(*tokens, prediction.num_output_tokens) >= 1
        assert prediction.source == "trees@1"


def test_a_prompt_unlike_all_others_gets_a_wide_prediction_near_the_mean(both: TreesPredictor) -> None:
    def spread(prompt: str) -> float:
        quantiles = dict(both.predict([ask(prompt, model="terse")])[0].quantiles)
        return quantiles[0.9] / quantiles[0.1]

    strange = "```\nSELECT * FROM t;\n``` 你好!!! “x”= 3 ???\n\nA) $3\nB) $4\nC) $5 __ \n" * 40
    assert spread(strange) > 5 * spread("Say hello of Anna, number 5")


def test_finished_requests_teach_it_nothing(both: TreesPredictor) -> None:
    request = ask("Say hello", model="terse")
    before = both.predict([request])
    both.observe(request, 9999)
    assert both.predict([request]) == before


def test_a_saved_predictor_predicts_exactly_as_before(both: TreesPredictor, folder: Path) -> None:
    requests = [ask(prompt, model=model) for prompt in MIXED for model in ("terse", "wordy", "new")]
    assert load_predictor(str(folder)).predict(requests) == both.predict(requests)
    assert read_card(folder)["state"]["target_models"] == ["terse", "wordy"]


def test_serving_needs_none_of_what_training_needs(folder: Path) -> None:
    code = f"""
import sys
from pathlib import Path
from ssjf.core.types import Request
from ssjf.predict.artefact import read_predictor
request = Request(request_id="r", prompt="Say hello", arrival_time=0.0)
print(read_predictor(Path({str(folder)!r})).predict([request])[0].num_output_tokens > 0)
print({{"lightgbm", "scipy", "sklearn", "torch"}} & set(sys.modules))
"""
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60)
    assert result.stdout.split("\n")[:2] == ["True", "set()"]


def test_an_untrained_one_says_what_to_do() -> None:
    with pytest.raises(ArtefactError, match="ssjf train"):
        load_predictor("trees")


def rewrite(folder: Path, **changes: np.ndarray | None) -> None:
    """Change or drop arrays, with a card that vouches for it."""
    with np.load(folder / WEIGHTS) as archive:
        arrays = {**dict(archive), **changes}
    np.savez(folder / WEIGHTS, **{name: array for name, array in arrays.items() if array is not None})
    card = json.loads((folder / CARD).read_text())
    card["weights_sha256"] = hashlib.sha256((folder / WEIGHTS).read_bytes()).hexdigest()
    (folder / CARD).write_text(json.dumps(card))


@pytest.mark.parametrize(
    "name",
    ["linear_table", "linear_dense", "scaler_mean", "tree_child", "target_loadings", "curve_logs", "range_highest"],
)
def test_an_artefact_with_a_part_missing_or_misshapen_is_refused(folder: Path, name: str) -> None:
    rewrite(folder, **{name: np.zeros((2, 2))})
    with pytest.raises(ArtefactError, match=str(folder)):
        read_predictor(folder)
    rewrite(folder, **{name: None})
    with pytest.raises(ArtefactError, match=str(folder)):
        read_predictor(folder)


def test_an_artefact_of_other_features_is_refused(folder: Path) -> None:
    card = json.loads((folder / CARD).read_text())
    card["state"]["features"] = [0, 1]
    (folder / CARD).write_text(json.dumps(card))
    with pytest.raises(ArtefactError, match="train it anew"):
        read_predictor(folder)


def test_lengths_that_are_all_equal_are_predicted_as_such() -> None:
    predictor, _ = fit([Sample(f"prompt {i}", 7) for i in range(40)])
    prediction = predictor.predict([ask("prompt 3")])[0]
    assert prediction.num_output_tokens == pytest.approx(7, abs=0.1)
    assert {value for _, value in prediction.quantiles} == {7.0}


def test_a_single_prompt_is_too_few() -> None:
    with pytest.raises(DataError, match="single prompt"):
        fit([Sample("again", i) for i in range(100)])


@pytest.mark.parametrize("count", [2, 3, 20])
def test_a_handful_of_prompts_is_learned_from(count: int) -> None:
    predictor, _ = fit([Sample(f"prompt {i}", 10 * i) for i in range(count)])
    assert 1 <= predictor.predict([ask("prompt")])[0].num_output_tokens <= 10 * count


def test_strange_prompts_and_lengths_of_zero_are_learned_from() -> None:
    strange = [Sample(text, 0) for text in ("", "\udc80 lone surrogate", "\x00" * 9, "x" * 1_000_000, "日本語で答えて")]
    trained = train([*strange, *make_samples(100)], fit)
    assert trained.metrics["n"] == 21
    lowest = trained.predictor.predict([as_request(sample) for sample in strange])
    assert all(prediction.num_output_tokens >= 1 for prediction in lowest)


def test_turns_of_a_conversation_lie_in_one_fold_and_prompts_of_several_answers_count_once() -> None:
    turns = [f"user: hi {i}\n\nassistant: yes\n\nuser: and {j}" for i in range(30) for j in range(3)]
    _, settings = fit([Sample(turn, 5 + len(turn) % 9) for turn in turns] * 2)
    assert settings["prompts"] == 90
