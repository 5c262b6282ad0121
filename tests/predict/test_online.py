"""The online layer: whatever the base is worth, finished requests correct it."""

import math
import random
import statistics
from collections.abc import Callable, Sequence
from dataclasses import replace
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ssjf.core.types import Prediction, Request
from ssjf.errors import ArtefactError
from ssjf.metrics.rank import kendall_tau_b
from ssjf.predict.artefact import read_predictor, save_predictor
from ssjf.predict.base import Predictor
from ssjf.predict.ngram.predictor import NgramPredictor
from ssjf.predict.online import OnlinePredictor
from ssjf.predict.training import fit
from tests.predict.made_up import ANY_TEXT, ask, make_samples


class Frozen:
    """Says what a function of the prompt says, and learns nothing."""

    def __init__(self, says: Callable[[str], float]) -> None:
        self._says = says

    def predict(self, requests: Sequence[Request]) -> list[Prediction]:
        return [Prediction(self._says(request.prompt), source="frozen@1") for request in requests]

    def observe(self, request: Request, num_output_tokens: int) -> None:
        pass


def prompt_of(rng: random.Random) -> tuple[str, int]:
    """A prompt that says nothing of its length to anybody but who counts its x's, and the length."""
    count = rng.randrange(1, 30)
    words = ["a"] * 30 + ["x"] * count
    rng.shuffle(words)
    return f"{rng.random():.6f} " + " ".join(words), round(20 * count * math.exp(rng.gauss(0, 0.2)))


def knows(prompt: str) -> float:
    return 20.0 * prompt.split().count("x")


def learn(predictor: Predictor, num: int, *, model: str = "m", factor: float = 1.0, seed: int = 0) -> None:
    rng = random.Random(seed)
    for _ in range(num):
        prompt, length = prompt_of(rng)
        predictor.observe(ask(prompt, model=model), round(factor * length))


def look(predictor: Predictor, *, model: str = "m", num: int = 150) -> tuple[list[Prediction], list[int]]:
    rng = random.Random(999)
    pairs = [prompt_of(rng) for _ in range(num)]
    return predictor.predict([ask(prompt, model=model) for prompt, _ in pairs]), [length for _, length in pairs]


def tau(predictor: Predictor, *, model: str = "m") -> float:
    predictions, truths = look(predictor, model=model)
    return kendall_tau_b([p.num_output_tokens for p in predictions], truths)


def bias(predictor: Predictor, *, model: str = "m", factor: float = 1.0) -> float:
    """Mean error in log tokens."""
    predictions, truths = look(predictor, model=model)
    return statistics.fmean(
        math.log(p.num_output_tokens / (factor * t)) for p, t in zip(predictions, truths, strict=True)
    )


def test_before_it_has_learned_it_is_its_base() -> None:
    base = Frozen(knows)
    request = ask("x x x a", model="m")
    assert OnlinePredictor(base).predict([request]) == base.predict([request])


def test_bias_and_scale_of_a_frozen_base_are_learned_for_each_target_model() -> None:
    predictor = OnlinePredictor(Frozen(lambda prompt: 0.1 * knows(prompt) ** 0.5))
    learn(predictor, 150, model="short", factor=0.2)
    learn(predictor, 150, model="long", factor=5.0, seed=1)
    assert abs(bias(predictor, model="short", factor=0.2)) < 0.3
    assert abs(bias(predictor, model="long", factor=5.0)) < 0.3
    assert tau(predictor, model="short") > 0.75
    assert tau(predictor, model="long") > 0.75


def test_its_quantiles_come_to_hold_what_they_say() -> None:
    predictor = OnlinePredictor(Frozen(knows))
    learn(predictor, 400)
    predictions, truths = look(predictor, num=400)
    for level in (0.1, 0.5, 0.9):
        below = statistics.fmean(t <= dict(p.quantiles)[level] for p, t in zip(predictions, truths, strict=True))
        assert below == pytest.approx(level, abs=0.09)


def test_a_base_that_ranks_backwards_or_at_random_is_overruled() -> None:
    rng = random.Random(5)
    for says in (lambda prompt: 1e5 / (1 + knows(prompt)), lambda _: rng.uniform(1, 1000)):
        assert tau(OnlinePredictor(Frozen(says))) < 0.1
        predictor = OnlinePredictor(Frozen(says))
        learn(predictor, 300)
        assert tau(predictor) > 0.3  # the description of the prompt counts words


def test_worthless_predictions_grow_alike_and_wide() -> None:
    rng = random.Random(6)
    predictor = OnlinePredictor(Frozen(lambda _: rng.uniform(1, 1000)))
    truth = random.Random(7)
    for i in range(300):
        predictor.observe(ask(f"request {i % 7}", model="m"), round(math.exp(truth.gauss(5, 1))))
    predictions = predictor.predict([ask(f"request {i % 7}", model="m") for i in range(100)])
    centres = [math.log(p.num_output_tokens) for p in predictions]
    widths = [math.log(dict(p.quantiles)[0.9] / dict(p.quantiles)[0.1]) for p in predictions]
    assert statistics.pstdev(centres) < 0.25
    assert statistics.fmean(widths) > 2


def test_it_recovers_when_another_model_answers_under_the_same_name() -> None:
    predictor = OnlinePredictor(Frozen(knows))
    learn(predictor, 400)
    rng = random.Random(3)

    def other(prompt: str) -> int:
        return round(2000 / (1 + knows(prompt) / 20))

    for _ in range(300):
        prompt, _ = prompt_of(rng)
        predictor.observe(ask(prompt, model="m"), other(prompt))
    prompts = [prompt_of(rng)[0] for _ in range(150)]
    predictions = predictor.predict([ask(prompt, model="m") for prompt in prompts])
    assert kendall_tau_b([p.num_output_tokens for p in predictions], [other(prompt) for prompt in prompts]) > 0.7


def test_what_is_asked_for_beside_the_prompt_counts() -> None:
    predictor = OnlinePredictor(Frozen(lambda _: 100.0))
    rng = random.Random(1)

    def with_options(thinks: bool, budget: float) -> Request:
        options = (("thinking", float(thinks)), *((("thinking_budget", budget),) if thinks else ()))
        return replace(ask(f"request {rng.random()}", model="m"), options=options)

    for _ in range(200):
        thinks, budget = rng.random() < 0.5, rng.choice([500.0, 4000.0])
        predictor.observe(with_options(thinks, budget), round((budget if thinks else 50) * math.exp(rng.gauss(0, 0.2))))
    plain, some, much = (
        p.num_output_tokens
        for p in predictor.predict([with_options(False, 0.0), with_options(True, 500.0), with_options(True, 4000.0)])
    )
    assert plain * 3 < some < much / 1.5


def test_a_model_never_seen_starts_from_what_was_learned_of_all() -> None:
    predictor = OnlinePredictor(Frozen(lambda prompt: 0.1 * knows(prompt)))
    learn(predictor, 200)
    assert abs(bias(predictor, model="new")) < 0.2
    learn(predictor, 1, model="new", seed=8)
    assert tau(predictor, model="new") > 0.7
    assert predictor.target_models == ("m", "new")


def test_without_a_base_it_learns_from_zero() -> None:
    predictor = OnlinePredictor()
    samples = make_samples(400, model="m")
    for sample in samples[:300]:
        predictor.observe(ask(sample.prompt, model="m"), sample.num_output_tokens)
    predictions = predictor.predict([ask(sample.prompt, model="m") for sample in samples[300:]])
    truths = [sample.num_output_tokens for sample in samples[300:]]
    assert kendall_tau_b([p.num_output_tokens for p in predictions], truths) > 0.3


@settings(max_examples=25)
@given(st.lists(st.tuples(ANY_TEXT, st.sampled_from(["", "m", "n"]), st.integers(0, 10**6)), max_size=30), ANY_TEXT)
def test_whatever_it_is_told_it_says_something_finite(told: list[tuple[str, str, int]], prompt: str) -> None:
    for predictor in (OnlinePredictor(), OnlinePredictor(Frozen(lambda text: 1.0 + len(text)))):
        for text, model, length in told:
            predictor.observe(ask(text, model=model), length)
        for model in ("", "m", "unknown"):
            (prediction,) = predictor.predict([ask(prompt, model=model)])
            tokens = [tokens for _, tokens in prediction.quantiles]
            assert 1 <= prediction.num_output_tokens < math.inf
            assert all(low <= high for low, high in pairwise(tokens))
            assert all(1 <= value < math.inf for value in tokens)
    assert OnlinePredictor().predict([]) == []


@pytest.mark.parametrize("trained", [True, False])
def test_a_saved_one_goes_on_as_if_nothing_had_happened(tmp_path, trained: bool) -> None:
    base = fit(make_samples(100, model="m"))[0] if trained else None
    first = OnlinePredictor(base)
    learn(first, 60)
    learn(first, 20, model="other", seed=4)
    save_predictor(first, tmp_path / "saved")
    second = read_predictor(tmp_path / "saved")
    assert look(second)[0] == look(first)[0]
    for predictor in (first, second):
        learn(predictor, 30, seed=9)
    assert look(second)[0] == look(first)[0]
    assert look(second, model="other")[0] == look(first, model="other")[0]


def test_what_was_learned_can_be_kept_without_the_base() -> None:
    first = OnlinePredictor(Frozen(knows))
    learn(first, 60, factor=3.0)
    arrays, state = first.learned()
    second = OnlinePredictor(Frozen(knows))
    second.resume(arrays, state)
    assert look(second)[0] == look(first)[0]
    with pytest.raises(ArtefactError, match="cannot be saved"):
        first.state()


@pytest.mark.parametrize(
    ("name", "change"),
    [
        ("target0_rows", lambda array: array[:, :-1]),
        ("target0_truths", lambda array: array[:-1]),
        ("target1_experts", lambda array: array * math.nan),
        ("target0_counts", None),
    ],
)
def test_damaged_learning_is_refused(name: str, change: object) -> None:
    predictor = OnlinePredictor(Frozen(knows))
    learn(predictor, 20)
    arrays, state = predictor.learned()
    if change is None:
        del arrays[name]
    else:
        arrays[name] = change(arrays[name])  # type: ignore[operator]
    with pytest.raises(ArtefactError):
        OnlinePredictor(Frozen(knows)).resume(arrays, state)
    with pytest.raises(ArtefactError, match="format"):
        OnlinePredictor(Frozen(knows)).resume(arrays, state | {"format": 99})


def test_an_ngram_base_is_not_learned_twice() -> None:
    base = NgramPredictor()
    predictor = OnlinePredictor(base)
    learn(predictor, 10)
    assert base._targets["m"].num_observed == 10
