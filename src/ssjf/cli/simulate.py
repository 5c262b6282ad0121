"""`ssjf simulate`: one workload, several policies, under virtual time."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ssjf.errors import ConfigError, DataError, did_you_mean

if TYPE_CHECKING:
    from ssjf.core.batching import Batching
    from ssjf.core.types import Policy
    from ssjf.metrics.summary import Summary
    from ssjf.metrics.table import JobTable
    from ssjf.sim.linear import Host, Trace
    from ssjf.workload.items import WorkItem

_BATCHINGS = ("none", "static", "dynamic", "continuous")
_ORACLES = ("sjf", "srpt")  # policies that know the truth, which only a simulation can offer


def simulate(
    *,
    workload: Annotated[Path, typer.Option(help="what is asked: CSV, JSONL or Parquet, .gz too")],
    policy: Annotated[
        str, typer.Option(help="names, separated by commas; sjf and srpt know the truth")
    ] = "fcfs,ssjf,sjf",
    batching: Annotated[str, typer.Option(help=" | ".join(_BATCHINGS))] = "continuous",
    slots: Annotated[int, typer.Option(help="jobs that run at once")] = 1,
    batch_wait_s: Annotated[float, typer.Option(help="dynamic: how long a batch may wait to fill")] = 1.0,
    base_seconds: Annotated[float, typer.Option(help="service seconds of any job")] = 0.1,
    seconds_per_token: Annotated[float, typer.Option(help="more for each output token")] = 0.02,
    seconds_per_input_token: Annotated[float, typer.Option(help="more for each input token")] = 0.0,
    predictor: Annotated[
        str | None, typer.Option(help="column, a noise model (lognormal:0.8 ...), a predictor's name or folder")
    ] = None,
    predictor_seconds: Annotated[
        float, typer.Option(help="latency of the predictor, paid before a job may wait")
    ] = 0.0,
    arrivals: Annotated[str | None, typer.Option(help="generate arrivals instead of those in the file")] = None,
    seeds: Annotated[int, typer.Option(help="repetitions, where something is generated")] = 1,
    max_wait_s: Annotated[float | None, typer.Option(help="once a job waited this long, nobody overtakes it")] = None,
    target_model: Annotated[str | None, typer.Option(help="whose lengths, in a file for several models")] = None,
    limit: Annotated[int | None, typer.Option(help="only so many rows")] = None,
    out: Annotated[Path, typer.Option(help="folder for jobs.csv, summary.json and the picture")] = Path("out/simulate"),
) -> None:
    """Serve one workload under several policies in virtual time, with the code that serves real requests."""
    from ssjf.core.service import LinearServiceModel
    from ssjf.sim.linear import Host
    from ssjf.workload.reader import read_workload

    for name, value in (("seconds-per-token", seconds_per_token), ("base-seconds", base_seconds)):
        _at_least(name, value, 0)
    _at_least("seconds-per-input-token", seconds_per_input_token, 0)
    _at_least("predictor-seconds", predictor_seconds, 0)
    _at_least("slots", slots, 1)
    _at_least("seeds", seeds, 1)
    if max_wait_s is not None:
        _at_least("max-wait-s", max_wait_s, 0)
    policies = {spec: _policy(spec) for spec in dict.fromkeys(part.strip() for part in policy.split(",")) if spec}
    if not policies:
        raise ConfigError("--policy names no policy")
    host = Host(
        slots=slots,
        batching=_batching(batching, slots, batch_wait_s),
        service=LinearServiceModel(base_seconds, seconds_per_input_token, seconds_per_token),
        max_wait_s=max_wait_s,
    )
    if host.batching.ends_together and (names := [n for n, p in policies.items() if getattr(p, "preemptive", False)]):
        raise ConfigError(f"policy {names[0]} preempts, which a batch that ends together does not allow")
    items = read_workload(workload, target_model=target_model)[:limit]
    runs = _run(
        items,
        policies,
        host,
        predictor=predictor,
        predictor_seconds=predictor_seconds,
        arrivals=arrivals,
        seeds=seeds,
    )
    _report(runs, host, seeds, out)


def _policy(spec: str) -> "Policy":
    from ssjf.core.policies import SSJF
    from ssjf.plugins import POLICIES, make_policy, names

    if spec == "sjf":
        return SSJF()
    if spec.partition(":")[0] not in (known := names(POLICIES)):
        raise ConfigError(f"no policy named {spec!r}; {did_you_mean(spec, [*known, 'sjf'])}")
    return make_policy(spec)


def _batching(name: str, slots: int, batch_wait_s: float) -> "Batching":
    from ssjf.core.batching import Continuous, Dynamic, Static

    if name == "none" and slots > 1:
        raise ConfigError(f"--batching none serves one job at a time; with --slots {slots} choose another")
    _at_least("batch-wait-s", batch_wait_s, 0)
    kinds: dict[str, Batching] = {
        "none": Continuous(),
        "static": Static(),
        "dynamic": Dynamic(batch_wait_s),
        "continuous": Continuous(),
    }
    if name not in kinds:
        raise ConfigError(f"no batching named {name!r}; {did_you_mean(name, _BATCHINGS)}")
    return kinds[name]


def _at_least(name: str, value: float, least: float) -> None:
    if not least <= value < float("inf"):
        raise ConfigError(f"--{name} must be a finite number of at least {least:g}, not {value:g}")


def _run(
    items: "Sequence[WorkItem]",
    policies: "dict[str, Policy]",
    host: "Host",
    *,
    predictor: str | None,
    predictor_seconds: float,
    arrivals: str | None,
    seeds: int,
) -> "list[dict[str, JobTable]]":
    """The tables of each seed by policy; fcfs and sjf are always among them, to compare with."""
    from rich.progress import track

    from ssjf.core.policies import FCFS, SSJF
    from ssjf.sim.linear import simulate as serve

    wanted: dict[str, Policy] = {**policies, "fcfs": FCFS(), "sjf": SSJF()}
    generated = [_trace(items, wanted, predictor, arrivals, seed) for seed in range(seeds)]
    runs: list[dict[str, JobTable]] = [{} for _ in range(seeds)]
    work = [(seed, name) for seed in range(seeds) for name in wanted]
    for seed, name in track(work, description="simulating", transient=True):
        trace = generated[seed]
        if name in _ORACLES:
            trace = replace(trace, predicted_tokens=None, predicted_quantiles=())
        elif predictor_seconds and name != "fcfs":
            trace = replace(trace, arrival_s=[instant + predictor_seconds for instant in trace.arrival_s])
        table = serve(trace, wanted[name], host, label=name, seed=seed)
        if trace.arrival_s is not generated[seed].arrival_s:
            table = replace(table, arrival_s=table.arrival_s - predictor_seconds)  # the wait for it is part of the JCT
        runs[seed][name] = table
    for run in runs:
        for reference in ("fcfs", "sjf"):
            if reference not in policies:
                run[f"({reference})"] = run.pop(reference)
    return runs


def _trace(
    items: "Sequence[WorkItem]", policies: "dict[str, Policy]", predictor: str | None, arrivals: str | None, seed: int
) -> "Trace":
    from ssjf.sim.linear import Trace
    from ssjf.workload.arrivals import parse_arrivals

    output_tokens = []
    for item in items:
        if item.output_tokens is None:
            raise DataError(f"row {item.index + 1} has no output length, so it cannot be simulated")
        output_tokens.append(item.output_tokens)
    if arrivals is not None:
        arrival_s = [float(instant) for instant in parse_arrivals(arrivals).times(len(items), seed)]
    else:
        arrival_s = []
        for item in items:
            if item.arrival_s is None:
                raise ConfigError("the workload has no arrival times; generate them, for example --arrivals poisson:2")
            arrival_s.append(item.arrival_s)
    needs_prediction = [name for name in policies if name not in ("fcfs", *_ORACLES)]
    predicted, quantiles = _predictions(items, output_tokens, predictor, seed, needed=bool(needs_prediction))
    return Trace(
        index=[item.index for item in items],
        arrival_s=arrival_s,
        input_tokens=[item.input_tokens for item in items],
        output_tokens=output_tokens,
        predicted_tokens=predicted,
        predicted_quantiles=quantiles,
    )


def _predictions(
    items: "Sequence[WorkItem]", output_tokens: Sequence[int], predictor: str | None, seed: int, *, needed: bool
) -> tuple[Sequence[float] | None, Sequence[tuple[tuple[float, float], ...]]]:
    from ssjf.core.types import Request
    from ssjf.openai import render_messages
    from ssjf.predict.artefact import load_predictor
    from ssjf.sim.noise import parse_noise, predict_all

    column = [item.predicted_tokens for item in items]
    if predictor in (None, "column"):
        known = [tokens for tokens in column if tokens is not None]
        if len(known) == len(column):
            return known, ()
        if not needed and predictor is None:
            return None, ()
        raise ConfigError(
            "the workload has no column predicted_tokens for every row; choose where predictions come from, for "
            "example --predictor lognormal:0.8, or the folder of a trained predictor"
        )
    noise = parse_noise(predictor)
    if noise is not None:
        return predict_all(noise, output_tokens, seed=seed), ()
    if any(item.prompt is None for item in items):
        raise ConfigError(f"predictor {predictor!r} reads prompts, and the workload has none; use a noise model")
    requests = [
        Request(
            request_id=str(item.index),
            prompt=item.prompt if isinstance(item.prompt, str) else render_messages(item.prompt),
            num_prompt_tokens=item.input_tokens,
            arrival_time=0.0,
            model=item.model,
        )
        for item in items
    ]
    predictions = load_predictor(predictor).predict(requests)
    return [p.num_output_tokens for p in predictions], [p.quantiles for p in predictions]


def _report(runs: "list[dict[str, JobTable]]", host: "Host", seeds: int, out: Path) -> None:
    from rich.console import Console

    from ssjf.metrics.summary import summarize, write_summary
    from ssjf.metrics.table import write_jobs_csv
    from ssjf.report.figures import completion_times, save

    summaries: list[Summary] = []
    for run in runs:
        fcfs, oracle = run.get("fcfs", run.get("(fcfs)")), run.get("sjf", run.get("(sjf)"))
        assert fcfs is not None
        alone_s = host.service.base_s + (
            host.service.per_input_token_s * fcfs.input_tokens + host.service.per_output_token_s * fcfs.output_tokens
        )
        summaries += [
            summarize(table, fcfs=fcfs, oracle=oracle, alone_s=alone_s)
            for name, table in run.items()
            if not name.startswith("(")
        ]
    shown = {name: table for name, table in runs[0].items() if not name.startswith("(")}
    picture = completion_times(shown)
    out.mkdir(parents=True, exist_ok=True)
    write_jobs_csv(out / "jobs.csv", [table for run in runs for name, table in run.items() if name in shown])
    write_summary(out / "summary.json", summaries)
    save(picture, out / "completion_times.png")
    console = Console()
    console.print(_figures(summaries, seeds))
    console.print(f"written: {out}/jobs.csv, summary.json, completion_times.png", highlight=False)


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
