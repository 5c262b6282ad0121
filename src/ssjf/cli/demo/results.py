"""The demonstration's figures: rows for programs, a table and a page for people.

This module does not know how anything was measured.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from rich.table import Table

from ssjf.cli.demo.measure import Measurement, Part
from ssjf.metrics.records import JobRecord
from ssjf.metrics.summary import Summary, summarize
from ssjf.metrics.table import JobTable
from ssjf.report import figures
from ssjf.report.page import Section, page

LABELS = {
    "fcfs": "first come first served",
    "ssjf": "SSJF, n-grams",
    "aged-ssjf": "aged SSJF, n-grams",
    "sjf": "SJF, oracle",
}


def pooled(records: Sequence[JobRecord]) -> dict[str, JobTable]:
    """One part's jobs by policy, in the order of `LABELS`; repetitions follow one another on the time axis."""
    by_policy: dict[str, list[JobRecord]] = {policy: [] for policy in LABELS}
    for record in records:
        by_policy[record.policy].append(record)
    return {policy: JobTable.from_records(_in_one_row(own)) for policy, own in by_policy.items()}


def _in_one_row(records: Sequence[JobRecord]) -> list[JobRecord]:
    """Move each repetition behind the one before it, so that no time is counted twice."""
    row: list[JobRecord] = []
    begin_s = 0.0
    for repetition in sorted({record.seed for record in records}):
        own = [record for record in records if record.seed == repetition]
        row += [_later(record, begin_s) for record in own]
        begin_s += max(record.finish_s or record.arrival_s for record in own)
    return row


def _later(record: JobRecord, by_s: float) -> JobRecord:
    def moved(instant: float | None) -> float | None:
        return None if instant is None else instant + by_s

    return replace(
        record,
        seed=0,
        arrival_s=record.arrival_s + by_s,
        start_s=moved(record.start_s),
        first_token_s=moved(record.first_token_s),
        finish_s=moved(record.finish_s),
    )


def summaries(records: Mapping[Part, Sequence[JobRecord]]) -> list[Summary]:
    """The rows of `summary.json`, in the order of parts and policies.

    Args:
        records: of each part; every policy served the same jobs, and repetitions are pooled.
    """
    rows = []
    for part, of_part in records.items():
        by_policy = pooled(of_part)
        for policy, table in by_policy.items():
            # without a queue the oracle gains next to nothing, and a share of that says nothing
            oracle = by_policy["sjf"] if part == "overload" else None
            row = summarize(table, fcfs=by_policy["fcfs"], oracle=oracle)
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
    ssjf, aged = overload["ssjf"], overload["aged-ssjf"]
    overload_jobs = measurement.records["overload"]
    by_policy = pooled(overload_jobs)
    first = pooled([record for record in overload_jobs if record.seed == 0])
    table = first["ssjf"]
    predicted = np.isfinite(table.predicted_tokens) & table.completed
    plan = measurement.plan
    gain = _shown(ssjf["gain"], "{:.0%}")
    sections = [
        Section(
            heading="When everybody's answer was there",
            text="Each curve is one order of service for the same requests at the same times. Further left is sooner.",
            figure=figures.svg(figures.completion_times(by_policy, LABELS)),
            caption="Share of requests answered in full within a time; the time axis is logarithmic.",
        ),
        Section(
            heading="The mean, and who pays for it",
            text="Serving short answers first makes long ones wait. Ageing bounds what they pay.",
            figure=figures.svg(figures.mean_and_tail(list(overload.values()), LABELS)),
            caption="Completion times in the overload; changes against first come first served.",
        ),
        Section(
            heading="Who waited when",
            text="Every line is one request from its arrival to the end of its answer.",
            figure=figures.svg(figures.who_waited({name: first[name] for name in ("fcfs", "ssjf")}, LABELS)),
            caption="Grey: waiting. Coloured: being answered.",
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
            text="Where nobody waits there is nothing to gain: order only matters in a queue.",
            rows=light,
        ),
    ]
    return page(
        title=f"Shortest predicted answer first: {gain} less waiting on average",
        lead=f"The mean time to a whole answer fell from {_shown(overload['fcfs']['mean_jct_s'], '{:.1f}')} to "
        f"{_shown(ssjf['mean_jct_s'], '{:.1f}')} seconds in an overload, with the same model on the same machine. "
        "Only the order of service changed.",
        numbers=[
            (gain, "lower mean completion time"),
            (_shown(ssjf["oracle_share"], "{:.0%}"), "of what perfect knowledge of the lengths would gain"),
            (_shown(aged["gain"], "{:.0%}"), "lower mean with ageing, which protects long answers"),
            (_shown(ssjf["output_tokens_per_s"], "{:.0f}"), "tokens per second while somebody waited"),
        ],
        sections=sections,
        foot=_how(measurement),
        labels=LABELS,
    )


def _how(measurement: Measurement) -> str:
    plan = measurement.plan
    return (
        f"One embedded engine with {plan.slots} slots served everything; one gateway for each policy stood before it "
        f"in turn. A closed-loop pass recorded the length of every answer and a capacity of "
        f"{measurement.capacities['overload']:.1f} requests per second. Poisson arrivals at {plan.loads['overload']:g} "
        f"and {plan.loads['light']:g} of it, the same for all policies; greedy answers that end by themselves; all of "
        f"it {plan.repetitions} times, each second time in the opposite order of policies. The oracle knows the "
        f"recorded lengths; {measurement.changed_share:.1%} of the answers had another one when they were timed. Aged "
        f"SSJF forgives {plan.ageing_rate:g} seconds of work per second waited. Client, gateways and engine share one "
        f"machine; the client sent at most {1000 * measurement.worst_lateness_s:.0f} ms late."
    )


def _shown(value: Any, shape: str) -> str:
    return "–" if value is None else shape.format(value)
