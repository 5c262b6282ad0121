import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ssjf.gateway.http.relay import StreamReader

EVENTS = [
    b'data: {"choices":[{"index":0,"delta":{"role":"assistant","content":""}}]}',
    b": a comment that keeps the connection alive",
    b'data: {"choices":[{"index":0,"delta":{"content":"Hello"}}],"usage":null}',
    b'data:{"choices":[{"index":0,"delta":{"content":" you"},"finish_reason":"stop"}]}',
]
USAGE = b'data: {"choices":[],"usage":{"prompt_tokens":7,"completion_tokens":2,"total_tokens":9}}'
DONE = b"data: [DONE]"


def stream(blank_line: bytes) -> bytes:
    return b"".join(event + blank_line for event in [*EVENTS, USAGE, DONE])


def cut(data: bytes, places: list[int]) -> list[bytes]:
    ends = [*sorted({place % len(data) for place in places}), len(data)]
    return [data[begin:end] for begin, end in zip([0, *ends], ends, strict=False)]


@pytest.mark.parametrize("blank_line", [b"\n\n", b"\r\n\r\n"])
@given(places=st.lists(st.integers(0, 10_000), max_size=20))
def test_only_the_usage_event_is_taken_out_wherever_the_stream_is_cut(blank_line: bytes, places: list[int]) -> None:
    reader = StreamReader(usage_wanted=False)
    passed = b"".join(reader.feed(piece) for piece in cut(stream(blank_line), places)) + reader.end()
    assert passed == b"".join(event + blank_line for event in [*EVENTS, DONE])
    assert (reader.num_prompt_tokens, reader.num_output_tokens, reader.num_content_events) == (7, 2, 2)
    assert reader.complete


@pytest.mark.parametrize("blank_line", [b"\n\n", b"\r\n\r\n"])
@given(places=st.lists(st.integers(0, 10_000), max_size=20))
def test_who_asked_for_usage_gets_every_piece_as_it_came(blank_line: bytes, places: list[int]) -> None:
    reader = StreamReader(usage_wanted=True)
    for piece in cut(stream(blank_line), places):
        assert reader.feed(piece) == piece
    assert reader.end() == b""
    assert reader.num_output_tokens == 2


@pytest.mark.parametrize(
    ("kind", "choice"),
    [
        ("chat.completion.chunk", {"index": 0, "delta": {}, "finish_reason": None}),
        ("text_completion", {"index": 0, "text": "", "finish_reason": None}),
    ],
)
def test_what_an_engine_hangs_on_the_usage_event_stays_without_the_usage(kind: str, choice: dict[str, object]) -> None:
    event = {"choices": [], "object": kind, "timings": {"predicted_n": 2}}
    usage = {"usage": {"prompt_tokens": 7, "completion_tokens": 2}}
    reader = StreamReader(usage_wanted=False)
    reader.feed(EVENTS[2] + b"\n\n")
    passed = reader.feed(b"data: " + orjson.dumps(event | usage) + b"\n\n")
    assert passed == b"data: " + orjson.dumps(event | {"choices": [choice]}) + b"\n\n"
    assert (reader.num_prompt_tokens, reader.num_output_tokens) == (7, 2)
    assert not reader.complete
    assert reader.feed(b"data: " + orjson.dumps({"choices": [], "provider": None} | usage) + b"\n\n") == b""
    deep = b'data: {"x":' + b"[" * 1000 + b"]" * 1000 + b',"usage":{"completion_tokens":3}}\n\n'
    assert reader.feed(deep) == b""
    assert reader.num_output_tokens == 3


@given(data=st.lists(st.binary(max_size=50), max_size=20))
def test_garbage_passes_unchanged_and_harms_nobody(data: bytes) -> None:
    reader = StreamReader(usage_wanted=False)
    assert b"".join(reader.feed(piece) for piece in data) + reader.end() == b"".join(data)


def test_a_finish_reason_is_an_end_too_but_silence_is_not() -> None:
    reader = StreamReader(usage_wanted=False)
    reader.feed(EVENTS[2] + b"\n\n")
    assert not reader.complete
    reader.feed(EVENTS[3] + b"\n\n")
    assert reader.complete


def test_an_error_that_the_engine_tells_is_noticed() -> None:
    reader = StreamReader(usage_wanted=False)
    event = b"data: " + orjson.dumps({"error": {"message": "out of memory"}}) + b"\n\n"
    assert reader.feed(event) == event
    assert reader.failed


def test_a_client_with_half_an_event_is_in_the_middle_of_one() -> None:
    reader = StreamReader(usage_wanted=True)
    reader.feed(EVENTS[2] + b"\n\n" + EVENTS[3][:10])
    assert reader.mid_event


@pytest.mark.parametrize("blank_line", [b"\n\n", b"\r\n\r\n"])
@given(
    texts=st.lists(
        st.sampled_from([" word", "[DONE]", '"usage":null', '"error"', '"finish_reason"', "\n\n"]), max_size=9
    ),
    places=st.lists(st.integers(0, 10_000), max_size=9),
    usage_in_each=st.booleans(),
)
def test_pieces_that_are_not_parsed_count_as_if_they_were(
    blank_line: bytes, texts: list[str], places: list[int], usage_in_each: bool
) -> None:
    def event(text: str) -> bytes:
        chunk = {"choices": [{"index": 0, "delta": {"content": text}, "logprobs": None, "finish_reason": None}]}
        return b"data: " + orjson.dumps(chunk | ({"usage": None} if usage_in_each else {})) + blank_line

    content = b"".join(event(text) for text in [" first", *texts])
    data = content + USAGE + blank_line + DONE + blank_line
    reader = StreamReader(usage_wanted=False)
    passed = b"".join(reader.feed(piece) for piece in cut(data, places))
    assert passed == content + DONE + blank_line
    assert reader.num_content_events == 1 + len(texts)
    assert reader.num_output_tokens == 2
    assert reader.complete
    assert not reader.failed
