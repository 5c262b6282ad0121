"""vLLM's own server over HTTP, with the front door and without: the same answers, the same errors, another order."""

import asyncio
import re
import sqlite3
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.vllm.asking import client_of, is_overtaken, order_of_service
from tests.vllm.serving import FRONT_DOOR, serving

WITH_US = [*FRONT_DOOR[:-1], "tests.vllm.observing.ObservingMiddleware"]
ONE_AT_A_TIME = ["--max-num-seqs", "1"]
SETTINGS = {"policy": "ssjf", "accept_hints": "true"}


@pytest.fixture(scope="module")
def plain(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with serving(tiny_model, tmp_path_factory.mktemp("plain") / "log", *ONE_AT_A_TIME, settings={}) as url:
        yield url


@pytest.fixture(scope="module")
def ours(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    log = tmp_path_factory.mktemp("ours") / "log"
    with serving(tiny_model, log, *ONE_AT_A_TIME, *WITH_US, settings=SETTINGS) as url:
        yield url


@pytest.fixture(scope="module")
def several(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Two API servers before one engine, in which the priority that a client sends is its tier."""
    folder = tmp_path_factory.mktemp("several")
    options = (*ONE_AT_A_TIME, *WITH_US, "--api-server-count", "2")
    settings = {**SETTINGS, "accept_tiers": "true", "lessons": str(folder / "lessons")}
    with serving(tiny_model, folder / "log", *options, settings=settings) as url:
        yield url
    with sqlite3.connect(folder / "lessons") as book:
        assert book.execute("SELECT count(*) FROM lessons WHERE prompt = 'Sea'").fetchone()[0] >= 10


async def _answers(url: str) -> list[str]:
    async with client_of(url) as client:
        messages = [{"role": "user", "content": "Explain how a compiler works."}]
        whole = await client.completions.create(model="tiny", prompt="Name a colour.", max_tokens=12, temperature=0)
        chat = await client.chat.completions.create(model="tiny", messages=messages, max_tokens=12, temperature=0)  # type: ignore[arg-type]
        stream = await client.chat.completions.create(
            model="tiny",
            messages=messages,
            max_tokens=12,
            temperature=0,
            stream=True,  # type: ignore[arg-type]
        )
        pieces = [chunk.choices[0].delta.content or "" async for chunk in stream if chunk.choices]
        assert len(pieces) > 3
        response = await client.responses.create(
            model="tiny", input="Explain how a compiler works.", max_output_tokens=12, temperature=0
        )
        return [
            *(whole.choices[0].text, chat.choices[0].message.content or "", "".join(pieces)),
            response.output_text,
        ]


async def test_the_openai_client_gets_the_same_answers_through_us(plain: str, ours: str) -> None:
    answers = await _answers(ours)
    assert answers == await _answers(plain)
    assert answers[1] == answers[2] != ""


BAD = [
    b"",
    b"{",
    b"[]",
    b"\xff\xfe",
    b'{"model": "tiny"}',
    b'{"model": "other", "prompt": "x", "messages": []}',
    b'{"model": "tiny", "prompt": 5, "messages": 5}',
    b'{"model": "tiny", "prompt": "x", "messages": [], "max_tokens": -1}',
]


@pytest.mark.parametrize("path", ["/v1/completions", "/v1/chat/completions", "/v1/responses"])
@pytest.mark.parametrize("body", BAD)
async def test_a_malformed_body_gets_vllm_s_own_error(plain: str, ours: str, path: str, body: bytes) -> None:
    async with httpx.AsyncClient(timeout=60, headers={"content-type": "application/json"}) as client:
        with_us, without = [await client.post(url + path, content=body) for url in (ours, plain)]
    assert with_us.status_code == without.status_code >= 400
    assert with_us.json() == without.json()


async def test_the_shortest_predicted_is_served_first_whatever_priority_clients_send(plain: str, ours: str) -> None:
    hints = [30, 10, 40, 20]
    assert await order_of_service(ours, hints) == [1, 3, 0, 2]
    assert await order_of_service(plain, hints) == [0, 1, 2, 3]


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/v1/chat/completions/batch", {"messages": [[{"role": "user", "content": "Sea"}]], "max_tokens": 40}),
        ("/generative_scoring", {"query": "Sea", "items": ["a"], "label_token_ids": [5, 6]}),
    ],
)
async def test_a_priority_in_the_body_gains_nothing(ours: str, path: str, body: dict[str, Any]) -> None:
    assert await is_overtaken(ours, path, {"model": "tiny", "priority": -9, **body})


async def test_the_request_id_in_the_body_is_that_of_the_answer(ours: str) -> None:
    async with client_of(ours) as client:
        answer = await client.completions.create(
            model="tiny", prompt="Sea", max_tokens=1, extra_body={"request_id": "mine"}
        )
    assert answer.id == "cmpl-mine"


async def test_several_api_servers_make_one_order_and_tiers_come_before_lengths(several: str) -> None:
    assert await order_of_service(several, [30, 10, 40, 20], [0, 0, 0, 0]) == [1, 3, 0, 2]
    assert await order_of_service(several, [30, 10, 40, 20], [0, 0, -1, 1]) == [2, 1, 0, 3]


async def test_the_front_door_learns_true_lengths_from_vllm_s_books(ours: str) -> None:
    async with client_of(ours) as client, httpx.AsyncClient(timeout=60) as http:
        before = (await http.get(f"{ours}/learned")).json()
        await client.completions.create(model="tiny", prompt="Sea", max_tokens=5)
        messages = [{"role": "user", "content": "Sea"}]
        await client.chat.completions.create(model="tiny", messages=messages, max_tokens=5)  # type: ignore[arg-type]
        while True:
            if (await http.get(f"{ours}/learned")).json() >= before + 2:
                break
            await asyncio.sleep(0.02)


async def test_vllm_s_page_of_metrics_tells_how_good_predictions_are(ours: str, several: str) -> None:
    async with client_of(ours) as client, httpx.AsyncClient(timeout=60) as http:
        for url in (ours, several):
            text = (await http.get(f"{url}/metrics")).text
            found = re.search(r"^ssjf_prediction_ratio_count(?:\{\})? (\S+)$", text, re.MULTILINE)
            assert found is not None
            assert float(found[1]) >= 2, "requests of the tests before"
            assert re.search(r"^ssjf_prediction_concordance(?:\{.*\})? \S+$", text, re.MULTILINE)
        text = (await http.get(f"{ours}/metrics")).text
        for _ in range(50):
            await client.completions.create(model="tiny", prompt="Sea", max_tokens=2)
        while not re.search(r"^ssjf_gain_ratio(?:\{.*\})? -?0\.\d+", text, re.MULTILINE):
            await asyncio.sleep(0.05)
            text = (await http.get(f"{ours}/metrics")).text
