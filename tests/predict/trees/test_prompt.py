"""What a prompt asks for."""

import math

import numpy as np
import pytest
from hypothesis import given

from ssjf.openai import render_messages
from ssjf.predict.trees.lexicon import GROUPS, count_groups
from ssjf.predict.trees.prompt import NAMES, NONE, describe
from tests.predict.made_up import ANY_TEXT


def features(prompt: str) -> dict[str, float]:
    return dict(zip(NAMES, describe([prompt])[0].tolist(), strict=True))


def test_every_feature_has_a_name_of_its_own() -> None:
    assert len(set(NAMES)) == len(NAMES) == describe(["x"]).shape[1]
    assert describe([]).shape == (0, len(NAMES))


@given(ANY_TEXT)
def test_any_text_has_a_row_and_the_same_one_in_any_company(text: str) -> None:
    rows = describe(["Hello", text, "A. b\nB. c"])
    assert np.isfinite(rows).all()
    assert (rows[1] == describe([text])[0]).all()


@pytest.mark.parametrize("text", ["x" * 1_000_000, "A. " * 300_000, "1 a " * 250_000, "\n" * 999_999, "日本" * 500_000])
def test_a_megabyte_has_a_row(text: str) -> None:
    assert features(text)["characters"] == pytest.approx(math.log1p(len(text)))


@pytest.mark.parametrize(
    ("prompt", "tokens", "items"),
    [
        ("Explain rain in 3 sentences.", 75, None),
        ("Write an essay of 500 words on Rome", 650, None),
        ("A five-paragraph essay, please", 500, None),
        ("Give me ten good ideas", None, 10),
        ("Name 7 books, in two sentences each", 50, 7),
        ("What is rain?", None, None),
        ("In 1984 three men met", None, None),
    ],
)
def test_requested_lengths_and_counts_are_read(prompt: str, tokens: float | None, items: int | None) -> None:
    found = features(prompt)
    assert found["requested tokens"] == (NONE if tokens is None else pytest.approx(math.log1p(tokens)))
    assert found["requested items"] == (NONE if items is None else pytest.approx(math.log1p(items)))


def test_the_question_ends_where_the_options_begin() -> None:
    found = features("Which one is it?\nOptions:\nA. 12 kg\nB. 14.5 kg\nC. -3 kg\nD. none of these")
    assert found["options: number"] == 4
    assert found["options: with digits first"] == 0.75
    assert found["question: words"] == pytest.approx(math.log1p(5))
    assert found["lexicon: units"] == 0.0


@pytest.mark.parametrize("prompt", ["I am here. A. Smith is not", "B. starts late\nC. goes on", "A. alone"])
def test_initials_and_single_letters_are_no_options(prompt: str) -> None:
    assert features(prompt)["options: number"] == 0


def test_the_request_of_a_conversation_is_its_last_message_of_a_user() -> None:
    question = "Explain briefly why it rains"
    found = features(
        render_messages(
            [
                {"role": "system", "content": "Be kind."},
                {"role": "user", "content": "Write 900 words"},
                {"role": "assistant", "content": "x" * 99},
                {"role": "assistant", "content": "x" * 9},
                {"role": "user", "content": question},
            ]
        )
    )
    bare = features(question)
    moved = {name for name in NAMES if found[name] != bare[name]}
    assert moved == set(NAMES[-5:])
    assert found["answers so far"] == pytest.approx(math.log1p(2))
    assert found["characters of the last answer"] == pytest.approx(math.log1p(9))
    assert found["characters of the answers, mean"] == pytest.approx(math.log1p(54))
    assert found["characters of the system's message"] == pytest.approx(math.log1p(8))
    assert bare["characters of the last answer"] == NONE


def test_groups_count_words_and_phrases() -> None:
    words = ["explain", "it", "step", "by", "step", "in", "one", "sentence"]
    counts = dict(zip(GROUPS, count_groups(words), strict=True))
    assert counts["explanation"] == 1
    assert counts["brief"] == 1  # one sentence
    assert counts["steps"] == 3  # step, step, step by step
    assert counts["code"] == 0


def test_signs_of_mathematics_code_and_script_are_seen() -> None:
    assert features("x = 3^2 + 4")["mathematical signs"] > features("three squared")["mathematical signs"] == 0
    assert features("f(){return;}")["signs of code"] > features("a function")["signs of code"] == 0
    assert features("日本語で答えて")["East Asian"] == 1.0
    assert features("schön")["East Asian"] == 0.0 < features("schön")["beyond ASCII"]
