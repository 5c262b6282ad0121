"""`ssjf plan`: the largest rate, or the fewest replicas, at which users still see what was promised."""

import json
import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ssjf.cli.folders import check_folder, make_folder
from ssjf.cli.simulation import options, scenario
from ssjf.errors import ConfigError

if TYPE_CHECKING:
    from ssjf.core.types import Policy
    from ssjf.metrics.table import JobTable
    from ssjf.sim.host import Host, Trace
    from ssjf.sim.plan import Limit
    from ssjf.workload.arrivals import Process
    from ssjf.workload.items import WorkItem

_Drawn = tuple["Trace", "Host"]
_MOST_REQUESTS = 10_000_000  # that one run simulates: more does not fit into memory


def plan(
    *,
    limit: Annotated[
        list[str],
        typer.Option(help="what users are promised: p99-jct=30, p99-ttft=2, mean-wait=1 ...; may be repeated"),
    ],
    rate: Annotated[
        float | None, typer.Option(help="requests per second: asks for replicas; without it: the largest rate of one")
    ] = None,
    workload: Annotated[
        Path | None, typer.Option(help="what is asked: CSV, JSONL or Parquet, .gz too; or give --lengths")
    ] = None,
    lengths: Annotated[
        str | None, typer.Option(help="generate answers of such lengths instead: paper, lognormal:180:1.1 ...")
    ] = None,
    input_lengths: options.InputLengths = None,
    jobs: Annotated[int, typer.Option(help="requests of each run, for each replica")] = 10_000,
    policy: Annotated[str, typer.Option(help="names, separated by commas")] = "fcfs,auto,ssjf",
    predictor: Annotated[
        str | None,
        typer.Option(help="column, a noise model, a predictor; default: the file's column, else lognormal:0.8"),
    ] = None,
    arrivals: Annotated[str, typer.Option(help="poisson, gamma:CV, uniform, onoff, trace:FILE")] = "poisson",
    slots: Annotated[int, typer.Option(help="jobs that one replica runs at once")] = 8,
    base_seconds: options.BaseSeconds = None,
    seconds_per_token: options.SecondsPerToken = None,
    seconds_per_input_token: options.SecondsPerInputToken = None,
    cost_model: options.CostModel = None,
    kv_tokens: options.KVTokens = None,
    max_num_batched_tokens: options.MaxNumBatchedTokens = None,
    max_wait_s: options.MaxWaitS = None,
    seeds: Annotated[int, typer.Option(help="repetitions; their spread is the answer's")] = 3,
    target_model: options.TargetModel = None,
    out: Annotated[Path, typer.Option(help="folder for plan.json and the picture")] = Path("out/plan"),
) -> None:
    """Find how much one engine can take, or how many are needed, under limits on completion times, policy by policy."""
    from ssjf.sim.plan import parse_limit
    from ssjf.workload.arrivals import parse_process

    scenario.at_least("jobs", jobs, 100)
    scenario.at_least("seeds", seeds, 1)
    if rate is not None and not 0 < rate < math.inf:
        raise ConfigError(f"--rate must be a positive number, not {rate:g}")
    check_folder(out)
    limits = [parse_limit(text) for text in limit]
    policies = scenario.make_policies(policy)
    process = parse_process(arrivals)

    def items_of(seed: int, num: int) -> "list[WorkItem]":
        return scenario.read_items(
            workload, lengths=lengths, input_lengths=input_lengths, jobs=num, target_model=target_model, seed=seed
        )

    def host_of(items: "Sequence[WorkItem]") -> "Host":
        return scenario.make_host(
            cost_model,
            items,
            slots=slots,
            base_seconds=base_seconds,
            seconds_per_token=seconds_per_token,
            seconds_per_input_token=seconds_per_input_token,
            kv_tokens=kv_tokens,
            max_num_batched_tokens=max_num_batched_tokens,
            max_wait_s=max_wait_s,
        )

    items = items_of(0, jobs)
    predictor = predictor or scenario.default_predictor(items)
    drawn = None if lengths is None else items_of
    planner = _Planner(items, drawn, jobs, policies, predictor, host_of, process, limits)
    rows = planner.rates(seeds) if rate is None else planner.replicas(rate, seeds)
    trained_on = scenario.num_trained_on(items, predictor)
    _report(rows, planner, rate, trained_on, scenario.training_warnings({predictor: trained_on}, len(items)), out)


class _Planner:
    """Runs what is asked of it, and remembers every run for the picture."""

    def __init__(
        self,
        items: "Sequence[WorkItem]",
        drawn: "Callable[[int, int], Sequence[WorkItem]] | None",
        jobs: int,
        policies: "dict[str, Policy]",
        predictor: str,
        host_of: "Callable[[Sequence[WorkItem]], Host]",
        process: "Process",
        limits: "Sequence[Limit]",
    ) -> None:
        self.limits = limits
        self.capacity = 0.0
        self.points: dict[str, list[tuple[float, float]]] = {name: [] for name in policies}
        self._drawn = drawn
        self._items, self._jobs, self._policies = items, jobs, policies
        self._predictor, self._host_of, self._process = predictor, host_of, process
        self._host = host_of(items)

    def rates(self, seeds: int) -> list[dict[str, Any]]:
        """The largest rate of one replica, for each policy."""
        from rich.progress import track

        from ssjf.sim.plan import largest_load, worst_ratio

        loads: dict[str, list[float]] = {name: [] for name in self._policies}
        work = [(seed, name) for seed in range(seeds) for name in self._policies]
        for seed, name in track(work, description="planning", transient=True):
            if name == next(iter(self._policies)):
                drawn = self._draw(self._jobs, seed)

            def ratio(load: float, name: str = name, seed: int = seed, drawn: _Drawn = drawn) -> float:
                trace, host = drawn
                tables = [self._served(self._timed(trace, load * self.capacity, seed), host, name, seed)]
                self.points[name].append((load * self.capacity, self.limits[0].measured_s(tables)))
                return worst_ratio(self.limits, tables)

            loads[name].append(largest_load(ratio))
        return [self._row(name, found) for name, found in loads.items()]

    def _row(self, name: str, loads: list[float]) -> dict[str, Any]:
        from ssjf.sim.plan import HIGHEST, RESOLUTION

        rates = [load * self.capacity for load in loads]
        return {
            "policy": name,
            "requests_per_s": sum(rates) / len(rates),
            "lowest": min(rates),
            "highest": max(rates),
            "load": sum(loads) / len(loads),
            "resolution": RESOLUTION * self.capacity,
            "bound": "stability" if min(loads) == HIGHEST else "none" if max(loads) == 0 else "limit",
        }

    def replicas(self, rate: float, seeds: int) -> list[dict[str, Any]]:
        """The fewest replicas, for each policy, with requests dealt to them in turn."""
        from rich.progress import track

        from ssjf.sim.plan import HIGHEST, fewest_replicas, worst_ratio

        rows = []
        for name in track(self._policies, description="planning", transient=True):
            found = []
            for seed in range(seeds):
                base = self._draw(self._jobs, seed)
                at_least = max(1, math.ceil(rate / self.capacity / HIGHEST))
                if at_least * self._jobs > _MOST_REQUESTS:
                    raise ConfigError(
                        f"--rate {rate:g} needs {at_least} replicas or more, too many to simulate with {self._jobs} "
                        "requests each; one replica alone tells its largest rate if --rate is left out"
                    )

                def ratio(count: int, seed: int = seed, name: str = name, base: _Drawn = base) -> float:
                    trace, host = base if count == 1 else self._draw(self._jobs * count, seed)
                    trace = self._timed(trace, rate, seed)
                    tables = [self._served(_dealt(trace, number, count), host, name, seed) for number in range(count)]
                    self.points[name].append((float(count), self.limits[0].measured_s(tables)))
                    return worst_ratio(self.limits, tables)

                found.append(fewest_replicas(ratio, at_least=at_least, most=max(64, 8 * at_least)))
            known = [count for count in found if count is not None]
            most = max(known) if len(known) == len(found) else None
            rows.append(
                {
                    "policy": name,
                    "replicas": most,
                    "lowest": min(known, default=None),
                    "load": None if most is None else rate / most / self.capacity,
                }
            )
        return rows

    def _draw(self, jobs: int, seed: int) -> "_Drawn":
        """Requests drawn for the seed, with predictions, and a host for them; the first sets what load 1 is."""
        import numpy as np

        host = self._host
        if self._drawn is not None:
            items = list(self._drawn(seed, jobs))
            host = self._host_of(items)  # an engine's cache holds the longest of them
        else:
            rng = np.random.default_rng([seed, 0x706C616E])
            rows = rng.choice(len(self._items), jobs, replace=jobs > len(self._items))
            items = [self._items[row] for row in rows]
        trace = replace(scenario.untimed_trace(items), index=range(jobs))
        if not self.capacity:
            try:
                self.capacity = host.saturated_requests_per_s(trace.input_tokens, trace.output_tokens)
            except ZeroDivisionError:
                raise ConfigError("requests that take no time need no plan: give seconds or a cost model") from None
            except ValueError as error:
                raise ConfigError(f"{error}; give more --jobs, or fewer --slots") from None
        return scenario.with_predictions(trace, items, self._predictor, seed), host

    def _timed(self, trace: "Trace", rate: float, seed: int) -> "Trace":
        from ssjf.workload.arrivals import times_at_rate

        return replace(trace, arrival_s=times_at_rate(self._process, rate, len(trace), seed).tolist())

    def _served(self, trace: "Trace", host: "Host", name: str, seed: int) -> "JobTable":
        return scenario.run_policy(trace, name, self._policies[name], host, seed=seed)


def _dealt(trace: "Trace", number: int, count: int) -> "Trace":
    """Every count-th request in order of arrival: what a load balancer sends to one replica in turn."""
    rows = sorted(range(len(trace)), key=lambda row: trace.arrival_s[row])[number::count]
    return replace(
        trace,
        index=[trace.index[row] for row in rows],
        arrival_s=[trace.arrival_s[row] for row in rows],
        input_tokens=[trace.input_tokens[row] for row in rows],
        output_tokens=[trace.output_tokens[row] for row in rows],
        predicted_tokens=None if trace.predicted_tokens is None else [trace.predicted_tokens[row] for row in rows],
        predicted_quantiles=[trace.predicted_quantiles[row] for row in rows] if trace.predicted_quantiles else (),
        tenant=[trace.tenant[row] for row in rows] if trace.tenant else (),
        deadline_s=[trace.deadline_s[row] for row in rows] if trace.deadline_s else (),
    )


def _report(
    rows: list[dict[str, Any]],
    planner: _Planner,
    rate: float | None,
    trained_on: int | None,
    warnings: Sequence[str],
    out: Path,
) -> None:
    from rich.console import Console
    from rich.table import Table

    from ssjf.report.capacity import limit_over_rate
    from ssjf.report.style import saved

    promised = " and ".join(str(limit) for limit in planner.limits)
    table = Table(title=promised, title_justify="left")
    table.add_column("policy", no_wrap=True)
    if rate is None:
        for heading in ("requests/s", "over seeds", "load", "what stops it"):
            table.add_column(heading, justify="right")
        says = {"limit": "the limit", "stability": "the engine is full", "none": "holds at no rate"}
        for row in rows:
            spread = f"{row['lowest']:.3g} – {row['highest']:.3g}"
            table.add_row(
                row["policy"], f"{row['requests_per_s']:.3g}", spread, f"{row['load']:.2f}", says[row["bound"]]
            )
    else:
        for heading in ("replicas", "load of each"):
            table.add_column(heading, justify="right")
        for row in rows:
            known = row["replicas"] is not None
            table.add_row(
                row["policy"],
                str(row["replicas"]) if known else "no number will do",
                f"{row['load']:.2f}" if known else "–",
            )
    answer = {
        "limits": [str(limit) for limit in planner.limits],
        "rate": rate,
        "capacity": planner.capacity,
        "predictor_trained_on": trained_on,
        "rows": rows,
    }
    key = "requests_per_s" if rate is None else "replicas"
    draw = partial(
        limit_over_rate,
        planner.points,
        {row["policy"]: row[key] for row in rows if row[key]},
        limit_s=planner.limits[0].seconds,
        what=str(planner.limits[0]).partition(" ≤")[0],
        over="requests per second" if rate is None else "replicas",
    )
    make_folder(out)
    (out / "plan.json").write_text(json.dumps(answer, indent=2) + "\n", encoding="utf-8")
    picture = saved(draw, out / "plan.png")
    console = Console(highlight=False)
    console.print(table)
    if rate is None:
        console.print(
            f"one replica serves {planner.capacity:.3g} requests/s when it never lacks work (load 1); for each seed "
            f"the answer is known to {rows[0]['resolution']:.2g} requests/s"
        )
    else:
        console.print("requests are dealt to the replicas in turn; the number holds for every seed")
    for warning in warnings:
        console.print(warning, soft_wrap=True, markup=False)
    console.print(f"written to {out}: plan.json, {picture}", soft_wrap=True, markup=False)
