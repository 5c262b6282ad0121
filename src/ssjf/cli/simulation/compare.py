"""`ssjf compare`: the laboratory, a grid of policies × predictors × loads × slots × arrivals × seeds."""

import os
import signal
from collections.abc import Sequence
from contextlib import closing, contextmanager
from dataclasses import replace
from itertools import product
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ssjf.cli.folders import check_folder, make_folder
from ssjf.cli.simulation import options, scenario
from ssjf.errors import ConfigError, DataError, PluginError, SSJFError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from ssjf.metrics.summary import Summary
    from ssjf.sim.compare import Case, Grid, Laboratory, Source
    from ssjf.sim.host import Host
    from ssjf.workload.arrivals import Process
    from ssjf.workload.items import WorkItem

_CLASSES = "column:pred_class"  # a predictor: the mean length of the class that a column pred_class<N> names


def compare(
    *,
    workload: Annotated[
        Path | None, typer.Option(help="what is asked: CSV, JSONL or Parquet, .gz too; or give --lengths")
    ] = None,
    lengths: Annotated[
        str | None, typer.Option(help="generate answers of such lengths instead: paper, lognormal:180:1.1 ...")
    ] = None,
    input_lengths: options.InputLengths = None,
    jobs: Annotated[int, typer.Option(help="requests of each cell, drawn anew for each seed")] = 20_000,
    policies: Annotated[
        str | None, typer.Option(help="names, separated by commas; default: all that are installed, and sjf")
    ] = None,
    predictors: Annotated[
        str | None,
        typer.Option(
            help="column, column:pred_class5 (means of classes), lognormal:0.8, trained ones, with commas between; "
            "default: the file's column, else lognormal:0.8"
        ),
    ] = None,
    loads: Annotated[str, typer.Option(help="arrival rates over what the host can serve")] = "0.5,0.8,0.9,0.95",
    slots: Annotated[str, typer.Option(help="jobs that run at once")] = "1,8",
    arrivals: Annotated[
        str, typer.Option(help="poisson, gamma:CV, uniform, onoff, trace:FILE, or own: the file's rows as they came")
    ] = "poisson",
    case: Annotated[
        list[str] | None,
        typer.Option(help="only such cases: slots=8,load=0.9,arrivals=onoff; what is left out is as in the grid"),
    ] = None,
    seeds: Annotated[int, typer.Option(help="repetitions of each case")] = 5,
    batching: Annotated[str, typer.Option(help="continuous | static | dynamic")] = "continuous",
    batch_wait_s: options.BatchWaitS = None,
    base_seconds: options.BaseSeconds = None,
    seconds_per_token: options.SecondsPerToken = None,
    seconds_per_input_token: options.SecondsPerInputToken = None,
    cost_model: options.CostModel = None,
    kv_tokens: options.KVTokens = None,
    max_num_batched_tokens: options.MaxNumBatchedTokens = None,
    prefix_hit_fraction: options.PrefixHitFraction = None,
    prefix_lifetime_s: options.PrefixLifetimeS = None,
    max_wait_s: options.MaxWaitS = None,
    target_model: options.TargetModel = None,
    workers: Annotated[int | None, typer.Option(help="processes; default: one for each core")] = None,
    out: Annotated[Path, typer.Option(help="folder for summary.json, pictures and finished cells")] = Path(
        "out/compare"
    ),
) -> None:
    """Compare policies over many cases, all on the same jobs; a run that was stopped goes on where it was."""
    from rich.console import Console

    from ssjf.sim.compare import Grid, Laboratory

    scenario.at_least("jobs", jobs, 2)
    scenario.at_least("seeds", seeds, 1)
    workers = workers if workers is not None else os.cpu_count() or 1
    scenario.at_least("workers", workers, 1)
    check_folder(out)
    cases = _cases(case, slots, loads, arrivals)
    items = _items(workload, lengths, input_lengths, target_model)
    if predictors is None:
        predictors = scenario.default_predictor(items)
    told = _words("predictors", predictors)
    source = _source(items, workload, lengths, input_lengths, told)
    processes = _processes(cases, items, jobs)

    def host(sample: "Sequence[WorkItem]", num_slots: int, wait_s: float | None) -> "Host":
        made = scenario.make_host(
            cost_model,
            sample,
            slots=num_slots,
            batching=batching,
            batch_wait_s=batch_wait_s,
            base_seconds=base_seconds,
            seconds_per_token=seconds_per_token,
            seconds_per_input_token=seconds_per_input_token,
            kv_tokens=kv_tokens,
            max_num_batched_tokens=max_num_batched_tokens,
            prefix_hit_fraction=prefix_hit_fraction,
            prefix_lifetime_s=prefix_lifetime_s,
            max_wait_s=wait_s,
        )
        if cost_model is not None:
            scenario.at_least("jobs", min(jobs, len(sample)), num_slots + 1)  # fewer never keep the engine busy
        elif not made.alone_s([item.input_tokens for item in sample], scenario.output_tokens(sample)).min() > 0:
            raise ConfigError("some requests take no time at all; give --base-seconds more than 0")
        return made

    hosts = _hosts(host, cases, seeds, items, source, jobs, max_wait_s)
    laboratory = Laboratory(
        source=source,
        jobs=jobs,
        processes=processes,
        hosts=hosts,
        oracle_hosts=hosts if max_wait_s is None else _hosts(host, cases, seeds, items, source, jobs, None),
    )
    chosen, notes = _policies(policies, next(iter(hosts.values())), items)
    grid = Grid(
        cases=cases,
        policies=chosen,
        untold=frozenset(spec for spec in chosen if spec == "fcfs" or scenario.is_oracle(spec)),
        predictors=told,
        seeds=seeds,
        is_bounded=max_wait_s is not None,
    )
    console = Console(stderr=True, highlight=False)
    for note in notes:
        console.print(note, soft_wrap=True, markup=False)
    rows = _run(laboratory, grid, workers, out, console)
    trained_on: dict[str | None, int | None] = {
        predictor: scenario.num_trained_on(items, predictor) for predictor in told
    }
    for row in rows:
        row["predictor_trained_on"] = trained_on.get(row["predictor"])
    _report(rows, scenario.training_warnings(trained_on, len(items)), out)


def _words(option: str, text: str) -> list[str]:
    words = list(dict.fromkeys(word for part in text.split(",") if (word := part.strip())))
    if not words:
        raise ConfigError(f"--{option} names nothing")
    return words


def _cases(only: list[str] | None, slots: str, loads: str, arrivals: str) -> "list[Case]":
    """The grid; or for each of the cases named, the part of it in which what it names has the value it names."""
    from ssjf.sim.compare import Case

    grid = {"arrivals": arrivals, "slots": slots, "load": loads}
    options = {"arrivals": "arrivals", "slots": "slots", "load": "loads"}
    cases: list[Case] = []
    for text in only or [""]:
        pairs = [part.partition("=") for part in text.split(",") if part.strip()]
        named = {name.strip(): value.strip() for name, _, value in pairs}
        if not set(named) <= set(grid) or not all(named.values()) or len(named) < len(pairs):
            raise ConfigError(f"--case {text!r}: expected something like slots=8,load=0.9,arrivals=poisson")
        axes = [_words(options[axis], named.get(axis, values)) for axis, values in grid.items()]
        cases += [
            Case(slots=int(_number("slots", width, whole=True)), load=_number("loads", load), arrivals=process)
            for process, width, load in product(*axes)
        ]
    return list(dict.fromkeys(cases))


def _number(option: str, text: str, *, whole: bool = False) -> float:
    try:
        value = float(text)
    except ValueError:
        value = 0.0
    if not 1e-6 <= value <= 1e6 or (whole and value != int(value)):
        raise ConfigError(
            f"--{option}: {text!r} is not a positive {'whole ' if whole else ''}number of up to a million"
        )
    return value


def _items(
    workload: Path | None, lengths: str | None, input_lengths: str | None, target_model: str | None
) -> "list[WorkItem]":
    """The rows of the file, by their arrivals if all have one; none where lengths are to be generated."""
    if lengths is not None and workload is None:
        scenario.refuse(scenario.WITHOUT_FILE, target_model=target_model)
        return []
    items = scenario.read_items(workload, lengths=lengths, input_lengths=input_lengths, target_model=target_model)
    return sorted(items, key=lambda item: item.arrival_s or 0.0)


def _source(
    items: "Sequence[WorkItem]",
    workload: Path | None,
    lengths: str | None,
    input_lengths: str | None,
    predictors: list[str],
) -> "Source":
    from ssjf.sim.compare import Generated, Recorded
    from ssjf.sim.noise import parse_noise
    from ssjf.workload.generated.lengths import parse_lengths

    asked = [predictor for predictor in predictors if parse_noise(predictor) is None]
    if workload is None:
        assert lengths is not None
        if asked:
            raise ConfigError(f"predictor {asked[0]!r} needs a --workload; for --lengths use a noise model")
        return Generated(
            outputs=parse_lengths(lengths), inputs=parse_lengths(input_lengths or scenario.SHORTEST_PROMPTS)
        )
    rows = scenario.untimed_trace(items)
    predicted = {}
    for predictor in asked:
        if predictor.startswith(_CLASSES):
            predicted[predictor] = replace(rows, predicted_tokens=_class_means(items, workload, predictor))
        else:
            predicted[predictor] = scenario.with_predictions(rows, items, predictor, seed=0)
    return Recorded(rows=rows, predicted=predicted)


def _class_means(items: "Sequence[WorkItem]", workload: Path, predictor: str) -> list[float]:
    """Each row's prediction where a classifier named a class: the mean length of the class in the file."""
    from ssjf.workload.predictions import read_predictions

    count = int(_number("predictors", predictor.removeprefix(_CLASSES), whole=True))
    means = read_predictions(workload, num_classes=count).expected_tokens
    if len(means) <= max(item.index for item in items):
        raise DataError(f"{workload} has {len(means)} rows with a class")
    return [means[item.index] for item in items]


def _processes(cases: "Sequence[Case]", items: "Sequence[WorkItem]", jobs: int) -> "dict[str, Process]":
    """The arrival processes, tried once so that a trace that is too short fails before anything starts."""
    from ssjf.sim.compare import OWN
    from ssjf.workload.arrivals import Trace, parse_process, times_at_rate

    processes: dict[str, Process] = {}
    for name in dict.fromkeys(case.arrivals for case in cases):
        if name != OWN:
            processes[name] = parse_process(name)
            times_at_rate(processes[name], 1.0, jobs, seed=0)
            continue
        if not items:
            raise ConfigError(
                "--arrivals own: generated lengths have no arrival times; choose another, such as poisson"
            )
        times = scenario.own_arrivals(items, "choose other --arrivals than own, such as poisson")
        processes[name] = Trace(times, name="the workload")
        times_at_rate(processes[name], 1.0, min(jobs, len(items)), seed=0)
    return processes


def _hosts(
    make: "Callable[[Sequence[WorkItem], int, float | None], Host]",
    cases: "Sequence[Case]",
    seeds: int,
    items: "Sequence[WorkItem]",
    source: "Source",
    jobs: int,
    max_wait_s: float | None,
) -> "dict[tuple[int, int], Host]":
    """Hosts by slots and seed: what an engine holds, and how it values a token, follow from what it is asked."""
    from ssjf.workload.items import WorkItem

    hosts = {}
    for seed in range(seeds):
        sample = items
        if not sample:
            drawn = source.draw(jobs, seed, None)
            pairs = zip(drawn.index, drawn.input_tokens, drawn.output_tokens, strict=True)
            sample = [WorkItem(index=i, input_tokens=prompt, output_tokens=answer) for i, prompt, answer in pairs]
        for slots in dict.fromkeys(case.slots for case in cases):
            hosts[slots, seed] = make(sample, slots, max_wait_s)
    return hosts


def _policies(specs: str | None, host: "Host", items: "Sequence[WorkItem]") -> tuple[list[str], list[str]]:
    """The policies to compare, and what to say of those that are left out; who is named is not left out but refused."""
    from ssjf.core.policies import EDF
    from ssjf.plugins import POLICIES, make_policy, names

    if specs is not None:
        named = scenario.make_policies(specs)
        scenario.check_batching(host, named)
        return list(named), []
    chosen: list[str] = []
    notes = []
    no_deadlines = all(item.deadline_s is None for item in items)
    for name in names(POLICIES):
        try:
            policy = make_policy(name)
        except PluginError as error:
            notes.append(f"left out: {error}")
            continue
        if host.batching.ends_together and getattr(policy, "preemptive", False):
            notes.append(f"left out: {name}, which preempts; a batch that ends together does not allow it")
        elif no_deadlines and isinstance(policy, EDF):
            notes.append(f"left out: {name}, because nobody has a deadline")
        else:
            chosen.append(name)
    return ["fcfs", *(name for name in chosen if name != "fcfs"), "sjf"], notes


def _run(laboratory: "Laboratory", grid: "Grid", workers: int, out: Path, console: Any) -> "list[Summary]":
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    from ssjf.sim.cells import CellFolder, compute

    folder = CellFolder(out / "cells", laboratory)
    cells = grid.cells()
    found = {cell: summary for cell in cells if (summary := folder.get(cell)) is not None}
    missing = [cell for cell in cells if cell not in found]
    if found:
        console.print(f"{len(found)} of {len(cells)} cells were there from an earlier run")
    columns = (TextColumn("simulating"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as progress:
        bar = progress.add_task("", total=len(cells), completed=len(found))
        try:
            with _one_interrupt(), closing(compute(laboratory, missing, workers=workers)) as finished:
                for cell, summary in finished:
                    make_folder(folder.path)  # not before there is something to keep
                    folder.put(cell, summary)
                    found[cell] = summary
                    progress.advance(bar)
        except KeyboardInterrupt:
            kept = f"{len(found)} of {len(cells)} cells are kept in {folder.path}"
            raise SSJFError(f"stopped: {kept}; the same command goes on from there") from None
    return grid.rows(found)


@contextmanager
def _one_interrupt() -> "Iterator[None]":
    """The first Ctrl-C raises KeyboardInterrupt; another must not break into the ending of the workers, and is ignored.

    After an interrupt they stay ignored: the command is at its end.
    """

    def interrupt(*_: object) -> None:
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGINT, interrupt)
    try:
        yield
    finally:
        if signal.getsignal(signal.SIGINT) is interrupt:
            signal.signal(signal.SIGINT, before)


def _report(rows: "Sequence[Summary]", warnings: Sequence[str], out: Path) -> None:
    from rich.console import Console

    from ssjf.metrics.summary import write_summary
    from ssjf.report.comparison import comparison
    from ssjf.report.frontier import frontier, gain_over_load
    from ssjf.report.style import save
    from ssjf.sim.compare import TAIL

    limits = {name: limit for name, _, limit in TAIL}
    write_summary(out / "summary.json", rows)
    written = ["summary.json"]
    console = Console(highlight=False)
    told = {row["predictor"] for row in rows if row["predictor"] is not None}
    names = max(map(len, told)) if len(told) > 1 else 0  # then the table has a column of them
    console.width = max(console.width, 100 + names)  # where output goes to a file, rich would cut columns at 80
    console.print(comparison(rows, limits))
    for warning in warnings:
        console.print(warning, soft_wrap=True, markup=False)
    try:
        for name, pictures in (("gain", gain_over_load(rows)), ("frontier", frontier(rows, limits))):
            for number, picture in enumerate(pictures, start=1):
                written.append(f"{name}.png" if number == 1 else f"{name}-{number}.png")
                save(picture, out / written[-1])
    except ConfigError as error:  # the figures are there all the same
        console.print(f"no pictures: {error}", markup=False)
    console.print(f"written to {out}: {', '.join(written)}", soft_wrap=True, markup=False)
