"""Summaries as a table: which figures, in which order, under which headings, for terminals and pages alike."""

from collections.abc import Mapping, Sequence
from typing import Any

from rich.table import Table

from ssjf.metrics.summary import Summary

_SHORT_MEAN, _LONG_MEAN = ("short", "mean_jct_s"), ("long", "mean_jct_s")

# where in a summary, heading, format; times are seconds to a whole answer unless the heading says otherwise
COLUMNS: tuple[tuple[tuple[str, ...], str, str], ...] = (
    (("mean_jct_s",), "mean", "{:.2f}"),
    (("p50_jct_s",), "p50", "{:.2f}"),
    (("p90_jct_s",), "p90", "{:.2f}"),
    (("p99_jct_s",), "p99", "{:.2f}"),
    (("max_jct_s",), "max", "{:.2f}"),
    (("mean_ttft_s",), "TTFT", "{:.2f}"),
    (_SHORT_MEAN, "short", "{:.2f}"),
    (_LONG_MEAN, "long", "{:.2f}"),
    (("output_tokens_per_s",), "tokens/s", "{:.0f}"),
    (("gain",), "gain", "{:.0%}"),
    (("oracle_share",), "of oracle's", "{:.0%}"),
    (("failed",), "failed", "{:d}"),
)


def cells(summary: Summary) -> list[str]:
    """The figures of one row, as text under `COLUMNS`; a dash for what does not apply."""
    return [_text(summary, path, shape) for path, _, shape in COLUMNS]


def table(summaries: Sequence[Summary], *, title: str = "", labels: Mapping[str, str] | None = None) -> Table:
    """Summaries side by side, one policy a row.

    Args:
        summaries: objects of `summary.json`.
        title: above the table.
        labels: names of policies for people.
    """
    shown = Table(title=title or None, title_justify="left")
    shown.add_column("policy", no_wrap=True)
    for _, heading, _ in COLUMNS:
        shown.add_column(heading, justify="right", no_wrap=True)
    for summary in summaries:
        shown.add_row((labels or {}).get(summary["policy"], summary["policy"]), *cells(summary))
    return shown


def _text(summary: Summary, path: Sequence[str], shape: str) -> str:
    value: Any = summary
    for key in path:
        value = value.get(key) if isinstance(value, Mapping) else None
    return "–" if value is None else shape.format(value)
