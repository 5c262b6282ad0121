"""The instruction language: reproducible, split by prompt, with right answers of very different lengths."""

import re
import statistics

import pytest

from ssjf.workload.generated.instructions import _SPLITS, generate, split_of

SPLITS = ("train", "predictor", "demo")


@pytest.fixture(scope="module")
def instructions():
    return generate("train", 6000, 0)


def of_kind(instructions, kind):
    return [item for item in instructions if item.kind == kind]


def test_the_same_seed_gives_the_same_instructions_and_another_seed_gives_others():
    assert generate("demo", 50, 7) == generate("demo", 50, 7)
    assert generate("demo", 50, 7) != generate("demo", 50, 8)


def test_a_longer_draw_begins_with_the_shorter_one():
    assert generate("predictor", 200, 3)[:50] == generate("predictor", 50, 3)


def test_the_prompts_of_two_splits_have_nothing_in_common():
    prompts = {split: {item.prompt for item in generate(split, 3000, 0)} for split in SPLITS}
    assert not prompts["train"] & prompts["predictor"]
    assert not prompts["train"] & prompts["demo"]
    assert not prompts["predictor"] & prompts["demo"]


def test_every_prompt_belongs_to_exactly_one_split():
    assert sorted(bucket for buckets in _SPLITS.values() for bucket in buckets) == list(range(1000))
    assert {split_of(f"Count to {number}.") for number in range(100)} == set(SPLITS)


def test_an_unknown_split_is_refused_with_the_names_of_the_known_ones():
    with pytest.raises(ValueError, match="choose one of train, predictor, demo"):
        generate("test", 1, 0)


def test_a_prompt_has_one_answer_only(instructions):
    answers = {}
    for item in instructions + generate("train", 6000, 1):
        assert answers.setdefault(item.prompt, item.answer) == item.answer


def test_every_kind_is_drawn_and_nothing_is_left_unfilled(instructions):
    assert len({item.kind for item in instructions}) == 20
    for item in instructions:
        assert item.answer
        assert item.answer == item.answer.strip()
        assert not re.search(r"[{}]", item.prompt + item.answer)


def test_lengths_have_a_short_median_and_a_heavy_tail(instructions):
    lengths = [len(item.answer.split()) for item in instructions]
    assert min(lengths) == 1
    assert 15 <= statistics.median(lengths) <= 60
    assert statistics.mean(lengths) > 1.5 * statistics.median(lengths)
    assert 0.02 < sum(length > 250 for length in lengths) / len(lengths) < 0.08
    assert max(lengths) < 900


def test_counting_counts_every_number_once(instructions):
    for item in of_kind(instructions, "count"):
        first, last = (int(number) for number in re.findall(r"\d+", item.prompt))
        numbers = [int(number) for number in item.answer.removesuffix(".").split()]
        assert sorted(numbers) == list(range(min(first, last), max(first, last) + 1))
        assert (numbers[0], numbers[-1]) == (first, last)


def test_sums_in_steps_end_with_the_sum(instructions):
    stepwise = [item for item in of_kind(instructions, "sum") if "step by step" in item.prompt]
    assert stepwise
    for item in stepwise:
        terms = [int(number) for number in re.findall(r"\d+", item.prompt)]
        assert item.answer.endswith(f"The sum is {sum(terms)}.")


def test_spelling_spells_the_word_asked_for(instructions):
    for item in of_kind(instructions, "spell"):
        assert item.answer.replace("-", "") in item.prompt


def test_parts_are_numbered_up_to_the_number_announced(instructions):
    for kind in ("story", "trip", "poem", "guide", "repeat", "list", "table"):
        for item in of_kind(instructions, kind):
            parts = re.findall(r"^(?:\w+ |\| )?(\d+)(?: of |/)(\d+)", item.answer, flags=re.MULTILINE)
            announced = int(parts[0][1])
            assert parts == [(str(index), str(announced)) for index in range(1, announced + 1)]


def test_a_very_long_story_is_longer_than_a_very_short_one_about_the_same(instructions):
    lengths = {}
    for item in of_kind(instructions, "story"):
        match = re.search(r"(very short|very long) \w+ (?:about|of) (a \w+)", item.prompt)
        if match:
            lengths.setdefault(match[2], {}).setdefault(match[1], []).append(len(item.answer.split()))
    both = [by_size for by_size in lengths.values() if len(by_size) == 2]
    assert both
    assert all(max(by_size["very short"]) < min(by_size["very long"]) for by_size in both)
