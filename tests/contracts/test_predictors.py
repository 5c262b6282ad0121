"""What every predictor found through the entry points promises, ours and a stranger's alike."""

import math
from itertools import pairwise

import pytest

from ssjf.core.types import Request
from ssjf.errors import ArtefactError, PluginError
from ssjf.plugins import PREDICTORS, find, names
from ssjf.predict.base import Predictor

TRAINED_ONLY = {"embedding", "proxy", "trees"}
PROMPTS = [
    "",
    "hello",
    "Write 500 words on sleep.",
    "こんにちは",
    "x" * 100_000,
    "a\x00b\ud800",
    "user: a\n\nassistant: b",
]


@pytest.fixture(params=names(PREDICTORS))
def predictor(request: pytest.FixtureRequest) -> Predictor:
    """A new one of each kind that knows something without a training."""
    if request.param in TRAINED_ONLY:
        with pytest.raises((ArtefactError, PluginError), match="ssjf train"):  # it says what to do
            find(PREDICTORS, request.param)()
        pytest.skip(f"{request.param} has to be trained")
    made: Predictor = find(PREDICTORS, request.param)()
    return made


def ask(prompt: str, number: int = 0) -> Request:
    return Request(request_id=str(number), prompt=prompt, arrival_time=0.0, model="m", num_prompt_tokens=5)


def test_there_is_one_finite_prediction_for_each_request_whatever_it_says(predictor: Predictor) -> None:
    predictions = predictor.predict([ask(prompt, i) for i, prompt in enumerate(PROMPTS)])
    assert len(predictions) == len(PROMPTS)
    assert list(predictor.predict([])) == []
    for prediction in predictions:
        assert 0 <= prediction.num_output_tokens < math.inf
        assert all(low[0] < high[0] and low[1] <= high[1] for low, high in pairwise(prediction.quantiles))
        assert prediction.source


def test_it_may_be_told_any_truth_and_still_predicts(predictor: Predictor) -> None:
    for prompt in PROMPTS:
        for truth in (0, 1, 10**7):
            predictor.observe(ask(prompt), truth)
    for prediction in predictor.predict([ask(prompt) for prompt in PROMPTS]):
        assert 0 <= prediction.num_output_tokens < math.inf
