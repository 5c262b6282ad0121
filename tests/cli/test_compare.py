"""The command, as a user sees it."""

import json
from importlib.metadata import EntryPoint
from pathlib import Path

import pytest
import typer
from typer.testing import CliRunner, Result

from ssjf.cli.compare import compare
from ssjf.errors import SSJFError

SMALL = ["--lengths", "paper", "--jobs", "120", "--seeds", "2", "--workers", "1", "--slots", "1", "--loads", "0.5,0.9"]


def invoke(*arguments: str) -> Result:
    app = typer.Typer()
    app.command()(compare)
    return CliRunner().invoke(app, [*arguments])


def test_it_writes_a_table_a_file_and_pictures(tmp_path: Path) -> None:
    result = invoke(*SMALL, "--policies", "fcfs,ssjf,sjf", "--out", str(tmp_path))
    assert result.exit_code == 0, result.output
    assert "1 slot, load 0.9, poisson, lognormal:0.8" in result.output
    rows = json.loads((tmp_path / "summary.json").read_text())
    assert [(row["load"], row["seed"], row["policy"]) for row in rows] == [
        (load, seed, policy) for load in (0.5, 0.9) for seed in (0, 1) for policy in ("fcfs", "ssjf", "sjf")
    ]
    assert {"p90_vs_fcfs", "p99_vs_fcfs", "max_vs_fcfs", "oracle_share", "gain"} <= set(rows[0])
    assert (tmp_path / "frontier.png").stat().st_size > 10_000
    assert (tmp_path / "gain.png").stat().st_size > 10_000


def test_a_run_again_reads_what_is_there(tmp_path: Path) -> None:
    invoke(*SMALL, "--policies", "fcfs,ssjf", "--out", str(tmp_path))
    before = (tmp_path / "summary.json").read_bytes()
    result = invoke(*SMALL, "--policies", "fcfs,ssjf", "--out", str(tmp_path))
    assert "4 of 4 cells were there" in result.output
    assert (tmp_path / "summary.json").read_bytes() == before


def test_single_cases_take_the_place_of_the_grid(tmp_path: Path) -> None:
    cases = ["--case", "slots=2,load=0.8", "--case", "slots=4,load=0.7,arrivals=onoff,predictor=oracle"]
    result = invoke(*SMALL, *cases, "--policies", "ssjf", "--out", str(tmp_path))
    assert result.exit_code == 0, result.output
    rows = json.loads((tmp_path / "summary.json").read_text())
    assert [(row["slots"], row["arrivals"], row["predictor"]) for row in rows[::2]] == [
        (2, "poisson", "lognormal:0.8"),
        (4, "onoff", "oracle"),
    ]


def test_an_engines_cost_model_gives_first_tokens(tmp_path: Path) -> None:
    cost = tmp_path / "cost.json"
    cost.write_text(
        '{"base_s": 0.01, "per_prefill_token_s": 1e-4, "per_decode_token_s": 1e-4, "per_kv_token_s": 0, '
        '"per_request_s": 0}'
    )
    result = invoke(*SMALL, "--policies", "fcfs,ssjf", "--cost-model", str(cost), "--out", str(tmp_path / "out"))
    assert result.exit_code == 0, result.output
    rows = json.loads((tmp_path / "out/summary.json").read_text())
    assert all(row["mean_ttft_s"] > 0 for row in rows)


def test_every_installed_policy_is_compared_unless_some_are_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    point = EntryPoint("longest-first", "examples.longest_first:LongestFirst", "ssjf.policies")
    ours = EntryPoint("fcfs", "ssjf.core.policies:FCFS", "ssjf.policies")
    monkeypatch.setattr("ssjf.plugins.entry_points", lambda **_: [point, ours])
    result = invoke(*SMALL, "--out", str(tmp_path))
    assert result.exit_code == 0, result.output
    rows = json.loads((tmp_path / "summary.json").read_text())
    assert {row["policy"] for row in rows} == {"fcfs", "longest-first", "sjf"}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--policies", "sssjf"], "did you mean 'ssjf'"),
        (["--loads", "0.5,x"], "'x' is not a positive number"),
        (["--slots", "1.5"], "not a whole number"),
        (["--slots", "0"], "not a positive number"),
        (["--arrivals", "poison"], "expected poisson"),
        (["--arrivals", "gamma:-1"], "not a positive number"),
        (["--predictors", "column"], "no column predicted_tokens"),
        (["--case", "slots=2"], "expected slots=N"),
        (["--jobs", "0"], "at least 2"),
        (["--seeds", "0"], "at least 1"),
        (["--workload", "nowhere.csv"], "either --workload FILE or --lengths"),
        (["--cost-model", "nowhere.json"], "cannot be read"),
    ],
)
def test_bad_input_is_one_clear_error_and_nothing_is_written(
    tmp_path: Path, arguments: list[str], message: str
) -> None:
    result = invoke(*SMALL, *arguments, "--out", str(tmp_path / "out"))
    assert isinstance(result.exception, SSJFError)
    assert message in str(result.exception)
    assert not (tmp_path / "out").exists()
