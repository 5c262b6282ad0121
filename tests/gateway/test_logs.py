"""The log: a line for each request, for people or for machines, and never a prompt or a key."""

import json
import logging
from collections.abc import Iterator

import pytest

from ssjf.gateway.logs import configure
from tests.gateway.conftest import MakeStack
from tests.gateway.test_backends import bearer, key_of

EVIL = 'm"\n2026 ERROR forged'


@pytest.fixture(autouse=True)
def as_before() -> Iterator[None]:
    root = logging.getLogger()
    handlers, level = list(root.handlers), root.level
    yield
    root.handlers[:], root.level = handlers, level


async def ask(make_stack: MakeStack) -> None:
    async with make_stack(automatic=True, keys=[key_of("secret-key")]) as stack:
        stack.engine.models.append(EVIL)
        for member in stack.gateway.pool.members:
            member.listed_at -= 10  # its list is old
        headers = bearer("secret-key") | {"x-request-id": "mine-1"}
        messages = [{"role": "user", "content": "a private prompt"}]
        async with stack.post(headers=headers, model=EVIL, messages=messages) as response:
            assert response.status == 200


async def test_as_json_each_line_is_a_document(make_stack: MakeStack, capsys: pytest.CaptureFixture[str]) -> None:
    configure("json")
    await ask(make_stack)
    text = capsys.readouterr().err
    lines = [json.loads(line) for line in text.splitlines()]
    (line,) = [line for line in lines if line.get("request_id") == "mine-1"]
    assert (line["outcome"], line["model"], line["output_tokens"]) == ("completed", EVIL, 3)
    assert line["jct_s"] >= line["wait_s"] >= 0
    assert "private" not in text
    assert "secret-key" not in text.replace('"tenant": "secret-key"', "")  # the key's name, in this test, is the key


async def test_as_text_a_name_cannot_begin_a_line(make_stack: MakeStack, capsys: pytest.CaptureFixture[str]) -> None:
    configure("text")
    await ask(make_stack)
    lines = capsys.readouterr().err.splitlines()
    assert not any(line.startswith("2026 ERROR") for line in lines)
    assert any('request_id="mine-1"' in line and 'outcome="completed"' in line for line in lines)
