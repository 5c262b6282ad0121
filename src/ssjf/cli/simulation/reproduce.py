"""`ssjf reproduce`: the SSJF paper's experiment again, under its own rules and under clean ones, side by side."""

import csv
import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ssjf.cli.folders import check_folder, make_folder
from ssjf.errors import ConfigError, DataError

if TYPE_CHECKING:
    from rich.table import Table

    from ssjf.sim.paper.reproduce import Experiment, Published, Row
    from ssjf.sim.paper.rules import Setting
    from ssjf.workload.predictions import Predictions

_STEADY_SEEDS_PER_RUN = 2  # 40 seeds with the default number of runs: p99 over 1,000 jobs is a noisy figure

_SweepCell = tuple[str, str, str]  # round, experiment, setting


def reproduce(
    predictions: Annotated[
        Path, typer.Argument(help="CSV with output_tokens, pred_class<N> and perhaps lat<N>_ms and round; .gz too.")
    ],
    out: Annotated[Path, typer.Option(help="Folder for reproduction.json, reproduction.csv and pictures.")] = Path(
        "out/reproduce"
    ),
    azure_conv: Annotated[Path | None, typer.Option(help="Azure 2023 conversation trace, for its arrivals.")] = None,
    azure_code: Annotated[Path | None, typer.Option(help="Azure 2023 code trace, for its arrivals.")] = None,
    classes: Annotated[int, typer.Option(min=2, help="Which prediction column: 2 or 5 in the paper's files.")] = 5,
    batch_sizes: Annotated[str, typer.Option(help="Batch sizes, each both static and continuous.")] = "2,4",
    runs: Annotated[int, typer.Option(min=1, help="Runs of 50 jobs at each point and seed; the paper's are 20.")] = 20,
) -> None:
    """Reproduce the SSJF paper from a file of predictions: what holds, and what does not."""
    from rich.console import Console
    from rich.progress import Progress

    from ssjf.sim.paper.reproduce import paper_experiments, steady_state
    from ssjf.sim.paper.reproduce import reproduce as reproduce_sweeps
    from ssjf.workload.predictions import read_predictions

    check_folder(out)
    settings = _settings(batch_sizes)
    table = read_predictions(predictions, num_classes=classes)
    traces = {"azure-conv": azure_conv, "azure-code": azure_code}
    experiments = paper_experiments({name: _arrival_times(path) for name, path in traces.items() if path is not None})

    with Progress(console=Console(stderr=True)) as progress:
        bar = progress.add_task("Serving", total=None)
        rows = reproduce_sweeps(
            table,
            experiments,
            settings,
            runs=runs,
            on_progress=lambda done, total: progress.update(bar, completed=done, total=total),
        )
        steady = steady_state(table, seeds=_STEADY_SEEDS_PER_RUN * runs)

    make_folder(out)
    _write(out, table, experiments, rows, steady, runs=runs)
    console = Console()
    console.width = max(console.width, 132)  # where output goes to a file, rich would cut columns at 80
    console.print(_gain_table(rows))
    console.print(_jct_table(rows))
    console.print(_steady_table(steady, seeds=_STEADY_SEEDS_PER_RUN * runs))
    console.print(f"Class means in tokens, from {predictions.name}: {_means(table)}", highlight=False)
    missing = sorted({str(number) for number in table.rounds or ()} - {row.cell.round for row in rows})
    if missing:
        console.print(f"Rounds with too few rows for a run, left out: {', '.join(missing)}", highlight=False)
    console.print(f"Written to {out}" if _draw(out, rows, steady) else f"Written to {out}; pictures need ssjf[plot]")


def _settings(batch_sizes: str) -> list["Setting"]:
    from ssjf.sim.paper.rules import Setting

    try:
        sizes = sorted({int(size) for size in batch_sizes.split(",")})
    except ValueError:
        sizes = []
    if not sizes or sizes[0] < 1:
        raise ConfigError(f"--batch-sizes {batch_sizes!r} is not a list of sizes like 2,4")
    batched = [size for size in sizes if size > 1]
    return [
        Setting(1, continuous=True),
        *(Setting(size, continuous=False) for size in batched),
        *(Setting(size, continuous=True) for size in batched),
    ]


def _arrival_times(path: Path) -> list[float]:
    from ssjf.workload.reader import read_workload

    times = [item.arrival_s for item in read_workload(path) if item.arrival_s is not None]
    if not times:
        raise DataError(f"{path} has no arrival times; give a trace with a column arrival_s or TIMESTAMP")
    return times


def _means(table: "Predictions") -> str:
    return ", ".join(f"{class_id}: {tokens:.0f}" for class_id, tokens in table.class_means.items())


def _by_policy(rows: Sequence["Row"], rules: str) -> dict[_SweepCell, dict[str, "Row"]]:
    """Sweep means under one set of rules: sweep and setting -> policy -> row."""
    found: dict[_SweepCell, dict[str, Row]] = {}
    for row in rows:
        cell = row.cell
        if cell.point is None and cell.rules == rules:
            found.setdefault((cell.round, cell.experiment, cell.setting), {})[cell.policy] = row
    return found


def _gain_table(rows: Sequence["Row"]) -> "Table":
    from rich import box
    from rich.table import Table

    from ssjf.sim.paper.reproduce import LATENCY_POLICY

    table = Table(
        title="SSJF against FCFS: gain in mean JCT; × early drain rate (the paper's throughput)",
        caption="published: the artefact with its five-class predictions; +latency: the predictor's time is in the JCT",
        box=box.SIMPLE_HEAD,
    )
    for name in ("\nsweep", "\nsetting"):
        table.add_column(name, no_wrap=True)
    for group, names in (
        ("published", ("gain", "drain")),
        ("paper rules", ("gain", "drain")),
        ("clean rules", ("gain", "+latency", "drain", "capacity", "p99 JCT")),
    ):
        for number, name in enumerate(names):
            table.add_column(f"{'' if number else group}\n{name}", justify="right", no_wrap=True)
    clean = _by_policy(rows, "clean")
    for cell, by_paper in _by_policy(rows, "paper").items():
        printed, ours = _published(cell), clean[cell]
        delayed = ours.get(LATENCY_POLICY)
        table.add_row(
            _sweep_name(cell),
            cell[2],
            f"{printed.gain:.1%}" if printed else "",
            f"{printed.throughput_ratio:.2f}" if printed else "",
            f"{by_paper['ssjf'].gain:.1%}",
            f"{by_paper['ssjf'].drain_ratio:.2f}",
            f"{ours['ssjf'].gain:.1%}",
            f"{delayed.gain:.1%}" if delayed else "",
            f"{ours['ssjf'].drain_ratio:.2f}",
            f"{ours['ssjf'].capacity_ratio:.2f}",
            f"{ours['ssjf'].p99_ratio - 1:+.0%}",
        )
    return table


def _jct_table(rows: Sequence["Row"]) -> "Table":
    from rich.table import Table

    table = Table(title="Mean JCT in seconds, FCFS / SJF / SSJF")
    for name in ("sweep", "setting", "published", "paper rules", "clean rules"):
        table.add_column(name)
    clean = _by_policy(rows, "clean")
    for cell, by_paper in _by_policy(rows, "paper").items():
        printed = _published(cell)
        table.add_row(
            _sweep_name(cell),
            cell[2],
            f"{printed.fcfs_s} / {printed.sjf_s} / {printed.ssjf_s}" if printed else "",
            *(
                " / ".join(f"{by_policy[name].figures.mean_jct_s:.1f}" for name in ("fcfs", "sjf", "ssjf"))
                for by_policy in (by_paper, clean[cell])
            ),
        )
    return table


def _sweep_name(cell: _SweepCell) -> str:
    from ssjf.sim.paper.reproduce import ALL_ROUNDS

    round_name, experiment, _ = cell
    return experiment if round_name == ALL_ROUNDS else f"{experiment}, round {round_name}"


def _published(cell: _SweepCell) -> "Published | None":
    from ssjf.sim.paper.reproduce import ALL_ROUNDS, PUBLISHED

    return PUBLISHED.get(cell[1:]) if cell[0] == ALL_ROUNDS else None


def _steady_table(steady: Sequence["Row"], *, seeds: int) -> "Table":
    from rich.table import Table

    from ssjf.sim.paper.reproduce import STEADY_JOBS

    table = Table(title=f"Steady state: one server, no batching, clean rules, {STEADY_JOBS} jobs, {seeds} seeds")
    for name in ("load", "policy", "mean JCT", "gain", "p99 JCT", "p99", "drain", "capacity"):
        table.add_column(name, justify="left" if name == "policy" else "right")
    for row in steady:
        table.add_row(
            f"{row.cell.point}",
            row.cell.policy,
            f"{row.figures.mean_jct_s:.1f} s",
            f"{row.gain:.1%}",
            f"{row.figures.p99_jct_s:.0f} s",
            f"{row.p99_ratio - 1:+.0%}",
            f"{row.drain_ratio:.2f}",
            f"{row.capacity_ratio:.2f}",
        )
    return table


def _write(
    out: Path,
    table: "Predictions",
    experiments: Sequence["Experiment"],
    rows: Sequence["Row"],
    steady: Sequence["Row"],
    *,
    runs: int,
) -> None:
    from ssjf.sim.paper.reproduce import PUBLISHED, SEEDS, STEADY_JOBS
    from ssjf.sim.paper.rules import JOBS_PER_RUN

    flat = [row.flat() for row in rows]
    everything = {
        "predictions": {"rows": len(table.output_tokens), "class_mean_tokens": table.class_means},
        "sweeps": {sweep.name: {"parameter": sweep.parameter, "points": sweep.points} for sweep in experiments},
        "jobs_per_run": JOBS_PER_RUN,
        "runs": runs,
        "seeds": SEEDS,
        "published": [
            {"experiment": experiment, "setting": setting, **printed._asdict()}
            for (experiment, setting), printed in PUBLISHED.items()
        ],
        "results": flat,
        "steady_state": {
            "jobs": STEADY_JOBS,
            "seeds": _STEADY_SEEDS_PER_RUN * runs,
            "results": [row.flat() for row in steady],
        },
    }
    (out / "reproduction.json").write_text(json.dumps(everything, indent=1) + "\n", encoding="utf-8")
    with (out / "reproduction.csv").open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, flat[0], lineterminator="\n")
        writer.writeheader()
        writer.writerows([*flat, *(row.flat() for row in steady)])


def _draw(out: Path, rows: Sequence["Row"], steady: Sequence["Row"]) -> bool:
    """Write gains.png and steady_state.png; False where matplotlib is not installed."""
    try:
        from matplotlib.figure import Figure
    except ImportError:
        return False
    from ssjf.sim.paper.reproduce import ALL_ROUNDS, STEADY_LOADS

    paper, clean = _by_policy(rows, "paper"), _by_policy(rows, "clean")
    cells = [cell for cell in paper if cell[0] == ALL_ROUNDS]
    figure = Figure(figsize=(8, 1 + 0.35 * len(cells)), layout="constrained")
    axes = figure.subplots()
    places = range(len(cells))
    axes.barh([y - 0.2 for y in places], [paper[cell]["ssjf"].gain for cell in cells], 0.4, label="paper rules")
    axes.barh([y + 0.2 for y in places], [clean[cell]["ssjf"].gain for cell in cells], 0.4, label="clean rules")
    printed = [(y, row) for y, cell in enumerate(cells) if (row := _published(cell))]
    axes.plot([row.gain for _, row in printed], [y for y, _ in printed], "k|", ms=14, label="published")
    axes.set_yticks(places, [" · ".join(cell[1:]) for cell in cells])
    axes.invert_yaxis()
    axes.set_xlabel("gain of SSJF in mean JCT against FCFS")
    axes.xaxis.set_major_formatter("{x:.0%}")
    axes.legend()
    figure.savefig(out / "gains.png", dpi=120)

    figure = Figure(figsize=(6, 4), layout="constrained")
    axes = figure.subplots()
    ssjf = [row for row in steady if row.cell.policy == "ssjf"]
    axes.plot(STEADY_LOADS, [-row.gain for row in ssjf], "o-", label="mean JCT")
    axes.plot(STEADY_LOADS, [row.p99_ratio - 1 for row in ssjf], "s-", label="p99 JCT")
    axes.axhline(0, color="black", lw=0.8)
    axes.set_xlabel("load")
    axes.set_ylabel("SSJF against FCFS")
    axes.yaxis.set_major_formatter("{x:+.0%}")
    axes.set_title("Steady state: the mean falls, the tail rises")
    axes.legend()
    figure.savefig(out / "steady_state.png", dpi=120)
    return True
