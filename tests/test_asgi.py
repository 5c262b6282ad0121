"""Bodies as ASGI applications of this project read them."""

from collections.abc import Iterator

import pytest
from starlette.types import Message

from ssjf import asgi
from ssjf.errors import RequestError


class Sent:
    """A client that sends a body in these pieces."""

    def __init__(self, *pieces: bytes) -> None:
        self._messages: Iterator[Message] = iter(
            {"type": "http.request", "body": piece, "more_body": place < len(pieces)}
            for place, piece in enumerate(pieces, start=1)
        )
        self.num_read = 0

    async def receive(self) -> Message:
        self.num_read += 1
        return next(self._messages)


@pytest.fixture(autouse=True)
def little_is_thrown_away(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(asgi, "_MAX_DISCARDED_BYTES", 10)


async def test_a_body_within_a_large_limit_comes_whole() -> None:
    sent = Sent(b"a" * 8, b"b" * 8, b"c" * 8)
    assert await asgi.receive_body(sent.receive, 100) == b"a" * 8 + b"b" * 8 + b"c" * 8


@pytest.mark.parametrize("limit", [5, 10])
async def test_what_is_read_of_a_body_over_the_limit_is_bounded(limit: int) -> None:
    sent = Sent(b"a" * 8, b"b" * 8, b"c" * 8)
    with pytest.raises(RequestError, match="larger than"):
        await asgi.receive_body(sent.receive, limit)
    assert sent.num_read == 2
