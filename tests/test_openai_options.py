import pytest

from ssjf.openai import OPTIONS, request_options


@pytest.mark.parametrize(
    ("fields", "options"),
    [
        ({}, {}),
        ({"max_tokens": 5}, {"max_tokens": 5}),
        ({"max_tokens": 5.0}, {"max_tokens": 5}),
        ({"max_tokens": 5.5}, {}),
        ({"max_completion_tokens": 7, "tools": [{}, {}]}, {"max_tokens": 7, "tools": 2}),
        ({"reasoning_effort": "high"}, {"thinking": 1.5}),
        ({"reasoning": {"effort": "low"}}, {"thinking": 0.5}),
        ({"chat_template_kwargs": {"enable_thinking": False}}, {"thinking": 0}),
        ({"thinking": {"type": "enabled", "budget_tokens": 900}}, {"thinking": 1, "thinking_budget": 900}),
        ({"thinking_token_budget": 300}, {"thinking_budget": 300}),
        ({"response_format": {"type": "json_schema"}}, {"json": 1}),
        ({"response_format": {"type": "text"}}, {}),
        ({"max_tokens": True, "tools": 3, "thinking": "yes", "reasoning_effort": 9, "response_format": []}, {}),
        ({"max_tokens": -1, "thinking_budget": 10**30, "reasoning": {"effort": None}}, {}),
    ],
)
def test_what_is_asked_for_beside_the_prompt_is_read_and_nonsense_is_left_out(
    fields: dict[str, object], options: dict[str, float]
) -> None:
    found = dict(request_options(fields))
    assert found == options
    assert set(found) <= set(OPTIONS)
