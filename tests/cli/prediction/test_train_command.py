"""`ssjf train`, from a file to a folder."""

import json
from pathlib import Path

import pytest
import typer

from ssjf.cli.prediction.train import train
from ssjf.errors import ConfigError, DataError
from ssjf.predict.artefact import load_predictor, read_card
from tests.predict.made_up import ask, make_samples


def write(path: Path, *rows: object) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


@pytest.fixture
def prompts(tmp_path: Path) -> Path:
    rows = [{"prompt": s.prompt, "out_tokens": {"a": s.num_output_tokens, "b": 9}} for s in make_samples(60)]
    return write(tmp_path / "prompts.jsonl", *rows)


def test_a_prompt_set_becomes_a_predictor_with_a_card(
    prompts: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    train(prompts, tmp_path / "out", target_model="a")
    card = read_card(tmp_path / "out")
    assert card["data"]["file"] == "prompts.jsonl"
    assert card["data"]["rows"] == 60
    assert len(card["data"]["sha256"]) == 64
    assert card["split"] == {"by": "prompt", "seed": 0, "holdout": 0.2, "train": 48, "test": 12}
    assert {"tau_b", "mae", "median_mae", "log_mae", "coverage_0.9"} <= set(card["metrics"])
    predictor = load_predictor(str(tmp_path / "out"))
    short, long = predictor.predict([ask("Say hello of Anna"), ask("Write a story of Anna")])
    assert short.num_output_tokens < long.num_output_tokens
    assert "tau-b" in capsys.readouterr().out


def test_conversations_are_read_as_their_text(tmp_path: Path) -> None:
    rows = [
        {"prompt": [{"role": "user", "content": s.prompt}], "output_tokens": s.num_output_tokens}
        for s in make_samples(60)
    ]
    train(write(tmp_path / "chats.jsonl", *rows), tmp_path / "out")
    assert read_card(tmp_path / "out")["data"]["skipped"] == 0


def test_a_family_that_nobody_can_train_is_refused_before_anything_is_read(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="ngram"):
        train(tmp_path / "missing.jsonl", tmp_path / "out", family="n-gram")


@pytest.mark.parametrize(
    ("rows", "complaint"),
    [
        ([{"input_tokens": 3, "output_tokens": 5}] * 30, "prompt and an output length"),
        ([{"prompt": f"p{i}", "output_tokens": 5} for i in range(30)], "same length"),
        ([{"prompt": "p", "output_tokens": i} for i in range(30)], "distinct prompts"),
        ([], "empty|no rows|none of 0"),
    ],
)
def test_data_that_cannot_teach_leaves_nothing_behind(tmp_path: Path, rows: list[object], complaint: str) -> None:
    with pytest.raises(DataError, match=complaint):
        train(write(tmp_path / "data.jsonl", *rows), tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_its_signature_is_a_command() -> None:
    app = typer.Typer()
    app.command()(train)
    assert {option.name for option in typer.main.get_command(app).params} >= {"data", "family", "target_model", "out"}
