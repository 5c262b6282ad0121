"""Every field is obeyed, harmless, or refused by name."""

from typing import Any

import pytest

from ssjf.engine.params import Call, parse_call
from ssjf.errors import RequestError
from tests.engine.engine_fakes import FakeTokenizer


def chat(**fields: Any) -> Call:
    body = {"messages": [{"role": "user", "content": "hi"}], **fields}
    return parse_call(body, FakeTokenizer(), model_name="m", max_model_len=50, chat=True)


def completion(**fields: Any) -> Call:
    return parse_call({"prompt": "hi", **fields}, FakeTokenizer(), model_name="m", max_model_len=50, chat=False)


BAD: list[tuple[dict[str, Any], str]] = [
    ({"model": 3}, "model"),
    ({"n": 2}, "n"),
    ({"n": True}, "n"),
    ({"tools": [{"type": "function"}]}, "tools"),
    ({"tool_choice": "required"}, "tool_choice"),
    ({"response_format": {"type": "json_object"}}, "response_format"),
    ({"logprobs": True}, "logprobs"),
    ({"top_logprobs": 3}, "top_logprobs"),
    ({"logit_bias": {"5": 1}}, "logit_bias"),
    ({"stream": 1}, "stream"),
    ({"stream_options": {"include_usage": True}}, "stream_options"),
    ({"stream": True, "stream_options": {"include_usage": "yes"}}, "include_usage"),
    ({"max_tokens": 0}, "max_tokens"),
    ({"max_tokens": -1}, "max_tokens"),
    ({"max_tokens": 10**9}, "max_tokens"),
    ({"max_tokens": 49}, "max_tokens"),
    ({"max_tokens": 1.5}, "max_tokens"),
    ({"max_tokens": 50.0}, "max_tokens"),
    ({"max_tokens": "5"}, "max_tokens"),
    ({"max_completion_tokens": 0}, "max_completion_tokens"),
    ({"max_tokens": 5, "min_tokens": 6}, "min_tokens"),
    ({"temperature": -0.1}, "temperature"),
    ({"temperature": "hot"}, "temperature"),
    ({"temperature": float("nan")}, "temperature"),
    ({"temperature": True}, "temperature"),
    ({"top_p": 0}, "top_p"),
    ({"top_p": 1.1}, "top_p"),
    ({"top_k": -2}, "top_k"),
    ({"seed": 2**63}, "seed"),
    ({"seed": 0.5}, "seed"),
    ({"stop": ""}, "stop"),
    ({"stop": ["a", 1]}, "stop"),
    ({"stop": ["a"] * 17}, "stop"),
    ({"stop_token_ids": [256]}, "stop_token_ids"),
    ({"stop_token_ids": 3}, "stop_token_ids"),
    ({"presence_penalty": 3}, "presence_penalty"),
    ({"ignore_eos": "true"}, "ignore_eos"),
]


@pytest.mark.parametrize(("fields", "param"), BAD)
def test_a_field_that_cannot_be_obeyed_is_refused_by_name(fields: dict[str, Any], param: str) -> None:
    with pytest.raises(RequestError) as refusal:
        completion(**fields)
    assert refusal.value.status == 400
    assert refusal.value.param == param
    assert param in str(refusal.value)


def nested(depth: int) -> Any:
    value: Any = []
    for _ in range(depth):
        value = [value]
    return value


@pytest.mark.parametrize("name", ["model", "tools", "stream", "max_tokens", "temperature", "stop"])
def test_a_value_that_is_nested_as_deeply_as_json_may_be_is_refused_like_any_other(name: str) -> None:
    with pytest.raises(RequestError) as refusal:
        completion(**{name: nested(1000)})
    assert refusal.value.param == name
    assert len(str(refusal.value)) < 150


def test_a_role_that_is_nested_as_deeply_as_json_may_be_is_refused() -> None:
    with pytest.raises(RequestError, match="role must be one of"):
        chat(messages=[{"role": nested(1000), "content": "hi"}])


def test_a_whole_number_may_be_written_as_a_float() -> None:
    assert completion(max_tokens=7.0).params.max_tokens == 7


def test_an_unknown_model_is_not_found() -> None:
    with pytest.raises(RequestError) as refusal:
        completion(model="gpt-4")
    assert (refusal.value.status, refusal.value.code) == (404, "model_not_found")


MESSAGES: list[tuple[Any, str]] = [
    (None, "messages"),
    ([], "messages"),
    ("hi", "messages"),
    (["hi"], "messages[0]"),
    ([{"content": "hi"}], "messages[0].role"),
    ([{"role": "robot", "content": "hi"}], "messages[0].role"),
    ([{"role": ["user"], "content": "hi"}], "messages[0].role"),
    ([{"role": "user"}], "messages[0].content"),
    ([{"role": "user", "content": []}], "messages[0].content"),
    ([{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "x"}}]}], "messages[0].content"),
    ([{"role": "user", "content": "a"}, {"role": "assistant", "tool_calls": [{}]}], "messages[1].tool_calls"),
    ([{"role": "user", "content": "a" * 60}], "messages"),
]


@pytest.mark.parametrize(("messages", "param"), MESSAGES)
def test_a_conversation_that_cannot_be_taken_is_refused_where_it_fails(messages: Any, param: str) -> None:
    with pytest.raises(RequestError) as refusal:
        chat(messages=messages)
    assert refusal.value.param == param


@pytest.mark.parametrize(
    "prompt", [None, "", [], [""], ["a", "b"], [[1], [2]], [1, "a"], [True], [256], [-1], 5, "a" * 50]
)
def test_a_prompt_that_cannot_be_taken_is_refused(prompt: Any) -> None:
    with pytest.raises(RequestError) as refusal:
        completion(prompt=prompt)
    assert refusal.value.param == "prompt"


@pytest.mark.parametrize("prompt", ["hi", ["hi"], [104, 105], [[104, 105]]])
def test_a_prompt_is_one_string_or_one_list_of_tokens(prompt: Any) -> None:
    assert completion(prompt=prompt).prompt_token_ids == [104, 105]


def test_a_chat_prompt_is_the_rendered_conversation() -> None:
    parts = [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]
    call = chat(messages=[{"role": "developer", "content": "s"}, {"role": "user", "content": parts}])
    assert bytes(call.prompt_token_ids) == b"system:s|user:a\nb"


def test_without_a_limit_the_answer_may_fill_the_context() -> None:
    assert completion().params.max_tokens == 48
    assert completion(max_tokens=48).params.max_tokens == 48


def test_max_completion_tokens_works_like_max_tokens_and_wins() -> None:
    assert completion(max_completion_tokens=7).params.max_tokens == 7
    assert completion(max_completion_tokens=7, max_tokens=9).params.max_tokens == 7


def test_values_that_ask_for_nothing_special_are_no_reason_to_refuse() -> None:
    call = chat(n=1, tools=[], tool_choice="none", response_format={"type": "text"}, logprobs=False, logit_bias={},
                top_logprobs=None, stop=None, user="u", metadata={"a": 1}, priority=3, store=False)  # fmt: skip
    assert call == chat()


def test_sampling_fields_arrive() -> None:
    params = completion(temperature=0.5, top_p=0.9, top_k=-1, seed=-5, stop="end", min_tokens=2, ignore_eos=True,
                        stop_token_ids=[3]).params  # fmt: skip
    assert (params.temperature, params.top_p, params.top_k, params.seed) == (0.5, 0.9, 0, -5)
    assert (params.stop, params.stop_token_ids, params.min_tokens, params.ignore_eos) == (("end",), {3}, 2, True)
    assert not params.greedy
    assert completion(temperature=0).params.greedy
