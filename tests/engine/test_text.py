"""Text is released whole, once, and without stop strings."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ssjf.engine.text import Detokenizer, StopStrings

pieces = st.lists(st.integers(1, 6), min_size=1, max_size=60)


def released(data: bytes, sizes: list[int], errors: str) -> list[str]:
    """What a detokenizer releases for tokens that are bytes and arrive in steps of the given sizes."""

    def decode(token_ids: list[int]) -> str:
        return bytes(token_ids).decode("utf-8", errors)

    detokenizer, releases, position, turn = Detokenizer(decode), [], 0, 0
    while position < len(data):
        step = data[position : position + sizes[turn % len(sizes)]]
        position, turn = position + len(step), turn + 1
        releases.append(detokenizer.release(decode(detokenizer.extend(step)), final=position == len(data)))
    return releases


@given(st.text(min_size=1, alphabet=st.characters(exclude_characters="\ufffd", exclude_categories=["Cs"])), pieces)
@pytest.mark.parametrize("errors", ["ignore", "replace"])  # what tokenizers do with an unfinished character
def test_all_releases_together_are_the_text(errors: str, text: str, sizes: list[int]) -> None:
    assert "".join(released(text.encode(), sizes, errors)) == text


@pytest.mark.parametrize("errors", ["ignore", "replace"])
def test_a_character_of_four_tokens_is_released_once_and_whole(errors: str) -> None:
    assert released("a😀b".encode(), [1], errors) == ["a", "", "", "", "😀", "b"]


def test_an_answer_cut_within_a_character_shows_that_at_its_end() -> None:
    assert released("a😀".encode()[:3], [1], "replace") == ["a", "", "\ufffd"]


letters = st.text(alphabet="ab", min_size=1, max_size=4)


@given(st.lists(letters, max_size=12), st.lists(letters, min_size=1, max_size=3))
def test_what_is_released_ends_where_the_first_stop_string_begins(steps: list[str], stops: list[str]) -> None:
    checker, out, text = StopStrings(stops), "", "".join(steps)
    for step in steps:
        release, stopped = checker.feed(step)
        out += release
        if stopped:
            # In a piece that holds several, the first wins; a stop string completed by an earlier piece won before.
            assert out in {text[: text.find(stop)] for stop in stops}
            assert not any(stop in out for stop in stops)
            return
    assert not any(stop in text for stop in stops)
    assert out + checker.flush() == text


def test_no_part_of_a_stop_string_is_released_before_it_is_known_to_be_none() -> None:
    checker = StopStrings(["STOP"])
    assert [checker.feed(piece) for piece in ["go ST", "OP", "more"]][:2] == [("go ", False), ("", True)]
    checker = StopStrings(["STOP"])
    assert [checker.feed(piece)[0] for piece in ["S", "T", "A", "R"]] == ["", "", "STA", "R"]


def test_only_what_could_become_a_stop_string_is_held_back() -> None:
    assert StopStrings(["\n\n"]).feed("a line\n") == ("a line", False)
    assert StopStrings(["\n\n"]).feed("a line") == ("a line", False)
