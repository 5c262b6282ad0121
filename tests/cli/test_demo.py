"""The demonstration against scripted servers, and once, small, against the real ones."""

import asyncio
import json
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path

import pytest
import typer
from aiohttp import web
from typer.testing import CliRunner

from ssjf.cli.demo import demo
from ssjf.cli.demo.measure import PARTS, DemoPlan, Measurement, measure
from ssjf.cli.demo.processes import running_server
from ssjf.cli.demo.results import report, summaries
from ssjf.errors import BackendError, ConfigError
from ssjf.metrics.records import JobRecord
from ssjf.workload.generated.instructions import split_of
from tests.loadgen.fake_server import FakeServer, fake_server, refusal, stream, whole_answer

PLAN = DemoPlan(
    slots=2,
    num_jobs={"overload": 12, "light": 6},
    loads={"overload": 1.3, "light": 0.7},
    num_training_prompts=60,
    num_speed_prompts=8,
    ageing_rate=0.5,
    seed=0,
)


def quiet(_description: str, _num_requests: int) -> Callable[[JobRecord], None]:
    return lambda _: None


class FakeServers:
    """Stands in for child processes: a scripted server for each, remembered with its options."""

    def __init__(self) -> None:
        self.options: dict[str, Sequence[str]] = {}
        self.servers: dict[str, FakeServer] = {}

    @asynccontextmanager
    async def running(self, command: str, options: Sequence[str], *, log: Path) -> AsyncIterator[str]:
        async with fake_server() as fake:
            slots = asyncio.Semaphore(2)

            async def answer(request: web.Request) -> web.StreamResponse:
                prompt = fake.bodies[-1]["messages"][0]["content"]
                arrived = asyncio.get_running_loop().time()
                async with slots:
                    queue_ms = 1000 * (asyncio.get_running_loop().time() - arrived)
                    await asyncio.sleep(0.002)
                    headers = {"x-ssjf-queue-ms": str(queue_ms), "x-ssjf-predicted-tokens": "5"}
                    return await stream(request, whole_answer(len(prompt) % 7 + 1), headers)

            fake.handler = answer
            self.options[log.stem], self.servers[log.stem] = (command, *options), fake
            yield fake.endpoint.url


@pytest.fixture
def servers(monkeypatch: pytest.MonkeyPatch) -> FakeServers:
    fakes = FakeServers()
    monkeypatch.setattr("ssjf.cli.demo.measure.running_server", fakes.running)
    return fakes


@pytest.mark.usefixtures("servers")
async def test_every_policy_gets_the_same_prompts_at_the_same_times(tmp_path: Path) -> None:
    measurement = await measure(PLAN, out=tmp_path, model=None, stage=quiet)
    for part in PARTS:
        runs: dict[str, list[tuple[int, float]]] = {}
        for record in measurement.records[part]:
            runs.setdefault(record.policy, []).append((record.index, record.arrival_s))
        assert list(runs) == ["fcfs", "auto", "aged-ssjf", "ssjf", "sjf"]
        first = sorted(runs["fcfs"])
        assert [index for index, _ in first] == list(measurement.indices(part))
        for jobs in runs.values():
            assert sorted(jobs) == first


async def test_the_timed_prompts_are_none_that_model_or_predictor_learned_from(
    servers: FakeServers, tmp_path: Path
) -> None:
    measurement = await measure(PLAN, out=tmp_path, model=None, stage=quiet)
    assert {split_of(prompt) for prompt in measurement.prompts} == {"demo"}
    sent_before = servers.servers["recorder"].bodies[: PLAN.num_training_prompts]
    assert {split_of(body["messages"][0]["content"]) for body in sent_before} == {"predictor"}


async def test_only_the_oracle_is_told_the_recorded_lengths(servers: FakeServers, tmp_path: Path) -> None:
    measurement = await measure(PLAN, out=tmp_path, model=None, stage=quiet)
    oracle = servers.servers["sjf"]
    told = {
        body["messages"][0]["content"]: int(headers["x-ssjf-output-tokens"])
        for body, headers in zip(oracle.bodies, oracle.headers, strict=True)
        if "x-ssjf-output-tokens" in headers
    }
    assert told == {prompt: len(prompt) % 7 + 1 for prompt in measurement.prompts}
    for name, server in servers.servers.items():
        if name != "sjf":
            assert not any("x-ssjf-output-tokens" in headers for headers in server.headers)


async def test_every_policy_has_an_equal_share_of_one_engine(servers: FakeServers, tmp_path: Path) -> None:
    await measure(PLAN, out=tmp_path, model="some.gguf", stage=quiet)
    assert servers.options["engine"] == ("engine", "--max-num-seqs", "10", "--model", "some.gguf")
    backend = ("serve", "--backend", servers.servers["engine"].endpoint.url, "--slots", "2")
    predictor = ("--predictor", str(tmp_path / "predictor"))
    assert servers.options["fcfs"] == (*backend, "--policy", "fcfs")
    assert servers.options["auto"] == (*backend, *predictor)
    assert servers.options["ssjf"] == (*backend, "--policy", "ssjf", *predictor)
    assert servers.options["aged-ssjf"] == (*backend, "--policy", "aged-ssjf:rate=0.5", *predictor)
    assert servers.options["sjf"] == (*backend, "--policy", "ssjf", "--accept-hints")
    assert servers.servers["engine"].bodies == []


async def test_what_the_predictors_learn_from_are_not_the_timed_prompts(servers: FakeServers, tmp_path: Path) -> None:
    """A gateway learns from what it serves: none may have seen a prompt before it is timed."""
    measurement = await measure(PLAN, out=tmp_path, model=None, stage=quiet)
    for policy in ("auto", "ssjf", "aged-ssjf"):
        sent = [body["messages"][0]["content"] for body in servers.servers[policy].bodies]
        assert len(sent) == PLAN.num_speed_prompts + len(measurement.prompts)
        assert set(measurement.prompts).isdisjoint(sent[: PLAN.num_speed_prompts])


@pytest.mark.usefixtures("servers")
async def test_each_part_comes_at_exactly_the_planned_share_of_the_capacity(tmp_path: Path) -> None:
    measurement = await measure(PLAN, out=tmp_path, model=None, stage=quiet)
    for part in PARTS:
        last_s = max(record.arrival_s for record in measurement.records[part])
        rate = PLAN.num_jobs[part] / last_s
        assert rate / measurement.capacities[part] == pytest.approx(PLAN.loads[part])


@pytest.mark.usefixtures("servers")
async def test_a_request_that_fails_before_anything_is_compared_ends_the_demo(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def refuse(*_: object) -> web.StreamResponse:
        return refusal(503, "the engine is gone")

    monkeypatch.setattr(FakeServer, "complete", refuse)
    with pytest.raises(BackendError, match=r"60 of 60 requests failed.*the engine is gone"):
        await measure(PLAN, out=tmp_path, model=None, stage=quiet)


def made_up(jct_s: dict[str, float]) -> Measurement:
    """Two jobs a part and policy, the second waiting; mean completion times as given."""
    measurement = Measurement(PLAN, ["a", "b"], recorded={0: 4, 1: 9}, capacities={"overload": 2.0, "light": 2.0})
    for part in PARTS:
        measurement.records[part] = [
            JobRecord(
                policy=policy,
                seed=0,
                index=index,
                arrival_s=0.0,
                start_s=0.5 * index,
                first_token_s=0.6 + 0.1 * index,
                finish_s=mean_s,
                input_tokens=3,
                output_tokens=(4, 9)[index],
                predicted_tokens=5.0 if policy != "fcfs" else None,
                status="completed",
            )
            for policy, mean_s in jct_s.items()
            for index in range(2)
        ]
    return measurement


def test_rows_are_by_part_and_policy_and_shares_are_of_the_overload() -> None:
    measurement = made_up({"fcfs": 10.0, "auto": 7.0, "aged-ssjf": 8.0, "ssjf": 6.0, "sjf": 5.0})
    rows = summaries(measurement.records)
    assert [(row["part"], row["policy"]) for row in rows] == [
        (part, policy) for part in ("overload", "light") for policy in ("fcfs", "auto", "aged-ssjf", "ssjf", "sjf")
    ]
    by_policy = {row["policy"]: row for row in rows if row["part"] == "overload"}
    assert by_policy["ssjf"]["gain"] == pytest.approx(0.4)
    assert by_policy["ssjf"]["oracle_share"] == pytest.approx(0.8)
    assert {row["oracle_share"] for row in rows if row["part"] == "light"} == {None}


def test_the_page_says_what_was_found_and_needs_nothing_from_elsewhere() -> None:
    measurement = made_up({"fcfs": 10.0, "auto": 7.0, "aged-ssjf": 8.0, "ssjf": 6.0, "sjf": 5.0})
    page = report(measurement, summaries(measurement.records))
    assert "answers 40% sooner" in page
    assert page.count("<svg") == 4
    assert "<script" not in page
    assert "src=" not in page


def test_a_changed_length_is_counted() -> None:
    measurement = made_up({"fcfs": 10.0})
    measurement.recorded[1] = 8
    assert measurement.changed_share == 0.5


async def test_a_server_that_does_not_start_is_reported_with_its_last_words(tmp_path: Path) -> None:
    log = tmp_path / "engine.log"
    async with AsyncExitStack() as stack:
        with pytest.raises(BackendError, match=r"`ssjf engine` ended before it was ready: .*nothing\.gguf"):
            await stack.enter_async_context(
                running_server("engine", ("--model", str(tmp_path / "nothing.gguf")), log=log)
            )


def test_a_file_in_the_place_of_the_folder_is_refused(tmp_path: Path) -> None:
    app = typer.Typer()
    app.command()(demo)
    (tmp_path / "out").write_text("")
    result = CliRunner().invoke(app, ["--out", str(tmp_path / "out")])
    assert isinstance(result.exception, ConfigError)


@pytest.mark.slow
def test_a_small_demo_on_the_real_engine_fails_no_request(tmp_path: Path) -> None:
    app = typer.Typer()
    app.command()(demo)
    small = ["--jobs", "20", "--light-jobs", "20", "--training-prompts", "50"]
    result = CliRunner().invoke(app, ["--out", str(tmp_path), *small])
    assert result.exit_code == 0, result.output
    rows = json.loads((tmp_path / "summary.json").read_text())
    assert [(row["n"], row["failed"]) for row in rows] == [(20, 0)] * 10
    assert "report.html" in result.output
