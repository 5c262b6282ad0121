"""`ssjf evaluate`, `predict` and `characterize` as a user sees them."""

import json
from pathlib import Path

import pytest
import typer
from typer.testing import CliRunner, Result

from ssjf.cli.prediction.characterize import characterize
from ssjf.cli.prediction.evaluate import evaluate
from ssjf.cli.prediction.predict import predict
from ssjf.cli.prediction.train import train
from ssjf.errors import SSJFError
from ssjf.predict.artefact import read_seen
from ssjf.predict.ngram.features import digest
from tests.cli.request_log import write_log

TOPICS = ("rivers", "kings", "bridges", "clouds", "trains")


def invoke(command: object, *arguments: str, text: str | None = None) -> Result:
    app = typer.Typer()
    app.command()(command)  # type: ignore[arg-type]
    return CliRunner().invoke(app, [*arguments], input=text)


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Short answers to questions, long ones to essays; two models, the second twice as talkative."""
    path = tmp_path_factory.mktemp("data") / "set.jsonl"
    rows = []
    for index in range(120):
        topic = TOPICS[index % len(TOPICS)]
        long = index % 2 == 0
        prompt = f"write an essay about {topic} number {index}" if long else f"name one of the {topic} of place {index}"
        length = 300 + index if long else 5 + index % 7
        rows.append(json.dumps({"prompt": prompt, "out_tokens": {"m": length, "talker": 2 * length}}))
    path.write_text("\n".join(rows))
    return path


@pytest.fixture(scope="module")
def trained(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("artefact") / "p"
    result = invoke(train, str(data), "--target-model", "m", "--out", str(folder))
    assert result.exit_code == 0, result.output
    return folder


def test_predictors_stand_beside_baselines_on_prompts_they_have_not_seen(
    data: Path, trained: Path, tmp_path: Path
) -> None:
    out, picture = tmp_path / "e.json", tmp_path / "e.png"
    options = ["--target-model", "m", "--seeds", "2", "--json", str(out), "--picture", str(picture)]
    result = invoke(evaluate, str(trained), "ngram", str(data), *options)
    assert result.exit_code == 0, result.output
    assert "24 samples of set.jsonl" in result.output
    assert "left out: 96 samples" in result.output
    rows = {row["predictor"]: row for row in json.loads(out.read_text())}
    assert list(rows) == [str(trained), "ngram", "prompt length", "constant"]
    ours = rows[str(trained)]
    assert ours["tau_b"] > 0.4
    assert ours["oracle_share"] > 0.8
    assert 0 < ours["size_mb"] < 10
    assert ours["latency_ms"]["p50"] > 0
    assert rows["constant"]["tau_b"] is None
    assert rows["constant"]["gain"] == 0
    assert picture.stat().st_size > 5_000


def test_what_was_trained_on_does_not_count_in_whatever_file_and_of_whatever_model(
    data: Path, trained: Path, tmp_path: Path
) -> None:
    other = tmp_path / "other.jsonl"
    new = {"prompt": "tell me something new", "out_tokens": {"m": 20, "talker": 40}}
    other.write_text(f"{data.read_text()}\n{json.dumps(new)}\n")
    for model in ("m", "talker"):
        result = invoke(evaluate, str(trained), str(other), "--target-model", model, "--seeds", "1")
        assert "25 samples of other.jsonl" in result.output


def test_two_artefacts_are_compared_on_what_neither_has_seen(data: Path, trained: Path, tmp_path: Path) -> None:
    second = tmp_path / "second"
    invoke(train, str(data), "--target-model", "m", "--seed", "1", "--holdout", "0.5", "--out", str(second))
    result = invoke(evaluate, str(trained), str(second), str(data), "--target-model", "m", "--seeds", "1")
    unseen = int(result.output.split(" samples of")[0].split()[-1])
    assert 2 <= unseen < 24


def test_what_the_shipped_predictor_was_trained_on_is_known() -> None:
    assert len(read_seen("default")) > 6000
    assert read_seen("ngram") == frozenset()


def test_where_everything_was_trained_on_there_is_nothing_to_compare(data: Path, trained: Path, tmp_path: Path) -> None:
    seen = tmp_path / "seen.jsonl"
    rows = [json.loads(line) for line in data.read_text().splitlines()]
    digests = read_seen(str(trained))
    seen.write_text("\n".join(json.dumps(row) for row in rows if digest(row["prompt"]) in digests))
    result = invoke(evaluate, str(trained), str(seen), "--target-model", "m")
    assert "all but 0 of 96 rows were trained on" in str(result.exception)


def test_bytes_that_are_no_text_are_predicted_all_the_same(trained: Path) -> None:
    (row,) = map(json.loads, invoke(predict, str(trained), "caf\udce9", "--json").stdout.splitlines())
    assert row["prompt"] == "caf?"


def test_a_model_may_be_called_like_markup(data: Path, tmp_path: Path) -> None:
    odd = tmp_path / "odd.jsonl"
    odd.write_text(data.read_text().replace('"m"', '"[/INST]"'))
    assert invoke(train, str(odd), "--target-model", "[/INST]", "--out", str(tmp_path / "p")).exit_code == 0
    assert "[/INST]" in invoke(characterize, str(odd), "--target-model", "[/INST]", "--seeds", "1").output


def test_prompts_come_as_arguments_or_as_lines(trained: Path) -> None:
    result = invoke(predict, str(trained), "write an essay about kings", "name one of the kings", "--json")
    essay, name = (json.loads(line) for line in result.stdout.splitlines())
    assert essay["num_output_tokens"] > 3 * name["num_output_tokens"]
    assert list(essay["quantiles"]) == ["0.1", "0.25", "0.5", "0.75", "0.9"]
    piped = invoke(predict, str(trained), "--json", text="write an essay about kings\nname one of the kings\n")
    assert piped.stdout == result.stdout


def test_a_prompt_that_looks_like_markup_is_shown_as_it_is(trained: Path) -> None:
    for prompt in ("[bold]Rome", "\\[/b]", "[/b]"):
        assert prompt in invoke(predict, str(trained), prompt).output


def test_lengths_are_described_for_each_model(data: Path, tmp_path: Path) -> None:
    result = invoke(characterize, str(data), "--target-model", "all", "--seeds", "1", "--out", str(tmp_path))
    assert result.exit_code == 0, result.output
    m, talker = json.loads((tmp_path / "lengths.json").read_text())
    assert (m["model"], talker["model"]) == ("m", "talker")
    assert talker["mean"] == 2 * m["mean"]
    assert talker["cv"] == pytest.approx(m["cv"])
    assert 0 < m["oracle_gain_at_0.5"] < m["oracle_gain_at_0.9"]
    assert (tmp_path / "lengths.png").stat().st_size > 10_000


@pytest.mark.parametrize(
    ("command", "arguments", "message"),
    [
        (evaluate, ["ngram"], "and then the data"),
        (evaluate, ["ngram", "nowhere.jsonl"], "cannot be read"),
        (evaluate, ["no-such", "{data}"], "no predictor and no folder named 'no-such'"),
        (evaluate, ["ngram", "{data}"], "or all: m, talker"),
        (evaluate, ["ngram", "{data}", "--picture", "p.foo"], "ends in .png, .svg, .pdf"),
        (predict, ["no-such", "hello"], "no predictor and no folder named 'no-such'"),
        (characterize, ["nowhere.csv"], "cannot be read"),
        (characterize, ["{data}", "--target-model", "x"], "has nothing of a model 'x'"),
    ],
)
def test_bad_input_is_one_clear_error(command: object, arguments: list[str], message: str, data: Path) -> None:
    result = invoke(command, *(argument.replace("{data}", str(data)) for argument in arguments))
    assert isinstance(result.exception, SSJFError)
    assert message in str(result.exception)


def test_a_picture_that_cannot_be_written_does_not_take_the_results_along(
    data: Path, trained: Path, tmp_path: Path
) -> None:
    picture = tmp_path / "a folder.png"
    picture.mkdir()
    options = ["--target-model", "m", "--seeds", "1", "--picture", str(picture)]
    result = invoke(evaluate, str(trained), str(data), *options)
    assert result.exit_code == 0, result.output
    assert "no a folder.png" in result.output


def test_where_clients_gave_caps_these_are_a_baseline_too(tmp_path: Path) -> None:
    path, out = tmp_path / "capped.jsonl", tmp_path / "e.json"
    rows = [{"prompt": f"question {i}", "output_tokens": 10 * i + 5, "max_tokens": 20 * i + 20} for i in range(40)]
    path.write_text("\n".join(map(json.dumps, rows)))
    result = invoke(evaluate, "constant", str(path), "--seeds", "1", "--json", str(out))
    assert result.exit_code == 0, result.output
    found = {row["predictor"]: row for row in json.loads(out.read_text())}
    assert list(found) == ["constant", "prompt length", "max_tokens"]
    assert found["max_tokens"]["tau_b"] == pytest.approx(1.0)
    assert found["max_tokens"]["oracle_share"] > 0.95
    assert 0 <= found["max_tokens"]["f1_5"] <= found["max_tokens"]["accuracy_2"] <= 1


def test_where_a_log_kept_no_texts_the_length_of_a_prompt_is_what_it_says(tmp_path: Path) -> None:
    out = tmp_path / "e.json"
    log = write_log(tmp_path / "log.sqlite", [(f"question {i}", 10 * i, 20 * i + 5) for i in range(1, 40)])
    result = invoke(evaluate, "ngram", str(log), "--seeds", "1", "--json", str(out))
    assert result.exit_code == 0, result.output
    found = {row["predictor"]: row for row in json.loads(out.read_text())}
    assert found["prompt length"]["tau_b"] == pytest.approx(1.0)
