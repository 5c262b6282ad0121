"""`ssjf simulate`: one workload, several policies, under virtual time."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ssjf.cli.folders import check_folder, make_folder
from ssjf.cli.simulation import options, scenario
from ssjf.errors import ConfigError

if TYPE_CHECKING:
    from ssjf.core.types import Policy
    from ssjf.metrics.summary import Summary
    from ssjf.metrics.table import JobTable
    from ssjf.sim.host import Host, LinearHost, StepHost
    from ssjf.workload.items import WorkItem

_ORACLE = "(oracle)"


def simulate(
    *,
    workload: Annotated[
        Path | None, typer.Option(help="what is asked: CSV, JSONL or Parquet, .gz too; or give --lengths")
    ] = None,
    lengths: Annotated[
        str | None, typer.Option(help="generate answers of such lengths instead: paper, lognormal:180:1.1 ...")
    ] = None,
    input_lengths: options.InputLengths = None,
    jobs: Annotated[int | None, typer.Option(help="with --lengths: so many of them; default: 10000")] = None,
    policy: Annotated[
        str, typer.Option(help="names, separated by commas; sjf and srpt know the truth")
    ] = "fcfs,ssjf,sjf",
    batching: Annotated[str, typer.Option(help=" | ".join(scenario.BATCHINGS))] = "continuous",
    slots: Annotated[int, typer.Option(help="jobs that run at once")] = 1,
    batch_wait_s: options.BatchWaitS = None,
    base_seconds: options.BaseSeconds = None,
    seconds_per_token: options.SecondsPerToken = None,
    seconds_per_input_token: options.SecondsPerInputToken = None,
    cost_model: options.CostModel = None,
    kv_tokens: options.KVTokens = None,
    max_num_batched_tokens: options.MaxNumBatchedTokens = None,
    prefix_hit_fraction: options.PrefixHitFraction = None,
    prefix_lifetime_s: options.PrefixLifetimeS = None,
    predictor: Annotated[
        str | None, typer.Option(help="column, a noise model (lognormal:0.8 ...), a predictor's name or folder")
    ] = None,
    predictor_seconds: Annotated[
        float, typer.Option(help="latency of the predictor, paid before a job may wait")
    ] = 0.0,
    arrivals: Annotated[
        str | None, typer.Option(help="generate arrivals instead of those in the file: poisson:RATE, gamma:RATE:CV ...")
    ] = None,
    seeds: Annotated[int, typer.Option(help="repetitions, where something is generated")] = 1,
    max_wait_s: options.MaxWaitS = None,
    tenant_weights: Annotated[
        str | None, typer.Option(help="share out service over tenants: gold=3,free=1; who is not named has 1")
    ] = None,
    target_model: options.TargetModel = None,
    limit: Annotated[int | None, typer.Option(help="only so many rows of the file")] = None,
    out: Annotated[Path, typer.Option(help="folder for jobs.csv, summary.json and the picture")] = Path("out/simulate"),
) -> None:
    """Serve one workload under several policies in virtual time, with the code that serves real requests."""
    scenario.at_least("predictor-seconds", predictor_seconds, 0)
    scenario.at_least("seeds", seeds, 1)
    policies = scenario.make_policies(policy)
    if workload is not None and jobs is not None:
        raise ConfigError("--jobs goes with --lengths; of a workload file --limit takes the first rows")

    def items_of(seed: int) -> "list[WorkItem]":
        return scenario.read_items(
            workload,
            lengths=lengths,
            input_lengths=input_lengths,
            jobs=10_000 if jobs is None else jobs,
            target_model=target_model,
            limit=limit,
            seed=seed,
        )

    items = items_of(0)
    host = scenario.make_host(
        cost_model,
        items,
        slots=slots,
        batching=batching,
        batch_wait_s=batch_wait_s,
        base_seconds=base_seconds,
        seconds_per_token=seconds_per_token,
        seconds_per_input_token=seconds_per_input_token,
        kv_tokens=kv_tokens,
        max_num_batched_tokens=max_num_batched_tokens,
        prefix_hit_fraction=prefix_hit_fraction,
        prefix_lifetime_s=prefix_lifetime_s,
        max_wait_s=max_wait_s,
    )
    if tenant_weights is not None:
        host = replace(host, tenant_weights=scenario.parse_weights(tenant_weights))
        if names := [name for name, policy in policies.items() if getattr(policy, "preemptive", False)]:
            raise ConfigError(f"policy {names[0]} preempts, which would undo fairness over tenants")
    scenario.check_batching(host, policies)
    check_folder(out)
    runs = _run(
        lambda seed: items if lengths is None or not seed else items_of(seed),
        policies,
        host,
        predictor=predictor,
        predictor_seconds=predictor_seconds,
        arrivals=arrivals,
        seeds=seeds,
    )
    _report(runs, host, seeds, out)


def _run(
    items_of: "Callable[[int], Sequence[WorkItem]]",
    policies: "dict[str, Policy]",
    host: "LinearHost | StepHost",
    *,
    predictor: str | None,
    predictor_seconds: float,
    arrivals: str | None,
    seeds: int,
) -> "list[dict[str, JobTable]]":
    """The tables of each seed by policy; fcfs and the oracle are always among them, to compare with.

    The oracle has neither wait bound nor weights, whatever the others have.
    """
    from rich.progress import track

    from ssjf.core.policies import FCFS, SSJF

    wanted: dict[str, Policy] = {**policies, "fcfs": FCFS(), _ORACLE: SSJF()}
    free = replace(host, max_wait_s=None, tenant_weights=None)
    needed = any(not scenario.is_oracle(name) and not scenario.is_blind(name) for name in policies)
    runs: list[dict[str, JobTable]] = []
    work = [(seed, name) for seed in range(seeds) for name in wanted]
    for seed, name in track(work, description="simulating", transient=True):
        if seed == len(runs):
            items = items_of(seed)
            trace = scenario.with_predictions(
                scenario.make_trace(items, arrivals, seed), items, predictor, seed, needed=needed
            )
            runs.append({})
        runs[seed][name] = scenario.run_policy(
            trace,
            "sjf" if name == _ORACLE else name,
            wanted[name],
            free if name == _ORACLE else host,
            seed=seed,
            predictor_seconds=predictor_seconds,
        )
    for run in runs:
        if "fcfs" not in policies:
            run["(fcfs)"] = run.pop("fcfs")
    return runs


def _report(runs: "list[dict[str, JobTable]]", host: "Host", seeds: int, out: Path) -> None:
    from rich.console import Console

    from ssjf.metrics.summary import summarize, write_summary
    from ssjf.metrics.table import write_jobs_csv
    from ssjf.report.figures import completion_times
    from ssjf.report.style import saved

    summaries: list[Summary] = []
    for run in runs:
        fcfs, oracle = run.get("fcfs", run.get("(fcfs)")), run[_ORACLE]
        assert fcfs is not None
        alone_s = host.alone_s(fcfs.input_tokens.tolist(), fcfs.output_tokens.tolist())
        summaries += [
            summarize(table, fcfs=fcfs, oracle=oracle, alone_s=alone_s)
            for name, table in run.items()
            if not name.startswith("(")
        ]
    shown = {name: table for name, table in runs[0].items() if not name.startswith("(")}
    make_folder(out)
    write_jobs_csv(out / "jobs.csv", [table for run in runs for name, table in run.items() if name in shown])
    write_summary(out / "summary.json", summaries)
    picture = saved(lambda: completion_times(shown), out / "completion_times.png")
    console = Console()
    console.print(_figures(summaries, seeds))
    console.print(f"written: {out}/jobs.csv, summary.json, {picture}", highlight=False, markup=False)


def _figures(summaries: "Sequence[Summary]", seeds: int) -> Any:
    from rich.table import Table

    from ssjf.metrics.summary import interval95

    title = "completion times in seconds" + (
        f", mean over {seeds} seeds; the gain with its 95 % interval" if seeds > 1 else ""
    )
    table = Table(title=title, title_justify="left")
    table.add_column("policy", no_wrap=True)
    for heading in ("mean", "p50", "p90", "p99", "max", "slow ×", "gain", "oracle's"):
        table.add_column(heading, justify="right", no_wrap=True)
    for name in dict.fromkeys(row["policy"] for row in summaries):
        rows = [row for row in summaries if row["policy"] == name]
        cells = []
        for key, show in (
            *((f"{k}_jct_s", _seconds) for k in ("mean", "p50", "p90", "p99", "max")),
            ("mean_slowdown", _seconds),
            ("gain", "{:.1%}".format),
            ("oracle_share", "{:.0%}".format),
        ):
            values = [row[key] for row in rows if row[key] is not None]
            if not values:
                cells.append("–")
                continue
            mean, half = interval95(values)
            # an interval of the gain, where common arrivals make it narrow; the others' would fill the screen
            cells.append(show(mean) + (f" ±{show(half)}" if half is not None and key == "gain" else ""))
        table.add_row(name, *cells)
    return table


def _seconds(value: float) -> str:
    """Three digits are enough to compare."""
    return f"{value:.0f}" if value >= 100 else f"{value:.1f}" if value >= 10 else f"{value:.2f}"
