"""`ssjf simulate`: one workload, several policies, under virtual time."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ssjf.cli.folders import check_folder, make_folder
from ssjf.cli.simulation import options, scenario
from ssjf.errors import ConfigError

if TYPE_CHECKING:
    from ssjf.core.types import Policy
    from ssjf.metrics.summary import Summary
    from ssjf.metrics.table import Floats, JobTable
    from ssjf.sim.host import LinearHost, StepHost, Trace
    from ssjf.workload.items import WorkItem

_REFERENCES = {"fcfs": "(fcfs)", "sjf": "(oracle)"}  # what all are compared with, and its name beside theirs


@dataclass(frozen=True)
class _Run:
    """What one seed gave.

    Attributes:
        tables: by policy, in the order asked for.
        fcfs, oracle: what they are compared with: on a host without wait bound and weights, whatever the others have.
        alone_s: seconds that each job takes on the idle host.
    """

    tables: "dict[str, JobTable]"
    fcfs: "JobTable"
    oracle: "JobTable"
    alone_s: "Floats"

    def summaries(self) -> "list[Summary]":
        """One for each policy."""
        from ssjf.metrics.summary import summarize

        return [
            summarize(table, fcfs=self.fcfs, oracle=self.oracle, alone_s=self.alone_s) for table in self.tables.values()
        ]


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

    weights = None if tenant_weights is None else scenario.parse_weights(tenant_weights)

    def host_of(items: "Sequence[WorkItem]") -> "LinearHost | StepHost":
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
        return replace(host, tenant_weights=weights)

    items = items_of(0)
    host = host_of(items)

    def drawn(seed: int) -> "tuple[Sequence[WorkItem], LinearHost | StepHost]":
        """What is asked of which host: what an engine holds, and how it values a token, follow from what is asked."""
        if lengths is None or not seed:
            return items, host
        others = items_of(seed)
        return others, host_of(others)

    if weights is not None and (names := [name for name, p in policies.items() if getattr(p, "preemptive", False)]):
        raise ConfigError(f"policy {names[0]} preempts, which would undo fairness over tenants")
    scenario.check_batching(host, policies)
    check_folder(out)
    runs = _run(
        drawn, policies, predictor=predictor, predictor_seconds=predictor_seconds, arrivals=arrivals, seeds=seeds
    )
    told = {name for name in policies if not scenario.is_oracle(name) and not scenario.is_blind(name)}
    trained_on = scenario.num_trained_on(items, predictor) if told else None
    summaries = [
        {**summary, "predictor_trained_on": trained_on if summary["policy"] in told else None}
        for run in runs
        for summary in run.summaries()
    ]
    _report(runs, summaries, seeds, scenario.training_warnings({predictor: trained_on}, len(items)), out)


def _run(
    drawn: "Callable[[int], tuple[Sequence[WorkItem], LinearHost | StepHost]]",
    policies: "dict[str, Policy]",
    *,
    predictor: str | None,
    predictor_seconds: float,
    arrivals: str | None,
    seeds: int,
) -> list[_Run]:
    """One run for each seed; one in all where seeds make no difference."""
    from rich.progress import track

    from ssjf.core.policies import FCFS, SSJF

    needed = any(not scenario.is_oracle(name) and not scenario.is_blind(name) for name in policies)
    references: tuple[Policy, ...] = (FCFS(), SSJF())
    runs: list[_Run] = []
    before: Trace | None = None
    for seed in range(seeds):
        items, host = drawn(seed)
        trace = scenario.make_trace(items, arrivals, seed)
        trace = scenario.with_predictions(trace, items, predictor, seed, needed=needed)
        asked = trace if needed else replace(trace, predicted_tokens=None, predicted_quantiles=())
        if asked == before:
            break
        before = asked
        free = replace(host, max_wait_s=None, tenant_weights=None)
        work = {name: (name, policy, host) for name, policy in policies.items()}
        for (name, hidden), reference in zip(_REFERENCES.items(), references, strict=True):
            if name not in policies or host != free:
                work[hidden] = (name, reference, free)
        tables = {
            label: scenario.run_policy(trace, *what, seed=seed, predictor_seconds=predictor_seconds)
            for label, what in track(work.items(), description="simulating", transient=True)
        }
        fcfs, oracle = (tables.get(hidden, tables.get(name)) for name, hidden in _REFERENCES.items())
        assert fcfs is not None
        assert oracle is not None
        alone_s = host.alone_s(trace.input_tokens, trace.output_tokens)
        runs.append(_Run({name: tables[name] for name in policies}, fcfs, oracle, alone_s))
    return runs


def _report(
    runs: Sequence[_Run], summaries: "Sequence[Summary]", seeds: int, warnings: Sequence[str], out: Path
) -> None:
    from rich.console import Console

    from ssjf.metrics.summary import write_summary
    from ssjf.metrics.table import write_jobs_csv
    from ssjf.report.figures import completion_times
    from ssjf.report.style import saved

    make_folder(out)
    write_jobs_csv(out / "jobs.csv", [table for run in runs for table in run.tables.values()])
    write_summary(out / "summary.json", summaries)
    picture = saved(lambda: completion_times(runs[0].tables), out / "completion_times.png")
    console = Console()
    console.width = max(console.width, 120)  # where output goes to a file, rich would cut columns at 80
    console.print(_figures(summaries, len(runs)))
    if len(runs) < seeds:
        console.print(f"nothing here is drawn: {seeds} seeds would be {seeds} times the same run, so there is one")
    for warning in warnings:
        console.print(warning, highlight=False, markup=False, soft_wrap=True)
    console.print(f"written: {out}/jobs.csv, summary.json, {picture}", highlight=False, markup=False, soft_wrap=True)


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
            # and none of a gain that no draw changes, such as FCFS's or that of an oracle with the arrivals of a file
            varies = key == "gain" and len(set(values)) > 1
            cells.append(show(mean) + (f" ±{show(half)}" if half is not None and varies else ""))
        table.add_row(name, *cells)
    return table


def _seconds(value: float) -> str:
    """Three digits are enough to compare."""
    return f"{value:.0f}" if value >= 100 else f"{value:.1f}" if value >= 10 else f"{value:.2f}"
