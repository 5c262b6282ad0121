"""A comparison over many cases as one table for terminals.

Rows are objects of `summary.json` with their case (slots, load, arrivals, predictor) and their tail relative to FCFS's;
several rows of one policy and case are its seeds. This module does not know how they came about.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from rich import box
from rich.markup import escape
from rich.table import Table

from ssjf.metrics.summary import interval95

Row = Mapping[str, Any]

_COLUMNS = (("mean_jct_s", "mean s", "{:.2f}"), ("gain", "gain", "{:.3f}"), ("oracle_share", "share", "{:.3f}"))
_WITH_INTERVAL = ("gain", "oracle_share")  # common jobs make theirs narrow; the others' would fill the screen


def comparison(rows: Sequence[Row], limits: Mapping[str, float]) -> Table:
    """One line for each policy and case.

    Args:
        rows: in the order of the table.
        limits: the tail's ratios to FCFS's by their names in a row, and how large each may be. Of the policies that
            keep them in a case and do not know the truth, the one with the largest gain is marked.
    """
    predictors = list(dict.fromkeys(row["predictor"] for row in rows if row["predictor"] is not None))
    names = [name.removesuffix("_vs_fcfs") for name in limits]
    kept = ", ".join(f"{name} ≤ {limit:.2f}" for name, limit in zip(names, limits.values(), strict=True))
    table = Table(
        title=escape("completion times" + (f", predicted by {' and '.join(predictors)}" if predictors else "")),
        title_justify="left",
        caption=f"share: of the oracle's gain; {', '.join(names)}: relative to FCFS's\n"
        "±: 95 % interval over seeds; none where nothing is drawn\n"
        f"*: the largest gain with {kept}\n"
        "   (policies that know the truth do not compete)",
        caption_justify="left",
        box=box.SIMPLE_HEAD,
    )
    table.add_column("policy", no_wrap=True)
    if len(predictors) > 1:
        table.add_column("predictor", no_wrap=True)
    for heading in (*(heading for _, heading, _ in _COLUMNS), *names):
        table.add_column(heading, justify="right", no_wrap=True)
    for case, of_case in _grouped(rows, "slots", "load", "arrivals").items():
        slots, load, arrivals = case
        table.add_section()
        table.add_row(escape(f"{slots} slot{'s' * (slots != 1)}, load {load:g}, {arrivals}"), style="bold")
        lines = _grouped(of_case, "policy", "predictor")
        best = _best(lines, limits)
        for line, own in lines.items():
            policy, predictor = line
            told = [escape(predictor or "")] if len(predictors) > 1 else []
            mark, style = ("* ", "bold") if line == best else ("  ", "")
            table.add_row(mark + escape(policy), *told, *_means(own), *_tail(own, limits), style=style)
    return table


def _grouped(rows: Sequence[Row], *keys: str) -> dict[tuple[Any, ...], list[Row]]:
    groups: dict[tuple[Any, ...], list[Row]] = {}
    for row in rows:
        groups.setdefault(tuple(row[key] for key in keys), []).append(row)
    return groups


def _best(lines: Mapping[tuple[Any, ...], Sequence[Row]], limits: Mapping[str, float]) -> tuple[Any, ...] | None:
    kept = {
        line: _mean(rows, "gain")
        for line, rows in lines.items()
        if line[1] is not None and all(_mean(rows, name) <= limit for name, limit in limits.items())
    }
    return max(kept, key=lambda line: kept[line], default=None)


def _means(rows: Sequence[Row]) -> list[str]:
    cells = []
    for name, _, shape in _COLUMNS:
        values = [row[name] for row in rows if row[name] is not None]
        if not values:
            cells.append("–")
            continue
        mean, half = interval95(values)
        varies = name in _WITH_INTERVAL and len(set(values)) > 1  # unlike FCFS's own gain
        interval = f" ±{shape.format(half)}" if half is not None and varies else ""
        cells.append(shape.format(mean) + interval)
    return cells


def _tail(rows: Sequence[Row], limits: Mapping[str, float]) -> list[str]:
    ratios = [(_mean(rows, name), limit) for name, limit in limits.items()]
    return [f"{ratio:.2f}" if ratio <= limit else f"[red]{ratio:.2f}[/red]" for ratio, limit in ratios]


def _mean(rows: Sequence[Row], name: str) -> float:
    return interval95([row[name] for row in rows])[0]
