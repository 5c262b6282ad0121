import pytest

from ssjf.errors import DataError
from ssjf.loadgen.plan import plan_requests, synthetic_prompt
from ssjf.workload.items import WorkItem

ROWS = [
    WorkItem(index=0, arrival_s=10.0, input_tokens=3, output_tokens=500, prompt="first"),
    WorkItem(index=1, arrival_s=12.5, input_tokens=4, output_tokens=20, prompt=[{"role": "user", "content": "second"}]),
]


def test_recorded_arrivals_are_shifted_to_begin_at_zero() -> None:
    assert [request.arrival_s for request in plan_requests(ROWS, None)] == [0.0, 2.5]


def test_given_arrivals_replace_the_recorded_ones_and_the_plan_is_in_their_order() -> None:
    planned = plan_requests(ROWS, [3.0, 1.0])
    assert [(request.index, request.arrival_s) for request in planned] == [(1, 1.0), (0, 3.0)]


def test_without_options_the_model_ends_by_itself_and_is_told_nothing() -> None:
    for request in plan_requests(ROWS, None):
        assert (request.max_tokens, request.fixed_output, request.hint) == (None, False, None)


def test_fixed_output_asks_for_the_recorded_length_and_no_more_than_the_cap() -> None:
    planned = plan_requests(ROWS, None, fixed_output=True, max_output_tokens=256)
    assert [(request.max_tokens, request.fixed_output) for request in planned] == [(256, True), (20, True)]


def test_hints_are_the_recorded_lengths_as_the_cap_lets_them_be() -> None:
    planned = plan_requests(ROWS, None, hints=True, max_output_tokens=256)
    assert [(request.hint, request.max_tokens) for request in planned] == [(256, 256), (20, 256)]


def test_an_answer_recorded_as_empty_is_asked_for_with_one_token() -> None:
    (request,) = plan_requests(
        [WorkItem(index=0, arrival_s=0.0, output_tokens=0, prompt="x")], None, fixed_output=True, hints=True
    )
    assert (request.max_tokens, request.hint) == (1, 0)


@pytest.mark.parametrize(("option", "name"), [("fixed_output", "--fixed-output"), ("hints", "--hints")])
def test_a_row_without_a_recorded_length_is_named_with_the_option_that_needs_it(option: str, name: str) -> None:
    rows = [ROWS[0], WorkItem(index=7, arrival_s=1.0, prompt="x")]
    with pytest.raises(DataError, match=f"row 7 .*{name}"):
        plan_requests(rows, None, **{option: True})


def test_a_prompt_set_without_arrivals_says_what_to_give() -> None:
    with pytest.raises(DataError, match="--arrivals"):
        plan_requests([WorkItem(index=0, prompt="x")], None)


def test_an_empty_workload_is_refused() -> None:
    with pytest.raises(DataError, match="no rows"):
        plan_requests([], [])


def test_a_row_without_a_prompt_gets_as_many_words_as_it_had_tokens_the_same_each_time() -> None:
    row = WorkItem(index=5, arrival_s=0.0, input_tokens=40)
    first, again = (plan_requests([row], None, seed=1)[0].prompt for _ in range(2))
    assert isinstance(first, str)
    assert first == again
    assert len(first.split()) == 40
    assert synthetic_prompt(row, seed=2) != first


def test_a_row_of_no_tokens_still_asks_something() -> None:
    assert synthetic_prompt(WorkItem(index=0, input_tokens=0), seed=0)
