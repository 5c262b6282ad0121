"""The command: options in; progress, a table and files out."""

from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ssjf.cli.folders import make_folder
from ssjf.errors import ConfigError

if TYPE_CHECKING:
    from ssjf.cli.demo.measure import DemoPlan, Measurement

# What counts is how much of all the slots' work a second of waiting forgives, so the rate goes with the slots. Replayed
# in virtual time with the demo's lengths and predictions, 24 arrival patterns and loads from 1.15 to 1.6, this one gave
# mean gains of 11 to 19 % and a p99 within 2 % of that of FCFS on average, 12 % above it at worst. The policy's default
# is for loads below 1: in an overload it gains more and lets the p99 grow by half.
_AGEING_RATE_PER_SLOT = 0.2

# Speeds that differ by more say more about the machine than about the policies.
_STEADY = 0.03


def demo(
    *,
    out: Annotated[Path, typer.Option(help="Folder for report.html, summary.json and jobs.csv.")] = Path("out/demo"),
    model: Annotated[
        str | None, typer.Option(help="Another model than the bundled one: file, folder or hub id.")
    ] = None,
    slots: Annotated[
        int, typer.Option(min=1, help="Requests that each policy's share of the engine serves at once.")
    ] = 1,
    jobs: Annotated[int, typer.Option(min=20, help="Requests in the overload.")] = 400,
    light_jobs: Annotated[int, typer.Option(min=20, help="Requests in the part with light load.")] = 100,
    training_prompts: Annotated[int, typer.Option(min=50, help="Answers that the predictor learns from.")] = 400,
    seed: Annotated[int, typer.Option(min=0, help="Of prompts and arrival times.")] = 0,
) -> None:
    """Measure the gain on the embedded engine: FCFS, the default, SSJF (also aged) and an oracle serve alike."""
    from ssjf.cli.demo.measure import DemoPlan

    plan = DemoPlan(
        slots=slots,
        num_jobs={"overload": jobs, "light": light_jobs},
        loads={"overload": 1.3, "light": 0.7},
        num_training_prompts=training_prompts,
        num_speed_prompts=60,
        ageing_rate=_AGEING_RATE_PER_SLOT * slots,
        seed=seed,
    )
    if find_spec("matplotlib") is None:  # before the measurement, not after it
        raise ConfigError("the demo draws its report with matplotlib: pip install 'ssjf[engine,plot]'")
    make_folder(out)
    measurement = _measure(plan, out, model)
    _write_and_show(measurement, out)
    if measurement.failed:
        raise typer.Exit(1)


def _measure(plan: "DemoPlan", out: Path, model: str | None) -> "Measurement":
    """The measurement with a bar for each of its stages."""
    from collections.abc import Callable

    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

    from ssjf.cli.demo.measure import measure
    from ssjf.loadgen.sender import run_loop
    from ssjf.metrics.records import JobRecord

    console = Console(stderr=True)
    columns = (TextColumn("{task.description:<34}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    # a few frames a second: the processor belongs to the server
    with Progress(*columns, console=console, refresh_per_second=2) as progress:

        def stage(description: str, num_requests: int) -> Callable[[JobRecord], None]:
            for task in progress.tasks:
                progress.update(task.id, completed=task.total)
                progress.stop_task(task.id)
            if not console.is_terminal:
                console.print(description)
            bar = progress.add_task(description, total=max(1, num_requests))
            return lambda _: progress.advance(bar)

        return run_loop(measure(plan, out=out, model=model, stage=stage))


def _write_and_show(measurement: "Measurement", out: Path) -> None:
    from rich.console import Console

    from ssjf.cli.demo.measure import PARTS
    from ssjf.cli.demo.results import figures_table, report, summaries
    from ssjf.metrics.summary import write_summary
    from ssjf.metrics.table import tables, write_jobs_csv

    rows = summaries(measurement.records)
    write_summary(out / "summary.json", rows)
    write_jobs_csv(out / "jobs.csv", tables(measurement.records["overload"]))
    write_jobs_csv(out / "jobs-light.csv", tables(measurement.records["light"]))
    (out / "report.html").write_text(report(measurement, rows), encoding="utf-8")

    console = Console(highlight=False)
    console.width = max(console.width, 120)  # a table cut in pieces compares nothing
    plan = measurement.plan
    for part in PARTS:
        title = f"{part}: {plan.num_jobs[part]} requests at {plan.loads[part]:g} of capacity; seconds"
        console.print(figures_table(rows, part, title))
    speeds = [row["output_tokens_per_s"] for row in rows if row["part"] == "overload" and row["output_tokens_per_s"]]
    if speeds and max(speeds) > (1 + _STEADY) * min(speeds):
        console.print(
            f"warning: the machine was {max(speeds) / min(speeds) - 1:.0%} faster for one policy than for another, "
            "which blurs the comparison; repeat the demo while nothing else is running"
        )
    for error, count in measurement.errors.most_common():
        console.print(f"{count} failed: {error}", markup=False)
    console.print(
        f"{measurement.changed_share:.1%} of the answers had another length than in the first pass; "
        f"the client sent at most {1000 * measurement.worst_lateness_s:.0f} ms late"
    )
    console.print(f"Written to {out}: report.html (open it), summary.json, jobs.csv, jobs-light.csv", soft_wrap=True)
