import asyncio
import csv
import json
import os
import signal
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
import typer
from aiohttp import web
from click.testing import Result
from typer.testing import CliRunner

from ssjf.cli.replay import replay
from ssjf.errors import BackendError, ConfigError, DataError
from tests.loadgen.fake_server import FakeServer, fake_server, refusal, stream, whole_answer

app = typer.Typer()
app.command()(replay)


@pytest.fixture
def server() -> Iterator[FakeServer]:
    """A server on another thread: the command runs an event loop of its own."""
    started: list[FakeServer] = []
    ready = threading.Event()
    loop = asyncio.new_event_loop()
    ended = asyncio.Event()

    async def serve() -> None:
        async with fake_server() as fake:
            started.append(fake)
            ready.set()
            await ended.wait()

    thread = threading.Thread(target=loop.run_until_complete, args=(serve(),))
    thread.start()
    ready.wait()
    yield started[0]
    loop.call_soon_threadsafe(ended.set)
    thread.join()
    loop.close()


@pytest.fixture
def workload(tmp_path: Path) -> Path:
    path = tmp_path / "workload.jsonl"
    rows = [
        {"arrival_s": 5.0, "prompt": "first", "input_tokens": 1, "output_tokens": 300},
        {"arrival_s": 5.01, "prompt": "second", "input_tokens": 1, "output_tokens": 3},
        {"arrival_s": 5.02, "prompt": "third", "input_tokens": 1, "output_tokens": 5},
    ]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def run(server: FakeServer, workload: Path, *options: str) -> Result:
    arguments = ["--workload", str(workload), "--url", server.endpoint.url, "--out", str(workload.parent / "out")]
    return CliRunner().invoke(app, [*arguments, *options])


def test_every_request_is_one_row_and_the_summary_counts_them(server: FakeServer, workload: Path) -> None:
    result = run(server, workload, "--policy-label", "fcfs", "--seed", "4")
    assert result.exit_code == 0, result.output
    with (workload.parent / "out" / "jobs.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [(row["policy"], row["seed"], row["index"], row["status"]) for row in rows] == [
        ("fcfs", "4", "0", "completed"),
        ("fcfs", "4", "1", "completed"),
        ("fcfs", "4", "2", "completed"),
    ]
    (summary,) = json.loads((workload.parent / "out" / "summary.json").read_text())
    assert (summary["policy"], summary["n"], summary["failed"]) == ("fcfs", 3, 0)
    assert (workload.parent / "out" / "completion_times.png").stat().st_size > 0
    assert [body["model"] for body in server.bodies] == ["tiny"] * 3, "the first model that the server lists"


def test_fixed_output_hints_and_cap_reach_the_server(server: FakeServer, workload: Path) -> None:
    assert run(server, workload, "--fixed-output", "--hints", "--max-output-tokens", "256").exit_code == 0
    asked = {body["messages"][0]["content"]: body for body in server.bodies}
    assert (asked["first"]["max_tokens"], asked["first"]["ignore_eos"]) == (256, True)
    assert asked["third"]["min_tokens"] == 5
    assert sorted(int(headers["x-ssjf-output-tokens"]) for headers in server.headers) == [3, 5, 256]


def test_the_exported_workload_is_the_one_that_was_sent(server: FakeServer, workload: Path, tmp_path: Path) -> None:
    path = tmp_path / "mooncake.jsonl"
    result = run(server, workload, "--export", str(path), "--fixed-output", "--max-output-tokens", "256")
    assert result.exit_code == 0, result.output
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    assert [(line["timestamp"], line["output_length"]) for line in lines] == [(0, 256), (10, 3), (20, 5)]


def test_limit_takes_the_first_rows(server: FakeServer, workload: Path) -> None:
    assert run(server, workload, "--limit", "2").exit_code == 0
    assert {body["messages"][0]["content"] for body in server.bodies} == {"first", "second"}


def test_a_failed_request_is_shown_with_its_cause_and_the_exit_code_is_1(server: FakeServer, workload: Path) -> None:
    async def refuse_one(request: web.Request) -> web.StreamResponse:
        if len(server.bodies) == 2:
            return refusal(429, "queue is full")
        return await stream(request, whole_answer(1))

    server.handler = refuse_one
    result = run(server, workload)
    assert result.exit_code == 1
    assert "1 failed: HTTP 429: queue is full" in result.output
    (summary,) = json.loads((workload.parent / "out" / "summary.json").read_text())
    assert (summary["n"], summary["failed"]) == (3, 1)


def test_an_interruption_writes_what_there_is_and_says_so(server: FakeServer, workload: Path) -> None:
    async def interrupt(request: web.Request) -> web.StreamResponse:
        os.kill(os.getpid(), signal.SIGINT)
        return await stream(request, [])

    server.handler = interrupt
    result = run(server, workload, "--arrivals", "trace:" + str(_slow(workload)))
    assert result.exit_code == 1
    assert "interrupted: 1 of 3 requests were sent" in result.output
    with (workload.parent / "out" / "jobs.csv").open() as file:
        assert [row["status"] for row in csv.DictReader(file)] == ["cancelled"]


def _slow(workload: Path) -> Path:
    """Arrivals of which only the first comes soon."""
    path = workload.with_name("arrivals.csv")
    path.write_text("arrival_s,input_tokens\n0,1\n1000,1\n2000,1\n")
    return path


def test_plain_completions_refuse_conversations(server: FakeServer, tmp_path: Path) -> None:
    path = tmp_path / "chat.jsonl"
    path.write_text(json.dumps({"arrival_s": 0, "prompt": [{"role": "user", "content": "hi"}], "output_tokens": 1}))
    result = run(server, path, "--completions")
    assert isinstance(result.exception, ConfigError)
    assert not (tmp_path / "out").exists()


def test_a_missing_workload_is_a_data_error_before_anything_is_sent(server: FakeServer, tmp_path: Path) -> None:
    result = run(server, tmp_path / "nothing.jsonl")
    assert isinstance(result.exception, DataError)
    assert server.bodies == []


def test_a_server_that_is_not_there_is_named(workload: Path, unused_tcp_port: int) -> None:
    arguments = ["--workload", str(workload), "--url", f"http://127.0.0.1:{unused_tcp_port}"]
    result = CliRunner().invoke(app, [*arguments, "--out", str(workload.parent / "out")])
    assert isinstance(result.exception, BackendError)
    assert str(unused_tcp_port) in str(result.exception)
    assert not (workload.parent / "out").exists(), "nothing half-written"
