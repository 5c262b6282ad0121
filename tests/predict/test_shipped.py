"""The predictor that comes with the package."""

import subprocess
import sys

import pytest

from ssjf.config import ServeSettings
from ssjf.predict.artefact import SHIPPED, load_predictor, read_card
from tests.predict.made_up import ask

IN_A_FRESH_PROCESS = """
import sys
from ssjf.core.types import Request
from ssjf.predict.artefact import load_predictor
predictor = load_predictor("default")
predictor.predict([Request(request_id="a", prompt="hello", arrival_time=0.0)])
print({"lightgbm", "torch", "scipy", "sklearn", "onnxruntime", "transformers"} & set(sys.modules))
"""


def test_it_is_what_the_gateway_uses_when_nothing_is_named_and_it_needs_no_training_library() -> None:
    assert ServeSettings().predictor == "default"
    done = subprocess.run([sys.executable, "-c", IN_A_FRESH_PROCESS], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"


def test_it_is_small_and_says_where_it_comes_from() -> None:
    assert sum(path.stat().st_size for path in SHIPPED.iterdir()) < 10e6
    card = read_card(SHIPPED)
    assert {entry["licence"] for entry in card["attribution"]} == {"Apache-2.0", "MIT"}
    assert all(len(entry["sha256"]) == 64 for entry in card["data"])
    assert len(card["state"]["target_models"]) >= 20
    assert card["metrics"]


@pytest.mark.parametrize("model", ["", "gpt-4-0314", "a-model-nobody-knows"])
def test_it_reads_requests_for_length_before_it_has_seen_anything(model: str) -> None:
    predictor = load_predictor("default")
    short = ["Say hi in one word.", "Yes or no: is the earth round?", "What is the capital of France?"]
    long = [
        "Write a detailed essay about the causes of the French revolution.",
        "Write a python program that solves sudoku, with tests, and explain each step.",
        "Create a comprehensive two week training plan for a marathon, with tips for each day.",
    ]
    tokens = [p.num_output_tokens for p in predictor.predict([ask(text, model=model) for text in short + long])]
    assert max(tokens[:3]) < min(tokens[3:])
