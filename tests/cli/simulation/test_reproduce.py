"""The command end to end on a small predictions file."""

import csv
import json
import random
from pathlib import Path

import pytest
import typer
from typer.testing import CliRunner, Result

from ssjf.cli.simulation.reproduce import reproduce
from ssjf.errors import ConfigError, DataError, UserError

PUBLISHED_GAIN = "32.3%"


def invoke(*arguments: str | Path) -> Result:
    app = typer.Typer()
    app.command()(reproduce)
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


@pytest.fixture
def predictions(tmp_path: Path) -> Path:
    rng = random.Random(0)
    path = tmp_path / "predictions.csv"
    rows = "".join(
        f"{length},{min(4, length // 110)},{rng.uniform(7, 9):.2f}\n" for length in rng.choices(range(2, 512), k=200)
    )
    path.write_text("output_tokens,pred_class5,lat5_ms\n" + rows)
    return path


@pytest.fixture
def trace(tmp_path: Path) -> Path:
    path = tmp_path / "trace.csv"
    path.write_text(
        "arrival_s,input_tokens,output_tokens\n" + "".join(f"{0.2 * i:.1f},10,{20 + i % 9}\n" for i in range(80))
    )
    return path


def test_the_table_stands_next_to_the_published_figures_and_files_hold_every_point(
    predictions: Path, trace: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    result = invoke(predictions, "--out", out, "--azure-conv", trace, "--runs", "1", "--batch-sizes", "2")
    assert result.exit_code == 0, result.output
    assert PUBLISHED_GAIN in result.output
    assert sorted(path.name for path in out.iterdir()) == [
        "gains.png",
        "reproduction.csv",
        "reproduction.json",
        "steady_state.png",
    ]
    found = json.loads((out / "reproduction.json").read_text())
    assert found["sweeps"]["azure-conv"]["points"][-1] == 500
    # 4 sweeps × (10 points + mean) × 3 settings × (3 policies by paper rules, 4 by clean ones)
    assert len(found["results"]) == 4 * 11 * 3 * 7
    with (out / "reproduction.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == len(found["results"]) + len(found["steady_state"]["results"])
    assert float(rows[0]["mean_jct_s"]) == found["results"][0]["mean_jct_s"]


def test_the_same_command_writes_the_same_bytes(predictions: Path, tmp_path: Path) -> None:
    for name in ("one", "two"):
        assert invoke(predictions, "--out", tmp_path / name, "--runs", "1", "--batch-sizes", "2").exit_code == 0
    for name in ("reproduction.json", "reproduction.csv"):
        assert (tmp_path / "one" / name).read_bytes() == (tmp_path / "two" / name).read_bytes()


@pytest.mark.parametrize("sizes", ["", "two", "0", "2,,4", "-1"])
def test_nonsense_batch_sizes_are_refused(predictions: Path, tmp_path: Path, sizes: str) -> None:
    refused(ConfigError, tmp_path / "out", predictions, f"--batch-sizes={sizes}")


def test_a_file_without_predictions_is_refused(trace: Path, tmp_path: Path) -> None:
    refused(DataError, tmp_path / "out", trace)
    refused(DataError, tmp_path / "out", tmp_path / "absent.csv")


def test_a_folder_that_is_a_file_is_refused(predictions: Path) -> None:
    result = invoke(predictions, "--out", predictions)
    assert isinstance(result.exception, ConfigError)


def refused(error: type[UserError], out: Path, *arguments: str | Path) -> None:
    """The command fails with one line and leaves no folder."""
    result = invoke(*arguments, "--out", out)
    assert isinstance(result.exception, error)
    assert "\n" not in str(result.exception)
    assert not out.exists()
