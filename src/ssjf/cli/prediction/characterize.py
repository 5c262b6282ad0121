"""`ssjf characterize`: how long the answers in a data set are, and how much there is to gain from knowing it."""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

from ssjf.cli.folders import make_folder
from ssjf.errors import DataError

_JOBS, _LOADS = 5000, (0.5, 0.8, 0.9)


def characterize(
    data: Annotated[Path, typer.Argument(help="Output lengths: CSV, JSONL or Parquet, .gz too.")],
    target_model: Annotated[
        str | None, typer.Option(help="Only this model, in a set that has several models'.")
    ] = None,
    seeds: Annotated[int, typer.Option(min=1, help="Of the simulation.")] = 3,
    out: Annotated[Path, typer.Option(help="Folder for lengths.json and the picture.")] = Path("out/characterize"),
) -> None:
    """Show the distribution of output lengths by model, and what any predictor could gain at most."""
    import json

    from rich.console import Console

    from ssjf.report.predictors import length_distributions
    from ssjf.report.style import saved
    from ssjf.workload.reader import read_workload

    lengths: dict[str, list[int]] = defaultdict(list)
    for item in read_workload(data, target_model=target_model):
        if item.output_tokens is not None:
            lengths[item.model].append(item.output_tokens)
    if not lengths:
        raise DataError(f"{data}: no row has an output length")
    rows = [_row(model, values, seeds) for model, values in sorted(lengths.items())]
    console = Console(highlight=False, markup=False)
    console.width = max(console.width, 132)  # a table cut in pieces compares nothing
    console.print(_table(rows, data.name))
    console.print(
        "gain: how far shortest-first with perfect knowledge lowers the mean completion time below FCFS's on one slot "
        f"at that load ({seeds} seeds of {_JOBS} jobs): no predictor and no policy that interrupts nobody gains more."
    )
    make_folder(out)
    (out / "lengths.json").write_text(json.dumps(rows, indent=2) + "\n", encoding="utf-8")
    picture = saved(lambda: length_distributions(dict(sorted(lengths.items()))), out / "lengths.png")
    console.print(f"written to {out}: lengths.json, {picture}", soft_wrap=True)


def _row(model: str, lengths: Sequence[int], seeds: int) -> dict[str, Any]:
    import numpy as np

    from ssjf.sim.ranking import ranking_gain

    values = np.asarray(lengths, dtype=np.float64)
    mean = float(values.mean())
    row: dict[str, Any] = {
        "model": model,
        "n": len(lengths),
        "mean": mean,
        "cv": float(values.std() / mean) if mean else None,
        **{f"p{level}": float(np.percentile(values, level)) for level in (5, 25, 50, 75, 95, 99)},
        "max": int(values.max()),
    }
    gains = {load: ranking_gain(lengths, lengths, load=load, seeds=seeds, num_jobs=_JOBS)["gain"] for load in _LOADS}
    return row | {f"oracle_gain_at_{load:g}": gain for load, gain in gains.items()}


def _table(rows: Sequence[Mapping[str, Any]], title: str) -> Any:
    from rich.table import Table

    table = Table(title=f"output tokens in {title}", title_justify="left")
    table.add_column("model", no_wrap=True)
    for heading in ("answers", "mean", "CV", "p5", "p25", "p50", "p75", "p95", "p99", "max"):
        table.add_column(heading, justify="right", no_wrap=True)
    for load in _LOADS:
        table.add_column(f"gain {load:g}", justify="right", no_wrap=True)
    for row in rows:
        table.add_row(
            row["model"] or "–",
            str(row["n"]),
            f"{row['mean']:.0f}",
            "–" if row["cv"] is None else f"{row['cv']:.2f}",
            *(f"{row[key]:.0f}" for key in ("p5", "p25", "p50", "p75", "p95", "p99", "max")),
            *(f"{row[f'oracle_gain_at_{load:g}']:.0%}" for load in _LOADS),
        )
    return table
