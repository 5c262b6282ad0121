"""The demonstration's figures: rows for programs, a table and a page for people.

This module does not know how anything was measured.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from rich.table import Table

from ssjf.cli.demo.measure import Measurement, Part
from ssjf.metrics.records import JobRecord
from ssjf.metrics.summary import Summary, summarize
from ssjf.metrics.table import JobTable, tables
from ssjf.report import figures
from ssjf.report.page import Section, page

LABELS = {
    "fcfs": "first come first served",
    "auto": "auto (the default), n-grams",
    "aged-ssjf": "aged SSJF, n-grams",
    "ssjf": "SSJF, n-grams",
    "sjf": "SJF, oracle",
}


def by_policy(records: Sequence[JobRecord]) -> dict[str, JobTable]:
    """One part's jobs by policy."""
    return {table.policy: table for table in tables(records)}


def summaries(records: Mapping[Part, Sequence[JobRecord]]) -> list[Summary]:
    """The rows of `summary.json`, in the order of parts and policies.

    Args:
        records: of each part; every policy served the same jobs.
    """
    rows = []
    for part, of_part in records.items():
        jobs = by_policy(of_part)
        for policy, table in jobs.items():
            # without a queue the oracle gains next to nothing, and a share of that says nothing
            oracle = jobs["sjf"] if part == "overload" else None
            row = summarize(table, fcfs=jobs["fcfs"], oracle=oracle)
            rows.append({"policy": policy, "part": part, **row})
    return rows


def figures_table(rows: Sequence[Summary], part: Part, title: str) -> Table:
    """One part's rows side by side."""
    table = Table(title=title, title_justify="left")
    table.add_column("policy", no_wrap=True)
    for column in ("mean", "p50", "p90", "p99", "max", "TTFT", "short", "long", "tok/s", "gain", "of oracle's"):
        table.add_column(column, justify="right", no_wrap=True)
    for row in rows:
        if row["part"] == part:
            seconds = (
                row[f"{name}_s"] for name in ("mean_jct", "p50_jct", "p90_jct", "p99_jct", "max_jct", "mean_ttft")
            )
            halves = (row[half]["mean_jct_s"] for half in ("short", "long"))
            table.add_row(
                LABELS[row["policy"]],
                *(_shown(value, "{:.2f}") for value in (*seconds, *halves)),
                _shown(row["output_tokens_per_s"], "{:.0f}"),
                *(_shown(row[share], "{:.0%}") for share in ("gain", "oracle_share")),
            )
    return table


def report(measurement: Measurement, rows: Sequence[Summary]) -> str:
    """The page: what was found, the pictures that show it, and how it was measured."""
    overload = {row["policy"]: row for row in rows if row["part"] == "overload"}
    light = [row for row in rows if row["part"] == "light"]
    ssjf, default = overload["ssjf"], overload["auto"]
    jobs = by_policy(measurement.records["overload"])
    table = jobs["ssjf"]
    predicted = np.isfinite(table.predicted_tokens) & table.completed
    plan = measurement.plan
    gain = _shown(ssjf["gain"], "{:.0%}")
    sections = [
        Section(
            heading="When everybody's answer was there",
            text="Each curve is one order of service for the same requests at the same times. Further left is sooner.",
            figure=figures.svg(figures.completion_times(jobs, LABELS)),
            caption="Share of requests answered in full within a time; the time axis is logarithmic.",
        ),
        Section(
            heading="The mean, and who pays for it",
            text="Serving short answers first makes long ones wait. The default and ageing bound what they pay.",
            figure=figures.svg(figures.mean_and_tail(list(overload.values()), LABELS)),
            caption="Completion times in the overload; changes against first come first served.",
        ),
        Section(
            heading="Who waited when",
            text="Every line is one request from its arrival to the end of its answer.",
            figure=figures.svg(figures.who_waited({name: jobs[name] for name in ("fcfs", "ssjf")}, LABELS)),
            caption="Pale: waiting. Full colour: being answered.",
        ),
        Section(
            heading="How good the predictions were",
            text="Only those who had to wait were ordered by a prediction; an idle slot is given at once.",
            figure=figures.svg(
                figures.predicted_against_actual(
                    table.predicted_tokens[predicted].tolist(), table.output_tokens[predicted].tolist()
                )
            ),
            caption=f"Predictions made from the prompt alone, by n-grams learned from {plan.num_training_prompts} "
            "other answers.",
        ),
        Section(heading="All figures: overload", rows=list(overload.values())),
        Section(
            heading="All figures: light load",
            text="Order only matters in a queue: where waits are short, few seconds can be gained.",
            rows=light,
        ),
    ]
    return page(
        title=f"Shortest predicted answer first: answers {gain} sooner on average",
        lead=f"The mean time to a whole answer fell from {_shown(overload['fcfs']['mean_jct_s'], '{:.1f}')} to "
        f"{_shown(ssjf['mean_jct_s'], '{:.1f}')} seconds in an overload, with the same model on the same machine. "
        "Only the order of service changed.",
        numbers=[
            (gain, "lower mean completion time"),
            (_shown(ssjf["oracle_share"], "{:.0%}"), "of what perfect knowledge of the lengths would gain"),
            (_shown(default["gain"], "{:.0%}"), "lower mean with the default, which protects long answers"),
            (_shown(ssjf["output_tokens_per_s"], "{:.0f}"), "tokens per second while somebody waited"),
        ],
        sections=sections,
        foot=_how(measurement),
        labels=LABELS,
    )


def _how(measurement: Measurement) -> str:
    plan = measurement.plan
    return (
        f"One embedded engine, shared evenly: before it stood a gateway for each policy with {plan.slots} slots of its "
        "own, and all were measured at the same time, so that whatever else the machine did met all alike. A first "
        "pass recorded the length of every answer. With all kept busy, each could serve "
        f"{measurement.capacities['overload']:.1f} requests per second; Poisson arrivals came at "
        f"{plan.loads['overload']:g} and {plan.loads['light']:g} of that, at the same times for all policies. Answers "
        f"are greedy and end by themselves. The oracle knows the recorded lengths; {measurement.changed_share:.1%} of "
        f"the answers had another one when they were timed. Aged SSJF forgives {plan.ageing_rate:g} seconds of work "
        "per second waited. Client, gateways and engine share one machine; the client sent at most "
        f"{1000 * measurement.worst_lateness_s:.0f} ms late. A policy that slowed the engine itself would not show "
        "here, as all would suffer; tokens per second show how well each kept its slots busy."
    )


def _shown(value: Any, shape: str) -> str:
    return "–" if value is None else shape.format(value)
