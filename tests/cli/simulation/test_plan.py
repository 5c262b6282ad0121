"""`ssjf plan` as a user sees it."""

import json
from pathlib import Path

import pytest
import typer
from typer.testing import CliRunner, Result

from ssjf.cli.simulation.plan import plan
from ssjf.errors import SSJFError
from ssjf.predict.artefact import save_predictor
from ssjf.predict.ngram.predictor import NgramPredictor

SMALL = ["--lengths", "paper", "--jobs", "400", "--seeds", "2", "--slots", "2"]


def invoke(*arguments: str) -> Result:
    app = typer.Typer()
    app.command()(plan)
    return CliRunner().invoke(app, [*arguments])


def test_it_answers_with_a_rate_for_each_policy(tmp_path: Path) -> None:
    result = invoke(*SMALL, "--limit", "mean-jct=12", "--policy", "fcfs,ssjf,sjf", "--out", str(tmp_path))
    assert result.exit_code == 0, result.output
    answer = json.loads((tmp_path / "plan.json").read_text())
    fcfs, ssjf, sjf = answer["rows"]
    assert answer["limits"] == ["mean JCT ≤ 12 s"]
    assert 0 < fcfs["lowest"] <= fcfs["requests_per_s"] <= fcfs["highest"] < answer["capacity"]
    assert fcfs["requests_per_s"] < ssjf["requests_per_s"] <= sjf["requests_per_s"] + 1e-9
    assert (tmp_path / "plan.png").stat().st_size > 10_000


def test_it_answers_with_replicas_for_a_rate(tmp_path: Path) -> None:
    result = invoke(*SMALL, "--limit", "p90-jct=25", "--rate", "1.2", "--policy", "fcfs,auto", "--out", str(tmp_path))
    assert result.exit_code == 0, result.output
    answer = json.loads((tmp_path / "plan.json").read_text())
    for row in answer["rows"]:
        assert row["replicas"] >= 1.2 / answer["capacity"]
        assert row["load"] == pytest.approx(1.2 / row["replicas"] / answer["capacity"])


def test_a_limit_below_the_service_time_holds_at_no_rate_and_with_no_number_of_replicas(tmp_path: Path) -> None:
    limit = ["--limit", "p99-jct=1", "--policy", "fcfs", "--out", str(tmp_path)]
    assert "holds at no rate" in invoke(*SMALL, *limit).output
    assert "no number will do" in invoke(*SMALL, *limit, "--rate", "0.5").output


@pytest.fixture
def cost(tmp_path: Path) -> str:
    path = tmp_path / "cost.json"
    names = ("base_s", "per_prefill_token_s", "per_decode_token_s", "per_kv_token_s", "per_request_s")
    path.write_text(json.dumps(dict(zip(names, (0.01, 1e-4, 1e-3, 0.0, 0.0), strict=True))))
    return str(path)


@pytest.mark.parametrize("asked", [[], ["--rate", "0.5"]])
def test_an_engines_cache_is_ample_for_every_draw(tmp_path: Path, cost: str, asked: list[str]) -> None:
    # the longest answer of seed 3 is longer than those of the others
    lengths = ["--lengths", "lognormal:100:1.2", "--jobs", "200", "--seeds", "4", "--slots", "1"]
    limit = ["--limit", "p90-jct=20", "--policy", "fcfs", *asked]
    result = invoke(*lengths, *limit, "--cost-model", cost, "--out", str(tmp_path / "out"))
    assert result.exit_code == 0, result.output


def test_it_says_how_many_rows_the_predictor_was_trained_on(tmp_path: Path) -> None:
    path = tmp_path / "w.jsonl"
    save_predictor(NgramPredictor(), tmp_path / "p", openings=["prompt 1", "prompt 3"])
    path.write_text("\n".join(json.dumps({"prompt": f"prompt {i}", "output_tokens": 50 + i}) for i in range(5)))
    words = ["--workload", str(path), "--predictor", str(tmp_path / "p"), "--jobs", "100", "--seeds", "1"]
    result = invoke(*words, "--limit", "p90-jct=20", "--policy", "ssjf", "--out", str(tmp_path / "out"))
    assert result.exit_code == 0, result.output
    assert "was trained on 2 of these 5 rows" in " ".join(result.output.split())
    assert json.loads((tmp_path / "out/plan.json").read_text())["predictor_trained_on"] == 2


def test_first_tokens_are_promised_with_an_engines_cost_model(tmp_path: Path, cost: str) -> None:
    options = ["--limit", "p90-ttft=2", "--cost-model", cost, "--policy", "fcfs", "--out", str(tmp_path / "out")]
    result = invoke(*SMALL, *options)
    assert result.exit_code == 0, result.output
    (row,) = json.loads((tmp_path / "out/plan.json").read_text())["rows"]
    assert row["bound"] == "limit"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--limit", "p99=3"], "expected STATISTIC-TIME=SECONDS"),
        (["--limit", "p99-ttft=3"], "--cost-model"),
        (["--limit", "p99-jct=30", "--rate", "0"], "--rate"),
        (["--limit", "p99-jct=30", "--policy", "fcsf"], "did you mean 'fcfs'"),
        (["--limit", "p99-jct=30", "--arrivals", "poisson:2"], "the rate follows from the load"),
        (["--limit", "p99-jct=30", "--jobs", "5"], "--jobs"),
        (["--limit", "p99-jct=30", "--slots", "0"], "--slots"),
        (["--limit", "p99-jct=30", "--rate", "1e9"], "too many to simulate"),
        (["--limit", "p99-jct=30", "--base-seconds", "0", "--seconds-per-token", "0"], "take no time"),
        (["--limit", "p99-jct=30", "--workload", "x.csv"], "either --workload FILE or --lengths"),
    ],
)
def test_bad_input_is_one_clear_error_and_nothing_is_written(
    tmp_path: Path, arguments: list[str], message: str
) -> None:
    result = invoke(*SMALL, *arguments, "--out", str(tmp_path / "out"))
    assert isinstance(result.exception, SSJFError), result.output
    assert message in str(result.exception)
    assert not (tmp_path / "out").exists()
