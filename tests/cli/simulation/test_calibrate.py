import asyncio
import json
from pathlib import Path

import aiohttp
import pytest
import typer
from aiohttp import web
from aiohttp.test_utils import TestServer
from click.testing import Result
from typer.testing import CliRunner

from ssjf.cli.simulation.calibrate import _read_max_num_seqs, calibrate
from ssjf.errors import BackendError, ConfigError
from ssjf.loadgen.client import Endpoint
from ssjf.sim.steps.cost import load_cost_model
from tests.loadgen.fake_server import FakeServer, fake_server, refusal, stream, whole_answer

app = typer.Typer()
app.command()(calibrate)


async def run(server: FakeServer, out: Path, *options: str) -> Result:
    """The command runs an event loop of its own, on another thread than the server's."""
    arguments = ["--url", server.endpoint.url, "--out", str(out), "--repeats", "1", "--prompt-tokens", "20,4"]
    return await asyncio.to_thread(CliRunner().invoke, app, [*arguments, *options])


async def fixed_length(request: web.Request) -> web.StreamResponse:
    """As many chunks as asked for, to a prompt of which each word is two tokens, in a conversation that adds three."""
    body = await request.json()
    words = body["messages"][0]["content"].split()
    return await stream(request, whole_answer(body["max_tokens"], prompt_tokens=3 + 2 * len(words)))


async def test_probes_of_every_size_and_prompt_length_become_a_cost_model(tmp_path: Path) -> None:
    async with fake_server() as server:
        server.handler = fixed_length
        result = await run(server, tmp_path / "cost.json", "--max-num-seqs", "3")
    assert result.exit_code == 0, result.output
    load_cost_model(tmp_path / "cost.json")
    calibration = json.loads((tmp_path / "cost.json").read_text())["calibration"]
    assert calibration["concurrencies"] == [1, 2, 3]
    assert calibration["max_num_seqs"] == 3
    assert calibration["model"] == "tiny"
    assert calibration["prompt_tokens"] == [5, 19]  # the nearest to 4 and 20 that whole words can make
    waves, mixed = 3 * 2, 3
    assert len(calibration["residuals"]) == 2 * waves + mixed
    warm_ups, in_waves, in_mixed = 2, 2 * (1 + 2 + 3), 4 * (1 + 2 + 3) + 2 * 3
    assert len(server.bodies) == warm_ups + in_waves + in_mixed
    assert all(body["ignore_eos"] and body["max_tokens"] == body["min_tokens"] for body in server.bodies)
    texts = [
        body["messages"][0]["content"] for body in server.bodies if len(body["messages"][0]["content"].split()) > 4
    ]
    assert len(set(texts)) == len(texts), "no cache has a prompt already"
    assert "each request that enters" in result.output


async def test_an_engine_that_does_not_say_its_limit_needs_to_be_told(tmp_path: Path) -> None:
    async with fake_server() as server:
        result = await run(server, tmp_path / "cost.json")
    assert isinstance(result.exception, ConfigError)
    assert "give --max-num-seqs" in str(result.exception)
    assert not (tmp_path / "cost.json").exists()


async def test_the_limit_is_read_from_the_engines_metrics() -> None:
    async def metrics(_: web.Request) -> web.Response:
        return web.Response(text="# HELP ssjf_engine_max_num_seqs Its slots.\nssjf_engine_max_num_seqs 12.0\n")

    app = web.Application()
    app.router.add_get("/metrics", metrics)
    async with TestServer(app) as server, aiohttp.ClientSession() as session:
        assert await _read_max_num_seqs(session, Endpoint(url=str(server.make_url("/v1")))) == 12


async def test_a_probe_that_the_engine_refuses_ends_it_with_the_reason(tmp_path: Path) -> None:
    async def refuse(_: web.Request) -> web.StreamResponse:
        return refusal(400, "the prompt is too long")

    async with fake_server() as server:
        server.handler = refuse
        result = await run(server, tmp_path / "cost.json", "--max-num-seqs", "2")
    assert isinstance(result.exception, BackendError)
    assert "the prompt is too long" in str(result.exception)
    assert not (tmp_path / "cost.json").exists()


async def test_an_engine_that_does_not_count_tokens_cannot_be_probed(tmp_path: Path) -> None:
    async def no_usage(request: web.Request) -> web.StreamResponse:
        return await stream(request, [event for event in whole_answer(9) if "usage" not in event])

    async with fake_server() as server:
        server.handler = no_usage
        result = await run(server, tmp_path / "cost.json", "--max-num-seqs", "2", "--model", "tiny")
    assert isinstance(result.exception, BackendError)
    assert "no usage" in str(result.exception)


async def test_nobody_at_the_address_is_an_error(tmp_path: Path) -> None:
    async with fake_server() as server:
        pass
    result = await run(server, tmp_path / "cost.json", "--max-num-seqs", "2", "--model", "tiny")
    assert isinstance(result.exception, BackendError)
    result = await run(server, tmp_path / "cost.json", "--model", "tiny")
    assert isinstance(result.exception, ConfigError)


@pytest.mark.parametrize("lengths", ["", "a", "0,5"])
async def test_prompt_lengths_must_be_positive_numbers(tmp_path: Path, lengths: str) -> None:
    async with fake_server() as server:
        result = await run(server, tmp_path / "cost.json", "--prompt-tokens", lengths)
    assert isinstance(result.exception, ConfigError)
    assert "is not a list of lengths" in str(result.exception)


async def test_the_result_is_a_file(tmp_path: Path) -> None:
    async with fake_server() as server:
        result = await run(server, tmp_path)
    assert isinstance(result.exception, ConfigError)
    assert "is a folder" in str(result.exception)
