"""The model that comes with the package: it is the one its card describes, and it ends by itself."""

import hashlib
import json
import math
import statistics

import pytest

pytest.importorskip("tokenizers")
pytest.importorskip("openvino_genai")

from training.measure_tiny_model import answer

from ssjf.engine.bundled_model import BUNDLED_MODEL_PATH
from ssjf.workload.generated.instructions import generate


def test_the_card_describes_this_file():
    card = json.loads((BUNDLED_MODEL_PATH.parent / "card.json").read_text())
    content = BUNDLED_MODEL_PATH.read_bytes()
    assert card["file_sha256"] == hashlib.sha256(content).hexdigest()
    assert card["file_bytes"] == len(content) <= 8_000_000
    assert card["measured"]["end_of_sequence_rate"] >= 0.99


def test_unseen_prompts_are_answered_at_about_the_intended_lengths_and_the_answers_end():
    answers = answer(BUNDLED_MODEL_PATH, generate("demo", 60, 1))
    assert sum(item.ended for item in answers) >= 59
    lengths = [item.num_output_tokens for item in answers]
    intended = [math.log(item.intended_tokens) for item in answers]
    assert statistics.correlation([math.log(length) for length in lengths], intended) > 0.9
    assert max(lengths) > 50 * min(lengths)
