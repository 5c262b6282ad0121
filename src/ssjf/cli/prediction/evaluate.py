"""`ssjf evaluate`: predictors side by side on data they have not seen: as orders, as numbers, and by what they buy."""

import json
import math
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ssjf.cli.folders import make_folder
from ssjf.cli.prediction.samples import read_samples
from ssjf.errors import ConfigError, DataError

if TYPE_CHECKING:
    from ssjf.core.types import Prediction, Request
    from ssjf.predict.base import Predictor
    from ssjf.predict.training import Sample

_LOAD = 0.8  # of the simulation that tells what a ranking buys
_BASELINES = ("prompt length", "constant")
_CAP = "max_tokens"  # a third, where the data has clients' caps


def evaluate(
    predictors: Annotated[list[str], typer.Argument(help="Folders of trained predictors, or names; then the data.")],
    target_model: Annotated[
        str | None, typer.Option(help="Whose recorded lengths, in a set that has several models'.")
    ] = None,
    seeds: Annotated[int, typer.Option(min=1, help="Of the simulation.")] = 5,
    as_json: Annotated[Path | None, typer.Option("--json", help="File for all figures.")] = None,
    picture: Annotated[Path | None, typer.Option(help="File for a picture, .png or .svg.")] = None,
) -> None:
    """Compare predictors on prompts and lengths: DATA is the last argument.

    Prompts that one of the predictors was trained on do not count, whatever file they were in.
    """
    from rich.console import Console
    from rich.progress import track

    from ssjf.predict.artefact import load_predictor
    from ssjf.report.style import check_picture, saved

    if picture is not None:
        check_picture(picture)
    if len(predictors) < 2:
        raise ConfigError("name at least one predictor, and then the data: ssjf evaluate my-predictor data.jsonl")
    *names, last = predictors
    data = Path(last)
    loaded: dict[str, Predictor | None] = {name: load_predictor(name) for name in names}
    hashed = all(getattr(predictor, "family", "") == "ngram" for predictor in loaded.values())
    samples, skipped = read_samples(data, target_model, hashed=hashed)
    read, samples = samples, _unseen(samples, names)
    if len(samples) < 2 <= len(read):
        raise DataError(f"{data}: all but {len(samples)} of {len(read)} rows were trained on: nothing to compare")
    if len(samples) < 2 or len({sample.num_output_tokens for sample in samples}) < 2:
        raise DataError(f"{data}: {len(samples)} usable rows, or all answers equally long: nothing to compare")
    loaded |= dict.fromkeys(_BASELINES)
    if any(sample.max_tokens for sample in samples):
        loaded[_CAP] = None
    rows = [
        _row(name, predictor, samples, seeds)
        for name, predictor in track(loaded.items(), description="evaluating", transient=True)
    ]
    console = Console(highlight=False, markup=False)
    console.width = max(console.width, 132)  # a table cut in pieces compares nothing
    console.print(_table(rows, f"{len(samples)} samples of {data.name}"))
    if len(samples) < len(read):
        console.print(f"left out: {len(read) - len(samples)} samples that one of the predictors was trained on")
    console.print(
        f"gain: mean completion time below FCFS's, shortest predicted first on one slot at load {_LOAD:g}, {seeds} "
        "seeds, with the 95 % interval; share: of the oracle's. Latency: one prompt, and each of 32.",
    )
    if skipped:
        console.print(f"{skipped} rows without a prompt or a length were skipped")
    if as_json is not None:
        make_folder(as_json.parent, "--json")
        as_json.write_text(json.dumps(rows, indent=2) + "\n", encoding="utf-8")
    if picture is not None:
        from ssjf.report.predictors import ranking_and_gain

        make_folder(picture.parent, "--picture")
        console.print(f"drawn: {saved(lambda: ranking_and_gain(rows), picture)}")


def _unseen(samples: "list[Sample]", names: Sequence[str]) -> "list[Sample]":
    """Without what began as anything that one of the predictors was fitted on, whatever file that was in."""
    from ssjf.predict.artefact import read_seen
    from ssjf.predict.ngram.features import digest, opening

    seen = frozenset[int]().union(*map(read_seen, names))
    return [sample for sample in samples if digest(opening(sample.prompt)) not in seen] if seen else samples


def _row(name: str, predictor: "Predictor | None", samples: "Sequence[Sample]", seeds: int) -> dict[str, Any]:
    from ssjf.predict import evaluation
    from ssjf.predict.training import as_request
    from ssjf.sim.ranking import ranking_gain

    requests = [as_request(sample) for sample in samples]
    answer = _answers(name, predictor, samples)
    predictions = answer(requests)
    truth = [sample.num_output_tokens for sample in samples]
    row: dict[str, Any] = {"predictor": name, **evaluation.evaluate(predictions, truth)}
    predicted = [prediction.num_output_tokens for prediction in predictions]
    row |= ranking_gain(predicted, truth, load=_LOAD, seeds=seeds)
    if predictor is not None:
        row |= {"latency_ms": _latency_ms(answer, requests, 1), "latency_ms_of_32": _latency_ms(answer, requests, 32)}
        if Path(name).is_dir():
            row["size_mb"] = sum(file.stat().st_size for file in Path(name).rglob("*") if file.is_file()) / 1e6
    return row


def _answers(
    name: str, predictor: "Predictor | None", samples: "Sequence[Sample]"
) -> "Callable[[Sequence[Request]], list[Prediction]]":
    from ssjf.core.types import Prediction
    from ssjf.predict.ngram.features import HashedPrompt

    if predictor is not None:
        return predictor.predict
    if name == "constant":
        mean = sum(sample.num_output_tokens for sample in samples) / len(samples)
        return lambda requests: [Prediction(mean)] * len(requests)
    if name == _CAP:
        largest = max(sample.max_tokens for sample in samples)
        return lambda requests: [Prediction(float(request.max_tokens or largest)) for request in requests]
    if any(isinstance(sample.prompt, HashedPrompt) for sample in samples):  # of which no text was kept
        return lambda requests: [Prediction(float(request.num_prompt_tokens)) for request in requests]
    return lambda requests: [Prediction(float(len(request.prompt.split()))) for request in requests]


def _latency_ms(
    answer: "Callable[[Sequence[Request]], list[Prediction]]", requests: "Sequence[Request]", batch: int
) -> dict[str, float]:
    """Milliseconds for each request of a batch, at the median and the 99th percentile of batches."""
    import numpy as np

    times = []
    for start in range(0, max(1, min(len(requests), 20 * batch + 200) - batch + 1), batch):
        part = requests[start : start + batch]
        begin = time.perf_counter()
        answer(part)
        times.append(1000 * (time.perf_counter() - begin) / len(part))
    return {"p50": float(np.percentile(times, 50)), "p99": float(np.percentile(times, 99))}


def _table(rows: Sequence[dict[str, Any]], title: str) -> Any:
    from rich.table import Table

    table = Table(title=title, title_justify="left")
    table.add_column("predictor", no_wrap=True)
    for heading in (
        "tau-b",
        "rho",
        "pairs",
        "MAE",
        "RMSE",
        "log MAE",
        "< p90",
        "gain",
        "share",
        "1: ms",
        "32: ms",
        "MB",
    ):
        table.add_column(heading, justify="right", no_wrap=True)
    for row in rows:
        gain = f"{row['gain']:.1%}" + (f" ±{row['gain_interval']:.1%}" if row["gain_interval"] is not None else "")
        table.add_row(
            row["predictor"],
            _shown(row["tau_b"], "{:.3f}"),
            _shown(row["rho"], "{:.3f}"),
            _shown(row["pair_accuracy"], "{:.3f}"),
            *(f"{row[key]:.0f}" for key in ("mae", "rmse")),
            f"{row['log_mae']:.2f}",
            _shown(row.get("coverage_0.9"), "{:.0%}"),
            gain,
            _shown(row["oracle_share"], "{:.0%}"),
            _shown(row.get("latency_ms", {}).get("p50"), "{:.2f}"),
            _shown(row.get("latency_ms_of_32", {}).get("p50"), "{:.2f}"),
            _shown(row.get("size_mb"), "{:.1f}"),
        )
    return table


def _shown(value: float | None, shape: str) -> str:
    return "–" if value is None or math.isnan(value) else shape.format(value)
