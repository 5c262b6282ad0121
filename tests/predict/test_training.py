import pytest

from ssjf.errors import DataError
from ssjf.predict.training import Sample, fit, measure, split_by_prompt, train
from tests.predict.made_up import make_samples


def test_training_ranks_held_out_prompts_and_tells_how_sure_it_is() -> None:
    trained = train(make_samples(800, model="m"))
    assert (trained.metrics["tau_b"] or 0) > 0.7
    for level in (0.1, 0.25, 0.5, 0.75, 0.9):
        assert trained.metrics[f"coverage_{level}"] == pytest.approx(level, abs=0.12)
    assert trained.metrics_by_model == {"m": trained.metrics}


def test_the_same_seed_gives_the_same_predictor_whatever_the_order_of_the_rows() -> None:
    samples = make_samples(200)
    metrics = [train(order, seed=3).metrics for order in (samples, samples[::-1])]
    assert metrics[0] == pytest.approx(metrics[1])
    assert train(samples, seed=4).metrics != metrics[0]


def test_samples_of_one_prompt_stay_on_one_side_of_the_split() -> None:
    samples = [Sample(f"prompt {i % 40}", i) for i in range(200)]
    training, apart = split_by_prompt(samples, share=0.2, seed=0)
    assert {s.prompt for s in training}.isdisjoint(s.prompt for s in apart)
    assert len({s.prompt for s in apart}) == 8
    assert len(training) + len(apart) == 200


def test_a_prompt_shared_by_two_models_teaches_both() -> None:
    terse = make_samples(300, model="terse")
    wordy = [Sample(s.prompt, 4 * s.num_output_tokens, "wordy") for s in terse]
    predictor, settings = fit([*terse, *wordy])
    assert settings["prompts"] == 300
    for samples in (terse, wordy):
        assert (measure(predictor, samples)["tau_b"] or 0) > 0.7
        assert (measure(predictor, samples)["log_mae"] or 9) < 0.4


@pytest.mark.parametrize(
    ("samples", "complaint"),
    [
        ([], "0 distinct prompts"),
        ([Sample("again", i) for i in range(100)], "1 distinct prompts"),
        ([Sample(str(i), 7) for i in range(100)], "same length"),
    ],
)
def test_too_little_to_learn_from_is_said_clearly(samples: list[Sample], complaint: str) -> None:
    with pytest.raises(DataError, match=complaint):
        train(samples)


def test_strange_prompts_and_lengths_of_zero_are_learned_from() -> None:
    strange = [Sample(text, 0) for text in ("", "\udc80 lone surrogate", "\x00" * 9, "x" * 1_000_000, "日本語で答えて")]
    trained = train([*strange, *make_samples(100)])
    assert trained.metrics["n"] == 21


def test_a_small_set_whose_training_part_is_all_alike_still_trains() -> None:
    samples = [Sample(f"prompt {i}", 10) for i in range(40)]
    _, apart = split_by_prompt(samples, share=0.2, seed=0)
    odd = Sample(apart[0].prompt, 99)
    trained = train([odd if s == apart[0] else s for s in samples])
    assert trained.metrics["n"] == 8
    assert trained.metrics["mae"] == pytest.approx(89 / 8, abs=1.0)
