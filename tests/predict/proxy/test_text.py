import math

import pytest
from hypothesis import given

pytest.importorskip("tokenizers")

from ssjf.openai import render_messages, rendered_turns
from ssjf.predict.proxy.text import Encoder, history, side_features
from ssjf.predict.training import Sample, split_by_prompt
from tests.predict.made_up import ANY_TEXT
from tests.predict.proxy.by_hand import WORDS, tokenizer

CLS, SEP = 2, 3


def encoder(max_length: int = 10, truncation: str = "tail") -> Encoder:
    return Encoder.around(tokenizer(), max_length=max_length, truncation=truncation)


def words(ids: list[int]) -> str:
    return " ".join(WORDS[i] for i in ids)


def test_the_frame_is_learned_from_the_tokenizer() -> None:
    assert (encoder().prefix, encoder().suffix) == ((CLS,), (SEP,))
    assert words(encoder().ids("hello a story")) == "[CLS] hello a story [SEP]"
    assert words(encoder().ids("")) == "[CLS] [SEP]"


def test_of_a_long_text_the_tail_is_kept() -> None:
    assert words(encoder(5).ids("hello hello a story x")) == "[CLS] a story x [SEP]"


def test_or_a_quarter_head_and_three_quarters_tail() -> None:
    ids = encoder(10, "head-tail").ids("hello story " + "a " * 50 + "x x")
    assert words(ids) == "[CLS] hello story a a a a x x [SEP]"
    assert words(encoder(10, "head-tail").ids("a x")) == "[CLS] a x [SEP]"


@pytest.mark.parametrize("truncation", ["tail", "head-tail"])
def test_a_megabyte_keeps_its_ends_without_being_tokenized_whole(truncation: str) -> None:
    seen = []

    class Spy:
        def encode(self, sequence: str, *, add_special_tokens: bool = True):
            seen.append(len(sequence))
            return tokenizer().encode(sequence, add_special_tokens=add_special_tokens)

    ids = Encoder(Spy(), 10, truncation, (CLS,), (SEP,)).ids("hello " + "a " * 500_000 + "story")
    assert len(ids) == 10
    assert WORDS[ids[-2]] == "story"
    assert (WORDS[ids[1]] == "hello") == (truncation == "head-tail")
    assert max(seen) < 1000


@given(ANY_TEXT)
def test_any_text_has_a_row(text: str) -> None:
    ids = encoder().ids(text)
    assert 2 <= len(ids) <= 10


def chat(*turns: str) -> str:
    roles = ["user", "assistant"]
    return render_messages([{"role": roles[i % 2], "content": turn} for i, turn in enumerate(turns)])


def test_rendered_conversations_can_be_taken_apart_again() -> None:
    assert rendered_turns(chat("hi\n\nthere", "", "x: y")) == [
        ("user", "hi\n\nthere"),
        ("assistant", ""),
        ("user", "x: y"),
    ]
    assert rendered_turns("a bare prompt about a user: nothing") == []


def test_earlier_answers_are_features_and_a_first_turn_has_none() -> None:
    assert history("hi") == history(chat("hi")) == [0.0, 0.0, 0.0]
    mean, last, number = history(chat("hi", "y" * 400, "more", "y" * 40, "again"))
    assert (mean, last) == pytest.approx(((math.log(101) + math.log(11)) / 10, math.log(11) / 5))
    assert number == pytest.approx(math.log(3))


def test_a_model_is_one_hot_and_an_unknown_one_the_average() -> None:
    models = ["a", "b", "c", "d"]
    rows = [side_features("hi", model, models) for model in models]
    assert rows[1].tolist() == [0, 1, 0, 0, 0, 0, 0]
    assert side_features("hi", "?", models).tolist() == (sum(rows) / 4).tolist()
    assert side_features("hi", "?", []).tolist() == [0, 0, 0]


def test_a_conversation_is_never_split_over_training_and_test() -> None:
    samples = []
    for i in range(40):
        turns = [f"question {i}", "answer", "and then?", "answer", "and then?"]
        samples += [Sample(chat(*turns[:n]), 10 * n) for n in (1, 3, 5)]
    training, apart = split_by_prompt(samples, share=0.25, seed=0)

    def numbers(group: list[Sample]) -> set[str]:
        return {s.prompt.partition("question ")[2].partition("\n")[0] for s in group}

    assert len(apart) == 30
    assert len(numbers(apart)) == 10
    assert numbers(training).isdisjoint(numbers(apart))
