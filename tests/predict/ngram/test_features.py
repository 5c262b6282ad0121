"""Rows of prompts, against a slow and obvious count of n-grams."""

import re
import zlib

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ssjf.predict.ngram.features import (
    COUNTS,
    TABLE_SIZE,
    HashedPrompt,
    Rows,
    concatenate,
    digest,
    featurize,
    opening,
    pack,
)
from tests.predict.made_up import ANY_TEXT


def parts(rows: Rows) -> list[tuple[list[int], float]]:
    pieces = np.split(rows.indices, rows.starts[1:])
    return [(piece.tolist(), value) for piece, value in zip(pieces, rows.values.tolist(), strict=True)]


@given(st.lists(ANY_TEXT, min_size=1, max_size=12))
def test_a_row_is_the_same_alone_and_in_any_batch(prompts: list[str]) -> None:
    together = featurize(prompts)
    alone = [featurize([prompt]) for prompt in prompts]
    assert parts(together) == [part for rows in alone for part in parts(rows)]
    assert np.array_equal(together.counts, concatenate(alone).counts)


@given(ANY_TEXT)
def test_no_part_is_empty_and_every_place_is_in_the_table(prompt: str) -> None:
    for places, value in parts(featurize([prompt])):
        assert places
        assert len(set(places)) == len(places)
        assert min(places) >= 0
        assert max(places) < TABLE_SIZE
        assert 0 < value <= 1


def test_no_prompts_have_no_rows() -> None:
    assert len(featurize([])) == 0


@given(st.text("ab1Z_ ,.?\n", max_size=40))
def test_the_parts_hold_as_many_n_grams_as_a_slow_count_finds(prompt: str) -> None:
    (runs, run_value), (words, word_value) = parts(featurize([prompt]))
    text = " " + re.sub(r"\s", " ", prompt.lower()) + "     "
    distinct_runs = {text[i : i + n] for n in (3, 5) for i in range(len(prompt) + 1)}
    tokens = ["", *re.findall(r"\w+", prompt.lower())]
    distinct_words = set(tokens) | set(zip(tokens, [*tokens[1:], ""], strict=True))
    # two n-grams may share a place in the table, which is rare among so few
    assert len(distinct_runs) - 1 <= len(runs) <= len(distinct_runs)
    assert len(distinct_words) - 1 <= len(words) <= len(distinct_words)
    assert np.isclose(run_value**2, 1 / (2 * 2 * (len(prompt) + 1)))
    assert np.isclose(word_value**2, 1 / (2 * 2 * len(tokens)))


def test_case_and_kind_of_blank_do_not_matter_but_order_does() -> None:
    places = [parts(featurize([p]))[1][0] for p in ("Tell me\tnow", "tell ME now", "now tell me")]
    assert places[0] == places[1] != places[2]


def test_the_counts_count() -> None:
    few, many = featurize(["ab"]), featurize(["Ab 12 cd?\n{é"])
    grown = dict(zip(COUNTS, (many.counts - few.counts)[0] > 0, strict=True))
    assert all(grown.values())


def test_a_megabyte_is_cut_to_its_head_and_tail() -> None:
    middle = featurize(["head " * 1000 + "x" * 1_000_000 + " tail" * 1000])
    other = featurize(["head " * 1000 + "y" * 1_000_000 + " tail" * 1000])
    assert parts(middle) == parts(other)
    assert len(middle.indices) < 2 * 3 * 2 * 4096
    shorter = featurize(["head " * 1000 + "x" * 1_000 + " tail" * 1000])
    assert parts(middle) == parts(shorter)
    assert middle.counts[0, COUNTS.index("characters")] > shorter.counts[0, COUNTS.index("characters")]


def test_a_batch_larger_than_any_chunk_is_cut_without_loss() -> None:
    prompts = [f"prompt {i} " + "word " * (i % 50) for i in range(9000)]
    rows = featurize(prompts)
    assert len(rows) == 9000
    for i in (0, 1, 4095, 8191, 8192, 8999):
        assert np.array_equal(rows.counts[i], featurize([prompts[i]]).counts[0])


def test_hashes_never_change_under_a_format_number() -> None:
    """Weights are saved by place: a change here needs a new `features.FORMAT`."""
    rows = featurize(["Hello, world"])
    assert (len(rows.indices), int(rows.indices.sum())) == (32, 3498885)


@given(ANY_TEXT)
def test_a_prompt_of_which_only_its_hashes_were_kept_has_the_same_row(prompt: str) -> None:
    kept = HashedPrompt(pack(prompt))
    assert parts(featurize([kept, "other"])) == parts(featurize([prompt, "other"]))
    assert np.array_equal(featurize([kept]).counts, featurize([prompt]).counts)
    assert kept == HashedPrompt(pack(prompt))
    assert kept != HashedPrompt(pack(f"{prompt} and more"))


def test_all_turns_of_a_conversation_have_one_opening_with_texts_and_without() -> None:
    first = "system: be kind\n\nuser: hello"
    later = f"{first}\n\nassistant: hi\n\nuser: and now?"
    kept = [HashedPrompt(pack(prompt)) for prompt in (first, later, "user: other")]
    assert kept[0].opening == kept[1].opening != kept[2].opening
    assert kept[0] != kept[1]
    assert digest(opening(kept[1])) == digest(opening(first)) == digest("hello")


def test_the_text_is_not_among_what_is_kept() -> None:
    assert b"secret" not in zlib.decompress(pack("a secret prompt"))


@pytest.mark.parametrize("damage", ["", "cut", "format", "places", "text"])
def test_what_is_no_hashed_prompt_is_refused(damage: str) -> None:
    data = bytearray(zlib.decompress(pack("a prompt")))
    if damage == "format":
        data[0] += 1
    elif damage == "places":
        data[-1] = 255
    packed = {"": b"", "cut": zlib.compress(data[:20]), "text": b"a prompt"}.get(damage, zlib.compress(data))
    with pytest.raises(ValueError, match="hashed prompt"):
        HashedPrompt(packed)
