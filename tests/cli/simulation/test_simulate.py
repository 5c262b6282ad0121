"""`ssjf simulate` as a user sees it: results, and one clear error for each mistake."""

import csv
import gzip
import json
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import pytest
import typer
from typer.testing import CliRunner, Result

from ssjf.cli.simulation.simulate import simulate
from ssjf.core.policies import SSJF
from ssjf.core.types import Prediction, Request
from ssjf.errors import SSJFError, UserError
from ssjf.predict.artefact import save_predictor
from ssjf.predict.ngram.predictor import NgramPredictor
from tests.cli.request_log import write_log

HEADER = "arrival_s,input_tokens,output_tokens,predicted_tokens\n"
# FCFS: 0-2.1, 2.1-2.6, 2.6-6.7; shortest predicted first the third arrival goes before the second
ROWS = "0,10,100,90\n1,20,200,300\n0.5,5,20,25\n"


def invoke(*arguments: str) -> Result:
    app = typer.Typer()
    app.command()(simulate)
    return CliRunner().invoke(app, [*arguments])


@pytest.fixture
def workload(tmp_path: Path) -> Path:
    path = tmp_path / "w.csv"
    path.write_text(HEADER + ROWS)
    return path


def rows_of(out: Path) -> list[dict[str, Any]]:
    with (out / "jobs.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def test_the_oracle_that_shares_are_of_has_no_wait_bound(tmp_path: Path) -> None:
    path = tmp_path / "w.csv"
    lines = [f"{0.1 * i},1,{5 + 97 * i % 400},{5 + 31 * i % 400}" for i in range(300)]
    path.write_text(HEADER + "\n".join(lines))
    gains = {}
    for name, options in (("bounded", ["--max-wait-s", "20"]), ("free", [])):
        out = tmp_path / name
        result = invoke("--workload", str(path), "--policy", "fcfs,ssjf,sjf", *options, "--out", str(out))
        assert result.exit_code == 0, result.output
        gains[name] = {row["policy"]: row for row in json.loads((out / "summary.json").read_text())}
    bounded, free = gains["bounded"], gains["free"]
    share = bounded["ssjf"]["gain"] / free["sjf"]["gain"]
    assert bounded["ssjf"]["oracle_share"] == pytest.approx(share)
    assert bounded["sjf"]["oracle_share"] < 1


def cost_model(folder: Path) -> str:
    path = folder / "cost.json"
    names = ("base_s", "per_prefill_token_s", "per_decode_token_s", "per_kv_token_s", "per_request_s")
    path.write_text(json.dumps(dict(zip(names, (0.01, 1e-4, 1e-3, 0.0, 0.0), strict=True))))
    return str(path)


def test_an_engines_cache_is_ample_for_every_seed(tmp_path: Path) -> None:
    options = ["--lengths", "lognormal:180:1.5", "--jobs", "10", "--arrivals", "poisson:1", "--seeds", "4"]
    words = ["--policy", "fcfs", "--cost-model", cost_model(tmp_path), "--out", str(tmp_path / "out")]
    result = invoke(*options, *words)
    assert result.exit_code == 0, result.output
    longest: dict[str, int] = {}
    for row in rows_of(tmp_path / "out"):
        longest[row["seed"]] = max(longest.get(row["seed"], 0), int(row["output_tokens"]))
    assert max(longest.values()) > longest["0"] + 32


def test_where_nothing_is_drawn_seeds_are_one_run_without_an_interval(tmp_path: Path) -> None:
    path = tmp_path / "w.csv"
    path.write_text(HEADER + "".join(f"0,1,{tokens},{tokens}\n" for tokens in (300, 5, 90, 10, 200, 30)))
    words = ["--workload", str(path), "--policy", "fcfs,ssjf,sjf", "--seeds", "4", "--out", str(tmp_path / "out")]
    result = invoke(*words)
    assert result.exit_code == 0, result.output
    assert "nothing here is drawn" in result.output
    assert "±" not in result.output
    assert [row["seed"] for row in json.loads((tmp_path / "out/summary.json").read_text())] == [0, 0, 0]
    # noise on predictions is drawn, but neither FCFS nor the oracle hears of it
    noisy = invoke(*words, "--predictor", "lognormal:2")
    lines = {line.split()[1]: line for line in noisy.output.splitlines() if "%" in line and "sjf" in line}
    assert "±" in lines["ssjf"]
    assert "±" not in lines["sjf"]
    assert "nothing here is drawn" in invoke(*words, "--predictor", "lognormal:2", "--policy", "fcfs,sjf").output


def test_a_table_that_goes_to_a_file_keeps_its_columns(workload: Path, tmp_path: Path) -> None:
    policies = "fcfs,aged-ssjf:rate=0.05,ssjf,sjf"
    words = ["--workload", str(workload), "--arrivals", "poisson:1", "--seeds", "3", "--predictor", "lognormal:1"]
    result = invoke(*words, "--policy", policies, "--out", str(tmp_path / "out"))
    assert "…" not in result.output
    for text in ("aged-ssjf:rate=0.05", "mean", "p99", "slow ×", "oracle's"):
        assert text in result.output


def test_gains_under_fairness_are_measured_by_plain_fcfs_and_the_plain_oracle(tmp_path: Path) -> None:
    path = tmp_path / "w.csv"
    tenants = ["flood"] * 40 + ["quiet"] * 10
    rows = [f"{0.01 * i},{50 + 7 * i % 90},{tenant}" for i, tenant in enumerate(tenants)]
    path.write_text("arrival_s,output_tokens,tenant\n" + "\n".join(rows) + "\n")
    found = {}
    for name, options in (("plain", []), ("fair", ["--tenant-weights", "quiet=1"])):
        out = tmp_path / name
        words = ["--workload", str(path), "--policy", "fcfs,ssjf", "--predictor", "oracle", *options]
        assert invoke(*words, "--out", str(out)).exit_code == 0
        found[name] = {row["policy"]: row for row in json.loads((out / "summary.json").read_text())}
    plain, fair = found["plain"], found["fair"]
    assert fair["fcfs"]["mean_jct_s"] != plain["fcfs"]["mean_jct_s"]
    for row in fair.values():
        gain = 1 - row["mean_jct_s"] / plain["fcfs"]["mean_jct_s"]
        assert row["gain"] == pytest.approx(gain)
        assert row["oracle_share"] == pytest.approx(gain / plain["ssjf"]["gain"])


def test_each_seed_has_lengths_of_its_own_where_they_are_generated(tmp_path: Path) -> None:
    options = ["--lengths", "paper", "--jobs", "50", "--arrivals", "poisson:.2", "--seeds", "3"]
    result = invoke(*options, "--policy", "fcfs", "--out", str(tmp_path / "out"))
    assert result.exit_code == 0, result.output
    lengths: dict[str, list[str]] = {}
    for row in rows_of(tmp_path / "out"):
        lengths.setdefault(row["seed"], []).append(row["output_tokens"])
    assert len({tuple(found) for found in lengths.values()}) == 3


def test_earliest_deadlines_need_no_predictions(tmp_path: Path) -> None:
    path = tmp_path / "w.csv"
    path.write_text("arrival_s,input_tokens,output_tokens,deadline_s\n0,1,50,9\n0.1,1,50,9\n0.2,1,50,1\n")
    result = invoke("--workload", str(path), "--policy", "edf", "--out", str(tmp_path / "out"))
    assert result.exit_code == 0, result.output
    starts = {row["index"]: float(row["start_s"]) for row in rows_of(tmp_path / "out")}
    assert starts["2"] < starts["1"]


@pytest.mark.parametrize(
    "policy",
    ["boost:gamma=0", "auto:full_trust=0.5", "auto:common=2", "auto:decay=0", "auto:_shadow=1", "auto-static:reach=-1"],
)
def test_a_constant_without_meaning_is_one_clear_error(workload: Path, tmp_path: Path, policy: str) -> None:
    result = invoke("--workload", str(workload), "--policy", policy, "--out", str(tmp_path / "out"))
    assert isinstance(result.exception, UserError)
    assert "_boost" not in str(result.exception)


def test_rows_need_not_be_sorted_and_times_are_exact(workload: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    result = invoke("--workload", str(workload), "--policy", "fcfs,ssjf", "--out", str(out))
    assert result.exit_code == 0, result.output
    fcfs = [row for row in rows_of(out) if row["policy"] == "fcfs"]
    assert [row["index"] for row in fcfs] == ["0", "1", "2"]
    assert [float(row["start_s"]) for row in fcfs] == [0.0, 0.0 + 2.1 + 0.5, 0.0 + 2.1]
    assert float(fcfs[1]["finish_s"]) == (0.0 + 2.1 + 0.5) + (0.1 + 0.02 * 200)
    assert {row["first_token_s"] for row in fcfs} == {""}
    assert {row["status"] for row in fcfs} == {"completed"}
    assert (out / "completion_times.png").stat().st_size > 5_000


def test_the_summary_has_the_agreed_fields_and_null_where_nothing_applies(workload: Path, tmp_path: Path) -> None:
    invoke("--workload", str(workload), "--policy", "fcfs,ssjf,sjf", "--out", str(tmp_path / "out"))
    rows = json.loads((tmp_path / "out/summary.json").read_text())
    assert [row["policy"] for row in rows] == ["fcfs", "ssjf", "sjf"]
    fields = {
        *("policy", "n", "failed", "mean_jct_s", "p50_jct_s", "p90_jct_s", "p99_jct_s", "max_jct_s", "mean_wait_s"),
        *("mean_slowdown", "mean_ttft_s", "p99_ttft_s", "mean_tpot_s", "output_tokens_per_s", "gain", "oracle_share"),
        *("short", "long"),
    }
    assert fields <= set(rows[0])
    assert rows[0]["mean_ttft_s"] is None
    assert rows[0]["gain"] == 0.0


def test_several_seeds_give_intervals(tmp_path: Path) -> None:
    result = invoke(
        *("--lengths", "paper", "--jobs", "300", "--arrivals", "poisson:0.25", "--predictor", "lognormal:0.5"),
        *("--policy", "fcfs,ssjf", "--seeds", "3", "--out", str(tmp_path)),
    )
    assert result.exit_code == 0, result.output
    assert "mean over 3 seeds" in result.output
    assert "±" in result.output
    rows = json.loads((tmp_path / "summary.json").read_text())
    assert [(row["seed"], row["policy"]) for row in rows] == [(s, p) for s in range(3) for p in ("fcfs", "ssjf")]
    assert rows[0]["mean_jct_s"] != rows[2]["mean_jct_s"]


def test_the_predictors_latency_is_part_of_the_completion_time(workload: Path, tmp_path: Path) -> None:
    options = ["--workload", str(workload), "--policy", "fcfs,ssjf", "--predictor-seconds", "0.25"]
    invoke(*options, "--out", str(tmp_path / "out"))
    first = {row["policy"]: row for row in rows_of(tmp_path / "out") if row["index"] == "0"}
    assert float(first["fcfs"]["start_s"]) == 0.0
    assert float(first["ssjf"]["start_s"]) == 0.25
    assert float(first["ssjf"]["arrival_s"]) == 0.0


def test_arrivals_are_written_as_they_were_given(tmp_path: Path) -> None:
    path = tmp_path / "w.csv"
    path.write_text(HEADER + "0,1,9,9\n0.1,1,9,9\n0.7,1,9,9\n")
    options = ["--workload", str(path), "--policy", "fcfs,ssjf", "--predictor-seconds", "0.3"]
    assert invoke(*options, "--out", str(tmp_path / "out")).exit_code == 0
    assert {row["arrival_s"] for row in rows_of(tmp_path / "out")} == {"0.0", "0.1", "0.7"}


def test_a_policy_that_fails_is_one_line(workload: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(SSJF, "key", Mock(side_effect=ZeroDivisionError("oh")))
    result = invoke("--workload", str(workload), "--policy", "ssjf", "--out", str(tmp_path / "out"))
    assert isinstance(result.exception, SSJFError)
    assert "policy 'ssjf' failed: ZeroDivisionError('oh')" in str(result.exception)
    assert not (tmp_path / "out").exists()


def test_nobody_overtakes_who_has_waited_long_enough(workload: Path, tmp_path: Path) -> None:
    invoke("--workload", str(workload), "--policy", "ssjf", "--max-wait-s", "0", "--out", str(tmp_path / "a"))
    invoke("--workload", str(workload), "--policy", "fcfs", "--out", str(tmp_path / "b"))
    starts = [[row["start_s"] for row in rows_of(tmp_path / folder)] for folder in ("a", "b")]
    assert starts[0] == starts[1]


def test_deadlines_of_the_file_reach_the_policy(tmp_path: Path) -> None:
    path = tmp_path / "w.csv"
    path.write_text("arrival_s,output_tokens,deadline_s\n0,100,50\n0.1,100,\n0.2,100,9\n")
    out = tmp_path / "out"
    result = invoke("--workload", str(path), "--policy", "edf", "--predictor", "oracle", "--out", str(out))
    assert result.exit_code == 0, result.output
    assert sorted((float(row["start_s"]), row["index"]) for row in rows_of(out))[1][1] == "2"


def test_an_engine_with_measured_costs_is_simulated_by_iterations(workload: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    options = ["--workload", str(workload), "--cost-model", cost_model(tmp_path), "--slots", "2", "--policy", "fcfs"]
    result = invoke(*options, "--out", str(out))
    assert result.exit_code == 0, result.output
    first = rows_of(out)[0]
    assert float(first["first_token_s"]) == pytest.approx(0.01 + 10 * 1e-4)
    tight = invoke(*options, "--kv-tokens", "160", "--out", str(out))
    assert isinstance(tight.exception, UserError)
    assert "row 1 has 20 prompt and 200 output tokens: they need 14 KV blocks of 16, and" in str(tight.exception)


@pytest.mark.parametrize(
    "noise", ["oracle", "lognormal:0.8", "classes:5:0.6", "reversed", "random", "constant", "stale:1"]
)
def test_every_noise_model_stands_in_for_a_predictor(workload: Path, tmp_path: Path, noise: str) -> None:
    options = ["--workload", str(workload), "--policy", "ssjf,aged-ssjf", "--predictor", noise]
    assert invoke(*options, "--out", str(tmp_path / "out")).exit_code == 0


def test_a_trained_predictor_reads_the_prompts(tmp_path: Path) -> None:
    path = tmp_path / "w.jsonl"
    path.write_text('{"arrival_s": 0, "prompt": "hello", "output_tokens": 9}\n')
    result = invoke("--workload", str(path), "--policy", "ssjf", "--predictor", "ngram", "--out", str(tmp_path / "out"))
    assert result.exit_code == 0, result.output
    assert float(rows_of(tmp_path / "out")[0]["predicted_tokens"]) > 1


class Recorder:
    """A predictor that keeps what it is asked."""

    def __init__(self) -> None:
        self.asked: list[Request] = []

    def predict(self, requests: Sequence[Request]) -> list[Prediction]:
        self.asked += requests
        return [Prediction(9.0)] * len(requests)

    def observe(self, request: Request, num_output_tokens: int) -> None:
        raise AssertionError("the truth is nobody's business")


def test_a_predictor_is_told_what_a_gateway_would_tell_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    recorder = Recorder()
    monkeypatch.setattr("ssjf.predict.artefact.load_predictor", lambda _: recorder)
    path = tmp_path / "w.jsonl"
    rows = [
        {"arrival_s": 0, "prompt": "hello", "input_tokens": 3, "output_tokens": 9, "max_tokens": 50, "model": "m"},
        {"arrival_s": 1, "prompt": [{"role": "user", "content": "you"}], "output_tokens": 8},
    ]
    path.write_text("\n".join(map(json.dumps, rows)))
    result = invoke("--workload", str(path), "--policy", "ssjf", "--predictor", "mine", "--out", str(tmp_path / "out"))
    assert result.exit_code == 0, result.output
    capped, plain = recorder.asked
    assert (capped.prompt, capped.num_prompt_tokens, capped.model) == ("hello", 3, "m")
    assert (capped.max_tokens, dict(capped.options)) == (50, {"max_tokens": 50.0})
    assert (plain.prompt, plain.max_tokens, plain.options) == ("you", 0, ())
    assert capped.request_id != plain.request_id


def test_hashes_that_a_log_kept_are_all_that_ngram_needs(tmp_path: Path) -> None:
    log = write_log(tmp_path / "log.sqlite", [(f"question {i}", 5, 20 + i) for i in range(9)])
    words = ["--workload", str(log), "--policy", "ssjf", "--out", str(tmp_path / "out"), "--predictor"]
    result = invoke(*words, "ngram")
    assert result.exit_code == 0, result.output
    assert float(rows_of(tmp_path / "out")[0]["predicted_tokens"]) > 1
    assert "row 0 has none, only its hashed n-grams" in str(invoke(*words, "default").exception)


@pytest.fixture
def trained(tmp_path: Path) -> str:
    save_predictor(NgramPredictor(), tmp_path / "trained", openings=["prompt 1", "prompt 3", "prompt 77"])
    return str(tmp_path / "trained")


def prompts(folder: Path) -> str:
    path = folder / "prompts.jsonl"
    rows = [{"arrival_s": i, "prompt": f"prompt {i}", "output_tokens": 50 + i} for i in range(5)]
    path.write_text("\n".join(map(json.dumps, rows)))
    return str(path)


def test_it_says_how_many_rows_the_predictor_was_trained_on(tmp_path: Path, trained: str) -> None:
    words = ["--workload", prompts(tmp_path), "--out", str(tmp_path / "out")]
    result = invoke(*words, "--policy", "fcfs,ssjf", "--predictor", trained)
    assert result.exit_code == 0, result.output
    assert "trained on 2 of these 5 rows" in " ".join(result.output.split())
    summary = json.loads((tmp_path / "out/summary.json").read_text())
    assert [row["predictor_trained_on"] for row in summary] == [None, 2]
    for others in (["--policy", "fcfs", "--predictor", trained], ["--policy", "ssjf", "--predictor", "ngram"]):
        assert "warning" not in invoke(*words, *others).output


def test_compressed_files_are_read(tmp_path: Path) -> None:
    path = tmp_path / "w.csv.gz"
    path.write_bytes(gzip.compress((HEADER + ROWS).encode()))
    assert invoke("--workload", str(path), "--policy", "ssjf", "--out", str(tmp_path / "out")).exit_code == 0


def test_service_is_shared_out_over_tenants(tmp_path: Path) -> None:
    path = tmp_path / "w.csv"
    rows = [f"0,50,{tenant}" for tenant in ["flood"] * 40 + ["quiet"] * 10]
    path.write_text("arrival_s,output_tokens,tenant\n" + "\n".join(rows) + "\n")
    ends = {}
    for weights in ("", "quiet=1"):
        options = ["--tenant-weights", weights] if weights else []
        result = invoke("--workload", str(path), "--policy", "fcfs", *options, "--out", str(tmp_path / "out"))
        assert result.exit_code == 0, result.output
        ends[weights] = max(float(row["finish_s"]) for row in rows_of(tmp_path / "out")[40:])
    assert ends[""] == pytest.approx(50 * 1.1)
    assert ends["quiet=1"] == pytest.approx(20 * 1.1)


@pytest.mark.parametrize(
    ("text", "options", "message"),
    [
        (
            "arrival_s,output_tokens\n0,5\n1,5\n,5\n,5\n",
            ["--policy", "fcfs"],
            "row 2 has no arrival time, but others have",
        ),
        (HEADER + "0,1,5,5\n1,1,5,\n", ["--policy", "ssjf"], "row 1 has no predicted_tokens, but others have"),
        (
            '{"arrival_s": 0, "output_tokens": 5, "prompt": "a"}\n{"arrival_s": 1, "output_tokens": 5}\n',
            ["--predictor", "ngram"],
            "predictor 'ngram' reads prompts, and row 1 has none",
        ),
    ],
)
def test_the_first_row_is_named_where_only_some_lack_what_is_needed(
    tmp_path: Path, text: str, options: list[str], message: str
) -> None:
    path = tmp_path / ("w.jsonl" if text.startswith("{") else "w.csv")
    path.write_text(text)
    result = invoke("--workload", str(path), *options, "--out", str(tmp_path / "out"))
    assert isinstance(result.exception, UserError), result.output
    assert str(result.exception).startswith(message)


BAD_FILES = {
    "no output column": ("arrival_s,input_tokens\n0,1\n", "row 0 has no output length"),
    "no arrival column": ("output_tokens,predicted_tokens\n5,5\n", "no arrival times"),
    "empty": ("", "w.csv"),
    "header only": (HEADER, "no rows"),
    "negative time": (HEADER + "-1,1,5,5\n", "row 0 (line 2)"),
    "NaN time": (HEADER + "nan,1,5,5\n", "row 0 (line 2)"),
    "infinite time": (HEADER + "0,1,5,5\ninf,1,5,5\n", "row 1 (line 3)"),
    "fractional output": (HEADER + "0,1,5,5\n1,1,5.5,5\n", "row 1 (line 3)"),
    "negative output": (HEADER + "0,1,-5,5\n", "row 0 (line 2)"),
    "a word for a number": (HEADER + "0,1,five,5\n", "row 0 (line 2)"),
    "too few cells": (HEADER + "0,1\n", "row 0 (line 2)"),
    "no text": ("\x00\xff\xfe", "w.csv"),
}


@pytest.mark.parametrize("kind", BAD_FILES)
def test_a_bad_file_is_one_clear_error_and_nothing_is_written(tmp_path: Path, kind: str) -> None:
    content, message = BAD_FILES[kind]
    path = tmp_path / "w.csv"
    path.write_bytes(content.encode("latin-1"))
    result = invoke("--workload", str(path), "--policy", "ssjf", "--out", str(tmp_path / "out"))
    assert isinstance(result.exception, UserError), result.output
    assert message in str(result.exception)
    assert "\n" not in str(result.exception)
    assert not (tmp_path / "out").exists()


BAD_OPTIONS = {
    "zero slots": (["--slots", "0"], "--slots"),
    "no such policy": (["--policy", "fcfs,sjsf"], "did you mean 'sjf'"),
    "no such constant": (["--policy", "aged-ssjf:speed=1"], "no constant 'speed'"),
    "no policy": (["--policy", ","], "names no policy"),
    "no batching of that name": (["--batching", "dynamical"], "did you mean 'dynamic'"),
    "no batching with slots": (["--batching", "none", "--slots", "2"], "one job at a time"),
    "preemption in a batch": (["--policy", "srpt", "--batching", "static", "--slots", "2"], "preempts"),
    "batches of an engine": (["--cost-model", "c.json", "--batching", "static"], "continuous batching"),
    "negative seconds": (["--seconds-per-token", "-1"], "--seconds-per-token"),
    "NaN seconds": (["--base-seconds", "nan"], "--base-seconds"),
    "negative wait": (["--max-wait-s", "-1"], "--max-wait-s"),
    "weights of nothing": (["--tenant-weights", "gold=0"], "positive weights"),
    "fair preemption": (["--tenant-weights", "gold=2", "--policy", "srpt"], "would undo fairness"),
    "no seeds": (["--seeds", "0"], "--seeds"),
    "arrivals of no kind": (["--arrivals", "poison:1"], "expected poisson"),
    "noise of no size": (["--predictor", "lognormal:x"], "expected one of"),
    "a predictor without prompts": (["--predictor", "ngram"], "reads prompts"),
    "a number of rows": (["--jobs", "2"], "--limit takes the first rows"),
    "prompts of other lengths": (["--input-lengths", "paper"], "--input-lengths goes with --lengths"),
    "lengths as well": (["--lengths", "paper"], "either --workload FILE or --lengths"),
    "no cost model": (["--cost-model", "nowhere.json"], "cannot be read"),
}


@pytest.mark.parametrize("kind", BAD_OPTIONS)
def test_a_bad_option_is_one_clear_error_and_nothing_is_written(workload: Path, tmp_path: Path, kind: str) -> None:
    options, message = BAD_OPTIONS[kind]
    result = invoke("--workload", str(workload), *options, "--out", str(tmp_path / "out"))
    assert isinstance(result.exception, SSJFError), result.output
    assert message in str(result.exception)
    assert "\n" not in str(result.exception)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("option", [("--target-model", "m"), ("--limit", "5")])
def test_options_about_a_file_need_one(tmp_path: Path, option: tuple[str, str]) -> None:
    result = invoke("--lengths", "paper", "--policy", "fcfs", *option, "--out", str(tmp_path / "out"))
    assert isinstance(result.exception, UserError)
    assert f"{option[0]} goes with --workload" in str(result.exception)


def test_one_bad_row_of_very_many_is_named(tmp_path: Path) -> None:
    path = tmp_path / "w.csv"
    path.write_text(HEADER + "0,1,5,5\n" * 200_000 + "0,1,oops,5\n" + "0,1,5,5\n" * 1000)
    result = invoke("--workload", str(path), "--out", str(tmp_path / "out"))
    assert isinstance(result.exception, UserError)
    assert "row 200000 (line 200002)" in str(result.exception)


def test_the_command_says_it_in_one_line_and_exits_with_2(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "ssjf", "simulate", "--workload", "nowhere.csv", "--out", str(tmp_path / "out")]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert done.stdout == ""
    assert done.stderr.startswith("ssjf: nowhere.csv cannot be read")
    assert done.stderr.count("\n") == 1


def test_results_that_are_there_survive_a_run_that_fails(workload: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    invoke("--workload", str(workload), "--policy", "fcfs", "--out", str(out))
    before = {path.name: path.read_bytes() for path in out.iterdir()}
    workload.write_text(HEADER + "0,1,x,5\n")
    invoke("--workload", str(workload), "--policy", "fcfs", "--out", str(out))
    assert {path.name: path.read_bytes() for path in out.iterdir()} == before


OF_ITERATIONS = ("--kv-tokens", "--max-num-batched-tokens", "--prefix-hit-fraction", "--prefix-lifetime-s")
LINEAR = ("--base-seconds", "--seconds-per-token", "--seconds-per-input-token", "--batch-wait-s")


@pytest.mark.parametrize("value", ["0", "1"])
@pytest.mark.parametrize(
    ("option", "others", "message"),
    [
        *((option, [], "is for simulations with --cost-model") for option in OF_ITERATIONS),
        *((option, ["--cost-model", "c.json"], "is for simulations without --cost-model") for option in LINEAR),
        *(("--batch-wait-s", ["--batching", kind], "is for --batching dynamic") for kind in ("static", "continuous")),
    ],
)
def test_an_option_that_nothing_heeds_is_refused(
    workload: Path, tmp_path: Path, option: str, others: list[str], message: str, value: str
) -> None:
    words = ["--workload", str(workload), "--policy", "fcfs", option, value, *others]
    result = invoke(*words, "--out", str(tmp_path / "out"))
    assert isinstance(result.exception, UserError), result.output
    assert str(result.exception).startswith(f"{option} {message}")


@pytest.mark.parametrize("arrivals", ["poisson:1e-308", "gamma:1:1e200", "gamma:1:1e-200", "poisson:nan"])
def test_arrivals_that_cannot_be_reckoned_with_are_refused(workload: Path, tmp_path: Path, arrivals: str) -> None:
    result = invoke("--workload", str(workload), "--arrivals", arrivals, "--out", str(tmp_path / "out"))
    assert isinstance(result.exception, UserError)
    assert "is not a positive number from" in str(result.exception)


def test_where_results_cannot_go_is_found_out_before_the_run(workload: Path) -> None:
    for out in (workload, workload / "below"):
        result = invoke("--workload", str(workload), "--policy", "fcfs", "--out", str(out))
        assert isinstance(result.exception, UserError)
        assert "name a folder" in str(result.exception)
