"""The command, as a user sees it."""

import csv
import json
import re
import subprocess
import sys
import time
from importlib.metadata import EntryPoint
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import pytest
import typer
from typer.testing import CliRunner, Result

from ssjf.cli.simulation.compare import compare
from ssjf.errors import SSJFError, UserError
from ssjf.predict.artefact import save_predictor
from ssjf.predict.ngram.predictor import NgramPredictor
from ssjf.sim.compare import Laboratory

SMALL = ["--lengths", "paper", "--jobs", "120", "--seeds", "2", "--workers", "1", "--slots", "1", "--loads", "0.5,0.9"]
COST = {
    "base_s": 0.01,
    "per_prefill_token_s": 1e-4,
    "per_decode_token_s": 1e-4,
    "per_kv_token_s": 0,
    "per_request_s": 0,
}


def invoke(*arguments: str | Path) -> Result:
    app = typer.Typer()
    app.command()(compare)
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


def rows_of(out: Path) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = json.loads((out / "summary.json").read_text())
    return rows


@pytest.fixture
def workload(tmp_path: Path) -> Path:
    path = tmp_path / "workload.csv"
    rows = [(0.7 * number + number % 3, 10, 10 + 37 * number % 300, number % 2) for number in range(90)]
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["arrival_s", "input_tokens", "output_tokens", "predicted_tokens", "pred_class2"])
        writer.writerows([arrival, prompt, answer, answer // 2, label] for arrival, prompt, answer, label in rows)
    return path


def test_it_writes_a_table_a_file_and_pictures(tmp_path: Path) -> None:
    result = invoke(*SMALL, "--policies", "fcfs,ssjf,sjf", "--out", tmp_path)
    assert result.exit_code == 0, result.output
    for text in ("1 slot, load 0.9, poisson", "predicted by lognormal:0.8", "sjf", "share"):
        assert text in result.output
    rows = rows_of(tmp_path)
    assert [(row["load"], row["policy"], row["seed"]) for row in rows] == [
        (load, policy, seed) for load in (0.5, 0.9) for policy in ("fcfs", "ssjf", "sjf") for seed in (0, 1)
    ]
    assert {"p90_vs_fcfs", "p99_vs_fcfs", "max_vs_fcfs", "oracle_share", "gain", "mean_jct_s", "short"} <= set(rows[0])
    assert [row["predictor"] for row in rows[::2]] == [None, "lognormal:0.8", None] * 2
    assert (tmp_path / "frontier.png").stat().st_size > 10_000
    assert (tmp_path / "gain.png").stat().st_size > 10_000


def test_the_number_of_workers_changes_no_byte(tmp_path: Path) -> None:
    for workers in ("1", "2"):
        words = [*SMALL, "--policies", "ssjf,auto", "--workers", workers, "--out", tmp_path / workers]
        assert invoke(*words).exit_code == 0
    assert (tmp_path / "1/summary.json").read_bytes() == (tmp_path / "2/summary.json").read_bytes()


def test_a_run_again_reads_what_is_there_and_a_larger_grid_adds_to_it(tmp_path: Path) -> None:
    words = [*SMALL, "--policies", "fcfs,ssjf", "--out", tmp_path]
    assert "from an earlier run" not in invoke(*words).output
    before = (tmp_path / "summary.json").read_bytes()
    assert "12 of 12 cells were there" in invoke(*words).output
    assert (tmp_path / "summary.json").read_bytes() == before
    more = invoke(*words, "--policies", "fcfs,ssjf,hrrn", "--seeds", "3", "--predictors", "lognormal:0.8,random")
    # of 2 loads × 3 seeds × (fcfs, sjf, and ssjf and hrrn twice told)
    assert "12 of 36 cells were there" in more.output
    assert invoke(*words, "--jobs", "121").output.count("were there") == 0


def test_a_damaged_cell_is_computed_anew(tmp_path: Path) -> None:
    words = [*SMALL, "--policies", "ssjf", "--out", tmp_path]
    invoke(*words)
    before = (tmp_path / "summary.json").read_bytes()
    next((tmp_path / "cells").iterdir()).write_text('{"cell"')
    assert "11 of 12 cells were there" in invoke(*words).output
    assert (tmp_path / "summary.json").read_bytes() == before


def test_a_stopped_run_keeps_its_cells_and_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    words = [*SMALL, "--policies", "ssjf", "--out", tmp_path / "out"]
    run = Laboratory.run
    left = iter(range(5))

    def stopped(self: Laboratory, cell: Any) -> Any:
        if next(left, None) is None:
            raise KeyboardInterrupt
        return run(self, cell)

    with monkeypatch.context() as patched:
        patched.setattr(Laboratory, "run", stopped)
        result = invoke(*words)
    assert isinstance(result.exception, SSJFError)
    assert not isinstance(result.exception, UserError)
    assert "5 of 12 cells are kept" in str(result.exception)
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["cells"]
    assert "5 of 12 cells were there" in invoke(*words).output
    assert invoke(*words[:-1], tmp_path / "whole").exit_code == 0
    assert (tmp_path / "out/summary.json").read_bytes() == (tmp_path / "whole/summary.json").read_bytes()


def run_with_policy(tmp_path: Path, key: str) -> tuple[subprocess.CompletedProcess[str], float]:
    """The command in a process of its own on two workers, with a policy whose key is such code; and its seconds.

    Returns only when nobody holds the output any more: when the workers have ended too.
    """
    site = tmp_path / "site"
    information = site / "mine-1.0.dist-info"
    information.mkdir(parents=True)
    (information / "METADATA").write_text("Metadata-Version: 2.1\nName: mine\nVersion: 1.0\n")
    (information / "entry_points.txt").write_text("[ssjf.policies]\nmine = mine:Mine\n")
    code = f"import os, signal, time\nclass Mine:\n    static = True\n    def key(self, job, now):\n        {key}\n"
    (site / "mine.py").write_text(code)
    words = [*SMALL, "--policies", "mine", "--workers", "2", "--out", str(tmp_path / "out")]
    environment = {"PYTHONPATH": str(site), "PATH": "", "HOME": str(tmp_path)}
    begin = time.monotonic()
    done = subprocess.run(
        [sys.executable, "-m", "ssjf", "compare", *words],
        env=environment, capture_output=True, text=True, timeout=120, check=False,
    )  # fmt: skip
    return done, time.monotonic() - begin


def test_an_interrupt_ends_the_workers_at_once_with_one_line(tmp_path: Path) -> None:
    done, seconds = run_with_policy(tmp_path, "os.kill(os.getppid(), signal.SIGINT); time.sleep(100)")
    assert done.returncode == 1
    assert re.fullmatch(r"ssjf: stopped: \d+ of 12 cells are kept in \S+; .*\n", done.stderr), done.stderr
    assert seconds < 60
    assert not (tmp_path / "out/summary.json").exists()


def test_workers_do_not_outlive_a_command_that_is_killed(tmp_path: Path) -> None:
    done, seconds = run_with_policy(tmp_path, "os.kill(os.getppid(), signal.SIGKILL); time.sleep(100)")
    assert done.returncode == -9
    assert seconds < 60


def test_a_policy_that_fails_or_kills_its_worker_is_one_line(tmp_path: Path) -> None:
    done, _ = run_with_policy(tmp_path / "a", "raise ZeroDivisionError('oh')")
    assert done.returncode == 1
    assert re.fullmatch(r"ssjf: policy 'mine' failed \(1 slot.*oh.*\n", done.stderr), done.stderr
    done, _ = run_with_policy(tmp_path / "b", "os._exit(3)")
    assert done.returncode == 1
    assert re.fullmatch(r"ssjf: a worker process died.*\n", done.stderr), done.stderr


def test_a_case_is_the_part_of_the_grid_that_it_names(tmp_path: Path) -> None:
    cases = ["--case", "slots=1", "--case", "slots=4, load=0.7, arrivals=onoff", "--case", "load=0.9"]
    result = invoke(*SMALL, *cases, "--policies", "ssjf", "--seeds", "1", "--out", tmp_path)
    assert result.exit_code == 0, result.output
    assert [(row["slots"], row["load"], row["arrivals"]) for row in rows_of(tmp_path)] == [
        (1, 0.5, "poisson"),
        (1, 0.9, "poisson"),
        (4, 0.7, "onoff"),
    ]


def test_a_files_own_predictions_are_the_default(workload: Path, tmp_path: Path) -> None:
    words = ["--workload", workload, *SMALL[2:], "--policies", "ssjf", "--seeds", "1", "--loads", "0.9"]
    assert invoke(*words, "--out", tmp_path / "a").exit_code == 0
    assert invoke(*words, "--predictors", "column,oracle", "--out", tmp_path / "b").exit_code == 0
    (row,) = rows_of(tmp_path / "a")
    column, oracle = rows_of(tmp_path / "b")
    assert row == column
    assert row["predictor"] == "column"
    assert oracle["oracle_share"] == 1.0
    assert row["oracle_share"] == 1.0  # half the length ranks like the length


def test_a_class_is_predicted_by_the_mean_of_its_members(workload: Path, tmp_path: Path) -> None:
    words = ["--workload", workload, *SMALL[2:], "--policies", "ssjf", "--seeds", "1", "--loads", "0.9"]
    result = invoke(*words, "--predictors", "column:pred_class2,reversed", "--out", tmp_path)
    assert result.exit_code == 0, result.output
    classes, backwards = rows_of(tmp_path)
    assert backwards["oracle_share"] < classes["oracle_share"] < 1.0


def test_a_files_rows_can_come_as_they_came_or_as_another_trace_does(workload: Path, tmp_path: Path) -> None:
    words = ["--workload", workload, *SMALL[2:], "--policies", "fcfs", "--seeds", "1", "--loads", "0.9"]
    result = invoke(*words, "--jobs", "80", "--arrivals", f"own,trace:{workload}", "--out", tmp_path)
    assert result.exit_code == 0, result.output
    own, trace = rows_of(tmp_path)
    assert (own["n"], trace["n"]) == (80, 80)
    assert own["mean_jct_s"] != trace["mean_jct_s"]


def test_an_engines_cost_model_gives_first_tokens(tmp_path: Path) -> None:
    cost = tmp_path / "cost.json"
    cost.write_text(json.dumps(COST))
    words = ["--policies", "fcfs,psjf", "--input-lengths", "uniform:1:50", "--cost-model", cost]
    result = invoke(*SMALL, *words, "--out", tmp_path / "out")
    assert result.exit_code == 0, result.output
    assert all(row["mean_ttft_s"] > 0 for row in rows_of(tmp_path / "out"))


def test_every_installed_policy_that_can_run_is_compared_unless_some_are_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    points = {
        "longest-first": "examples.longest_first:LongestFirst",
        "fcfs": "ssjf.core.policies:FCFS",
        "psjf": "ssjf.core.policies:PSJF",
        "edf": "ssjf.core.policies:EDF",
        "damaged": "nowhere:Nobody",
    }
    found = [EntryPoint(name, value, "ssjf.policies") for name, value in points.items()]
    monkeypatch.setattr("ssjf.plugins.entry_points", lambda **_: found)
    result = invoke(*SMALL, "--batching", "static", "--out", tmp_path)
    assert result.exit_code == 0, result.output
    assert list(dict.fromkeys(row["policy"] for row in rows_of(tmp_path))) == ["fcfs", "longest-first", "sjf"]
    notes = [line for line in result.output.splitlines() if line.startswith("left out: ")]
    for note, left_out in zip(notes, ("'damaged' (nowhere:Nobody)", "edf, because nobody", "psjf, which"), strict=True):
        assert left_out in note


def test_without_matplotlib_there_are_figures_but_no_pictures(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    result = invoke(*SMALL, "--policies", "ssjf", "--out", tmp_path)
    assert result.exit_code == 0, result.output
    assert "no pictures" in result.output
    assert sorted(path.name for path in tmp_path.iterdir()) == ["cells", "summary.json"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--policies", "sssjf"], "did you mean 'ssjf'"),
        (["--policies", "psjf", "--batching", "static"], "psjf preempts"),
        (["--policies", " ,"], "names no policy"),
        (["--loads", "0.5,x"], "'x' is not a positive number"),
        (["--loads", ""], "--loads names nothing"),
        (["--slots", "1.5"], "'1.5' is not a positive whole number"),
        (["--slots", "0"], "'0' is not a positive whole number"),
        (["--arrivals", "poison"], "expected poisson"),
        (["--arrivals", "poisson:3"], "the rate follows from the load"),
        (["--arrivals", "gamma:-1"], "not a positive number"),
        (["--arrivals", "own"], "no arrival times"),
        (["--arrivals", "trace:nowhere.csv"], "nowhere.csv"),
        (["--predictors", "column"], "needs a --workload"),
        (["--predictors", "lognormal"], "expected one of"),
        (["--case", "slot=2"], "expected something like slots=8"),
        (["--case", "slots"], "expected something like slots=8"),
        (["--case", "slots=1,slots=2"], "expected something like slots=8"),
        (["--case", "slots=x"], "'x' is not a positive whole number"),
        (["--batching", "none", "--slots", "2"], "serves one job at a time"),
        (["--batching", "statik"], "did you mean 'static'"),
        (["--jobs", "0"], "at least 2"),
        (["--seeds", "0"], "at least 1"),
        (["--workers", "0"], "at least 1"),
        (["--base-seconds", "-1"], "at least 0"),
        (["--base-seconds", "0", "--seconds-per-token", "0"], "take no time"),
        (["--out", "/dev/null/out"], "--out /dev/null/out cannot be made in /dev/null"),
        (["--loads", "1e-300"], "'1e-300' is not a positive number"),
        (["--max-wait-s", "nan"], "max-wait-s"),
        (["--workload", "nowhere.csv"], "either --workload FILE or --lengths"),
        (["--cost-model", "nowhere.json"], "cannot be read"),
    ],
)
def test_bad_input_is_one_clear_error_and_nothing_is_written(
    tmp_path: Path, arguments: list[str], message: str
) -> None:
    result = invoke(*SMALL, "--out", tmp_path / "out", *arguments)
    assert isinstance(result.exception, UserError)
    assert message in str(result.exception)
    assert "\n" not in str(result.exception)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--predictors", "column:pred_class5"], "no column pred_class5"),
        (["--predictors", "column:pred_class"], "not a positive whole number"),
        (["--predictors", "nobody"], "reads prompts"),
        (["--arrivals", "trace:{workload}"], "has 90 arrivals, but 120 are needed"),
        (["--cost-model", "{cost}", "--slots", "90"], "--jobs must be a finite number of at least 91, not 90"),
        (["--cost-model", "{cost}", "--batching", "static"], "leave --batching out"),
        (["--out", "{workload}"], "is a file"),
    ],
)
def test_what_does_not_go_with_the_file_is_refused(
    workload: Path, tmp_path: Path, arguments: list[str], message: str
) -> None:
    cost = tmp_path / "cost.json"
    cost.write_text(json.dumps(COST))
    words = [argument.format(workload=workload, cost=cost) for argument in arguments]
    result = invoke("--workload", workload, *SMALL[2:], "--out", tmp_path / "out", *words)
    assert isinstance(result.exception, UserError)
    assert message in str(result.exception)
    assert not (tmp_path / "out").exists()


def test_a_request_that_the_cache_cannot_hold_is_named_by_its_row_before_anything_is_written(tmp_path: Path) -> None:
    cost, path = tmp_path / "cost.json", tmp_path / "w.csv"
    cost.write_text(json.dumps(COST))
    path.write_text("input_tokens,output_tokens\n" + "1,5\n" * 90 + "3000,5\n" + "1,5\n" * 90)
    words = ["--predictors", "random", "--cost-model", cost, "--kv-tokens", "2000", "--out", tmp_path / "out"]
    result = invoke("--workload", path, *SMALL[2:], *words)
    assert isinstance(result.exception, UserError)
    assert "row 90 has 3000 prompt and 5 output tokens" in str(result.exception)
    assert not (tmp_path / "out").exists()


def test_it_says_how_many_rows_each_predictor_was_trained_on(tmp_path: Path) -> None:
    folder, path = tmp_path / "a predictor with a long name", tmp_path / "w.jsonl"
    save_predictor(NgramPredictor(), folder, openings=["prompt 1", "prompt 3"])
    path.write_text("\n".join(json.dumps({"prompt": f"prompt {i}", "output_tokens": 50 + i}) for i in range(5)))
    words = ["--policies", "fcfs,ssjf", "--predictors", f"{folder},ngram", "--seeds", "1", "--loads", "0.9"]
    result = invoke("--workload", path, *SMALL[2:], *words, "--out", tmp_path / "out")
    assert result.exit_code == 0, result.output
    assert f"warning: {folder} was trained on 2 of these 5 rows" in result.output
    assert result.output.count("warning: ") == 1
    assert "…" not in result.output
    assert [row["predictor_trained_on"] for row in rows_of(tmp_path / "out")] == [None, 2, None]


def test_a_run_that_fails_at_once_leaves_no_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Laboratory, "run", Mock(side_effect=SSJFError("oh")))
    assert isinstance(invoke(*SMALL, "--policies", "ssjf", "--out", tmp_path / "out").exception, SSJFError)
    assert not (tmp_path / "out").exists()


def test_a_bound_on_waiting_holds_for_every_policy_that_is_named(tmp_path: Path) -> None:
    words = [*SMALL, "--policies", "fcfs,sjf", "--max-wait-s", "0", "--out", tmp_path]
    assert invoke(*words).exit_code == 0
    assert {row["gain"] for row in rows_of(tmp_path)} == {0}


def test_predictions_are_drawn_where_a_log_has_them_for_some_rows_only(tmp_path: Path) -> None:
    path = tmp_path / "w.csv"
    path.write_text("output_tokens,predicted_tokens\n5,\n6,7\n")
    result = invoke("--workload", path, *SMALL[2:], "--out", tmp_path / "out")
    assert result.exit_code == 0, result.output
    assert "1 of 2 rows have no predicted_tokens: predictions are drawn (lognormal:0.8)" in result.output


def test_rows_without_a_prediction_or_a_length_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "w.csv"
    path.write_text("output_tokens,predicted_tokens\n5,\n6,7\n")
    result = invoke("--workload", path, *SMALL[2:], "--predictors", "column", "--out", tmp_path / "out")
    assert "row 0 has no predicted_tokens, but others have" in str(result.exception)
    path.write_text("output_tokens,prompt\n5,a\n,b\n")
    result = invoke("--workload", path, *SMALL[2:], "--out", tmp_path / "out")
    assert "row 1 has no output length" in str(result.exception)
    assert list(tmp_path.iterdir()) == [path]
