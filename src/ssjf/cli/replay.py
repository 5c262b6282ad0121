"""`ssjf replay`: send a workload to a running server and write down what happened to each request."""

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ssjf.cli.folders import check_folder, make_folder
from ssjf.errors import ConfigError

if TYPE_CHECKING:
    from ssjf.loadgen.client import Endpoint
    from ssjf.loadgen.plan import PlannedRequest
    from ssjf.loadgen.sender import Run
    from ssjf.workload.items import WorkItem

# A client later than this at one request in a hundred no longer sends the workload it was given.
_LATENESS_WARNING_S = 0.05


def replay(
    *,
    workload: Annotated[Path, typer.Option(help="Workload file or prompt set: CSV, JSONL or Parquet, .gz too.")],
    url: Annotated[str, typer.Option(help="An OpenAI-compatible server, with or without /v1.")],
    out: Annotated[Path, typer.Option(help="Folder for jobs.csv, summary.json and the picture.")] = Path("out/replay"),
    arrivals: Annotated[
        str | None,
        typer.Option(
            help="poisson:RATE | gamma:RATE:CV | onoff:RATE | burst | trace:FILE[:SCALE]; default: the file's own."
        ),
    ] = None,
    target_model: Annotated[
        str | None, typer.Option(help="Whose recorded lengths to take from a set that has several models'.")
    ] = None,
    fixed_output: Annotated[
        bool, typer.Option("--fixed-output", help="Ask for exactly the recorded number of output tokens.")
    ] = False,
    hints: Annotated[
        bool, typer.Option("--hints", help="Tell the server the recorded length as its prediction (an oracle).")
    ] = False,
    max_output_tokens: Annotated[int | None, typer.Option(min=1, help="Cap on answers and recorded lengths.")] = None,
    limit: Annotated[int | None, typer.Option(min=1, help="Send the first so many rows only.")] = None,
    seed: Annotated[int, typer.Option(min=0, help="Of the arrival process and of made-up prompts.")] = 0,
    model: Annotated[str | None, typer.Option(help="Model to ask; default: the first that the server lists.")] = None,
    completions: Annotated[
        bool, typer.Option("--completions", help="Use plain completions; prompts must be text.")
    ] = False,
    policy_label: Annotated[str, typer.Option(help="What the result files call this run.")] = "replay",
    api_key: Annotated[
        str | None, typer.Option(envvar="OPENAI_API_KEY", show_envvar=True, help="Sent as the bearer token.")
    ] = None,
    timeout_s: Annotated[float, typer.Option(min=0.001, help="A request not answered by then has failed.")] = 600.0,
    export: Annotated[
        Path | None, typer.Option(help="Also write the timed workload as Mooncake JSONL, for other load generators.")
    ] = None,
) -> None:
    """Send a workload to a server, open-loop and streaming; one row per request in jobs.csv."""
    from ssjf.loadgen.client import Endpoint
    from ssjf.loadgen.plan import plan_requests
    from ssjf.loadgen.sender import Run
    from ssjf.workload.arrivals import parse_arrivals
    from ssjf.workload.reader import read_workload

    check_folder(out)
    items = read_workload(workload, target_model=target_model)[:limit]
    times = parse_arrivals(arrivals).times(len(items), seed).tolist() if arrivals else None
    requests = plan_requests(
        items, times, seed=seed, fixed_output=fixed_output, hints=hints, max_output_tokens=max_output_tokens
    )
    if completions and not all(isinstance(request.prompt, str) for request in requests):
        raise ConfigError(f"{workload} has conversations, which --completions cannot send; leave the option out")
    if export is not None:
        make_folder(export.parent, "--export")
        _export(export, items, requests)
    endpoint = Endpoint(url=url, model=model or "", chat=not completions, api_key=api_key, timeout_s=timeout_s)
    run = Run(policy_label, seed)
    interrupted = _send(endpoint, requests, run)
    if run.records:
        _write(run, out)
    _show(run, len(requests), out, interrupted=interrupted)
    if run.failed or interrupted:
        raise typer.Exit(1)


def _export(path: Path, items: "list[WorkItem]", requests: "list[PlannedRequest]") -> None:
    """The workload with the arrivals and lengths that are really sent."""
    from ssjf.workload.writer import write_mooncake

    by_index = {item.index: item for item in items}
    write_mooncake(
        path,
        [
            replace(
                by_index[request.index],
                arrival_s=request.arrival_s,
                output_tokens=request.max_tokens if request.fixed_output else by_index[request.index].output_tokens,
            )
            for request in requests
        ],
    )


def _send(endpoint: "Endpoint", requests: "list[PlannedRequest]", run: "Run") -> bool:
    """Send everything with a progress bar; whether somebody interrupted it."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

    from ssjf.loadgen.client import first_model
    from ssjf.loadgen.sender import run_loop, send_open_loop

    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, console=Console(stderr=True)) as progress:
        bar = progress.add_task("requests ended", total=len(requests))
        run.on_record = lambda _: progress.advance(bar)

        async def main() -> None:
            model = endpoint.model or await first_model(endpoint)
            await send_open_loop(replace(endpoint, model=model), requests, run)

        try:
            run_loop(main())
        except KeyboardInterrupt:
            return True
    return False


def _write(run: "Run", out: Path) -> None:
    """Write the files and show the figures that matter."""
    from rich.console import Console

    from ssjf.metrics.summary import summarize, write_summary
    from ssjf.metrics.table import JobTable, write_jobs_csv
    from ssjf.report import figures
    from ssjf.report.style import saved

    make_folder(out)
    table = JobTable.from_records(sorted(run.records, key=lambda record: record.index))
    summary = summarize(table)
    write_jobs_csv(out / "jobs.csv", [table])
    write_summary(out / "summary.json", [summary])
    console = Console(soft_wrap=True, highlight=False)
    if not table.completed.any():
        return
    console.print(
        f"seconds to a whole answer: mean {summary['mean_jct_s']:.2f}, p50 {summary['p50_jct_s']:.2f}, "
        f"p90 {summary['p90_jct_s']:.2f}, p99 {summary['p99_jct_s']:.2f}, max {summary['max_jct_s']:.2f}"
    )
    picture = saved(lambda: figures.completion_times({table.policy: table}), out / "completion_times.png")
    console.print(f"drawn: {picture}", markup=False)


def _show(run: "Run", planned: int, out: Path, *, interrupted: bool) -> None:
    """Tell how it went: failures by their cause, lateness of the client, where the files are."""
    from rich.console import Console

    console = Console(soft_wrap=True, highlight=False)
    if interrupted:
        console.print(f"interrupted: {len(run.records)} of {planned} requests were sent and are in the files")
    for error, count in run.errors.most_common():
        console.print(f"{count} failed: {error}", markup=False)
    if run.lateness_s:
        worst_s = max(run.lateness_s)
        console.print(f"the client sent at most {1000 * worst_s:.1f} ms late")
        if worst_s > _LATENESS_WARNING_S:
            console.print(
                "warning: the client itself was late; its machine is too busy to send this workload as planned"
            )
    console.print(f"{len(run.records) - run.failed} of {planned} requests completed; {run.failed} failed")
    if run.records:
        console.print(f"written to {out}")
