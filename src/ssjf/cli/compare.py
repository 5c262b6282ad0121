"""`ssjf compare`: a grid of policies × predictors × loads × slots × arrivals × seeds in virtual time."""

import os
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ssjf.cli import scenario
from ssjf.errors import ConfigError, UserError

if TYPE_CHECKING:
    from ssjf.core.types import Policy
    from ssjf.metrics.summary import Summary
    from ssjf.metrics.table import JobTable
    from ssjf.sim.compare import Case, Laboratory
    from ssjf.sim.host import Host, Trace
    from ssjf.workload.items import WorkItem


def compare(
    *,
    workload: Annotated[
        Path | None, typer.Option(help="what is asked: CSV, JSONL or Parquet, .gz too; or give --lengths")
    ] = None,
    lengths: Annotated[
        str | None, typer.Option(help="generate answers of such lengths instead: paper, lognormal:180:1.1 ...")
    ] = None,
    input_lengths: Annotated[str, typer.Option(help="and prompts of such lengths")] = "constant:1",
    jobs: Annotated[int, typer.Option(help="requests of each cell, drawn anew for each seed")] = 20_000,
    policies: Annotated[
        str | None, typer.Option(help="names, separated by commas; default: all that are installed, and sjf")
    ] = None,
    predictors: Annotated[
        str | None, typer.Option(help="separated by commas; default: the file's column, or else lognormal:0.8")
    ] = None,
    loads: Annotated[
        str, typer.Option(help="arrival rates as shares of what keeps the host always busy")
    ] = "0.5,0.8,0.9",
    slots: Annotated[str, typer.Option(help="jobs that run at once")] = "1,8",
    arrivals: Annotated[str, typer.Option(help="poisson, gamma:CV, uniform, onoff, trace:FILE")] = "poisson",
    case: Annotated[
        list[str] | None,
        typer.Option(help="instead of the grid, single cases: slots=8,load=0.9,arrivals=onoff,predictor=column"),
    ] = None,
    seeds: Annotated[int, typer.Option(help="repetitions of each case")] = 5,
    base_seconds: Annotated[float, typer.Option(help="service seconds of any job")] = 0.1,
    seconds_per_token: Annotated[float, typer.Option(help="more for each output token")] = 0.02,
    seconds_per_input_token: Annotated[float, typer.Option(help="more for each input token")] = 0.0,
    cost_model: Annotated[
        Path | None,
        typer.Option(help="iteration by iteration, with costs from `ssjf calibrate`, instead of the seconds"),
    ] = None,
    kv_tokens: Annotated[
        int | None, typer.Option(help="with --cost-model: tokens that the KV cache holds; default: enough")
    ] = None,
    max_num_batched_tokens: Annotated[
        int, typer.Option(help="with --cost-model: tokens computed in one iteration")
    ] = 2048,
    prefix_hit_fraction: Annotated[
        float, typer.Option(help="with --cost-model: part of each prompt that the prefix cache has")
    ] = 0.0,
    max_wait_s: Annotated[float | None, typer.Option(help="once a job waited this long, nobody overtakes it")] = None,
    target_model: Annotated[str | None, typer.Option(help="whose lengths, in a file for several models")] = None,
    workers: Annotated[int | None, typer.Option(help="processes; default: one for each core")] = None,
    out: Annotated[Path, typer.Option(help="folder for summary.json and the pictures")] = Path("out/compare"),
) -> None:
    """Compare policies over many cases, all on the same jobs; a run that was stopped goes on where it was."""
    from importlib.metadata import version

    from ssjf.sim.compare import Laboratory, run

    scenario.at_least("jobs", jobs, 2)
    scenario.at_least("seeds", seeds, 1)
    workers = workers if workers is not None else os.cpu_count() or 1
    scenario.at_least("workers", workers, 1)
    if out.exists() and not out.is_dir():
        raise ConfigError(f"--out {out} is a file; name a folder")
    chosen = scenario.make_policies(policies or ",".join(_installed()))
    items = scenario.read_items(
        workload, lengths=lengths, input_lengths=input_lengths, jobs=jobs, target_model=target_model
    )
    if not items:
        raise ConfigError(f"{workload} has no rows")
    scenario.output_tokens(items)
    default_predictor = "column" if all(item.predicted_tokens is not None for item in items) else "lognormal:0.8"
    cases = _cases(case, slots, loads, arrivals, predictors or default_predictor)
    make_host = _Hosts(
        base_seconds=base_seconds,
        seconds_per_token=seconds_per_token,
        seconds_per_input_token=seconds_per_input_token,
        cost_model=cost_model,
        kv_tokens=kv_tokens,
        max_num_batched_tokens=max_num_batched_tokens,
        prefix_hit_fraction=prefix_hit_fraction,
        max_wait_s=max_wait_s,
    )
    _check(items, cases, make_host)
    laboratory = Laboratory(
        items=items,
        jobs=jobs,
        policies=chosen,
        host=make_host,
        trace=_trace,
        serve=_serve,
        fingerprint=f"{version('ssjf')} {make_host} {cost_model.read_text() if cost_model else ''}",
    )
    rows = _run(run, laboratory, cases, seeds, workers, out)
    _report(rows, cases, out)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Hosts:
    """Makes hosts that differ in their slots; picklable, unlike a closure."""

    base_seconds: float
    seconds_per_token: float
    seconds_per_input_token: float
    cost_model: Path | None
    kv_tokens: int | None
    max_num_batched_tokens: int
    prefix_hit_fraction: float
    max_wait_s: float | None

    def __call__(self, items: "Sequence[WorkItem]", slots: int) -> "Host":
        if self.cost_model is None:
            return scenario.linear_host(
                slots=slots,
                base_seconds=self.base_seconds,
                seconds_per_token=self.seconds_per_token,
                seconds_per_input_token=self.seconds_per_input_token,
                max_wait_s=self.max_wait_s,
            )
        return scenario.step_host(
            self.cost_model,
            items,
            slots=slots,
            kv_tokens=self.kv_tokens,
            max_num_batched_tokens=self.max_num_batched_tokens,
            prefix_hit_fraction=self.prefix_hit_fraction,
            max_wait_s=self.max_wait_s,
        )


def _installed() -> list[str]:
    from ssjf.plugins import POLICIES, names

    return ["fcfs", *(name for name in names(POLICIES) if name != "fcfs"), "sjf"]


def _cases(single: list[str] | None, slots: str, loads: str, arrivals: str, predictors: str) -> "list[Case]":
    from ssjf.sim.compare import Case

    if single:
        return [_case(text, predictors.split(",", maxsplit=1)[0].strip()) for text in single]
    return [
        Case(
            slots=_whole("slots", b),
            load=_positive("loads", rho),
            arrivals=process.strip(),
            predictor=predictor.strip(),
        )
        for b in slots.split(",")
        for process in arrivals.split(",")
        for predictor in predictors.split(",")
        for rho in loads.split(",")
    ]


def _case(text: str, predictor: str) -> "Case":
    from ssjf.sim.compare import Case

    pairs = dict(part.strip().partition("=")[::2] for part in text.split(","))
    if not {"slots", "load"} <= set(pairs) <= {"slots", "load", "arrivals", "predictor"}:
        raise ConfigError(f"--case {text!r}: expected slots=N,load=RHO and perhaps arrivals=..., predictor=...")
    return Case(
        slots=_whole("case slots", pairs["slots"]),
        load=_positive("case load", pairs["load"]),
        arrivals=pairs.get("arrivals", "poisson"),
        predictor=pairs.get("predictor", predictor),
    )


def _positive(name: str, text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = 0.0
    if not 0 < value < float("inf"):
        raise ConfigError(f"--{name}: {text.strip()!r} is not a positive number")
    return value


def _whole(name: str, text: str) -> int:
    value = _positive(name, text)
    if value != int(value):
        raise ConfigError(f"--{name}: {text.strip()!r} is not a whole number")
    return int(value)


def _check(items: "Sequence[WorkItem]", cases: "Sequence[Case]", make_host: Callable[..., "Host"]) -> None:
    """Make one of everything, so that what cannot work is said before the first cell."""
    from ssjf.workload.arrivals import parse_process

    for process in {case.arrivals for case in cases}:
        parse_process(process)
    for slots in {case.slots for case in cases}:
        make_host(items, slots)
    few = items[:64]
    for predictor in {case.predictor for case in cases}:
        trace = scenario.untimed_trace(few)
        scenario.with_predictions(trace, few, predictor, seed=0)


def _trace(items: "Sequence[WorkItem]", case: "Case", host: "Host", seed: int) -> "Trace":
    from dataclasses import replace

    from ssjf.workload.arrivals import parse_process

    trace = scenario.untimed_trace(items)
    rate = case.load * host.saturated_requests_per_s(trace.input_tokens, trace.output_tokens)
    times = parse_process(case.arrivals)(rate).times(len(items), seed)
    return scenario.with_predictions(
        replace(trace, arrival_s=times.tolist(), index=range(len(items))), items, case.predictor, seed
    )


def _serve(trace: "Trace", spec: str, policy: "Policy", host: "Host", seed: int) -> "JobTable":
    return scenario.run_policy(trace, spec, policy, host, seed=seed)


def _run(
    run: Callable[..., "list[Summary]"],
    laboratory: "Laboratory",
    cases: "Sequence[Case]",
    seeds: int,
    workers: int,
    out: Path,
) -> "list[Summary]":
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        TextColumn,
        TimeElapsedColumn,
        TimeRemainingColumn,
    )

    console = Console(stderr=True)
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    num_known = 0
    with Progress(*columns, TextColumn("left"), TimeRemainingColumn(), console=console, transient=True) as progress:
        bar = progress.add_task("comparing", total=len(cases) * seeds)

        def on_cell(known: bool) -> None:
            nonlocal num_known
            num_known += known
            progress.advance(bar)

        try:
            rows = run(laboratory, cases, seeds, folder=out / "cells", workers=workers, on_cell=on_cell)
        except KeyboardInterrupt:
            console.print("stopped; the same command goes on from here")
            raise typer.Exit(1) from None
    if num_known:
        console.print(f"{num_known} of {len(cases) * seeds} cells were there from an earlier run")
    return rows


def _report(rows: "Sequence[Summary]", cases: "Sequence[Case]", out: Path) -> None:
    from rich.console import Console

    from ssjf.metrics.summary import write_summary
    from ssjf.report.frontier import frontier, gain_over_load
    from ssjf.report.style import save

    write_summary(out / "summary.json", rows)
    written = ["summary.json"]
    console = Console(highlight=False)
    for case in cases:
        console.print(_table([row for row in rows if all(row[k] == v for k, v in asdict(case).items())], str(case)))
    console.print(
        "share: of the oracle's gain, with its 95 % interval over seeds; p90, p99 and max: completion times over those "
        "of FCFS. Bold: p90 ≤ 1.08, p99 ≤ 1.05 and max ≤ 1.10."
    )
    try:
        save(frontier(rows), out / "frontier.png")
        written.append("frontier.png")
        if len({case.load for case in cases}) > 1:
            save(gain_over_load(rows), out / "gain.png")
            written.append("gain.png")
    except UserError as error:  # no matplotlib: the figures are there all the same
        console.print(f"no pictures: {error}")
    console.print(f"written to {out}: {', '.join(written)}", soft_wrap=True)


def _table(rows: "Sequence[Summary]", title: str) -> Any:
    from rich.table import Table

    from ssjf.metrics.summary import interval95
    from ssjf.sim.compare import LIMITS, TAIL

    table = Table(title=title, title_justify="left")
    table.add_column("policy", no_wrap=True)
    for heading in ("mean s", "gain", "share", "p90", "p99", "max"):
        table.add_column(heading, justify="right", no_wrap=True)
    for policy in dict.fromkeys(row["policy"] for row in rows):
        own = [row for row in rows if row["policy"] == policy]
        mean = {key: interval95([row[key] for row in own])[0] for key in ("mean_jct_s", "gain", *TAIL)}
        shares = [row["oracle_share"] for row in own if row["oracle_share"] is not None]
        share = "–"
        if shares:
            value, half = interval95(shares)
            share = f"{value:.3f}" + (f" ±{half:.3f}" if half is not None else "")
        bold = "bold" if policy not in ("fcfs", "sjf") and all(mean[k] <= limit for k, limit in LIMITS.items()) else ""
        table.add_row(
            policy,
            f"{mean['mean_jct_s']:.2f}",
            f"{mean['gain']:.1%}",
            share,
            *(f"{mean[key]:.2f}" for key in TAIL),
            style=bold,
        )
    return table
