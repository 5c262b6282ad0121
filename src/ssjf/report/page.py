"""One self-contained HTML page: text, tables and inline pictures; no scripts, no links to elsewhere."""

import html
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

_CSS = """
:root { color-scheme: light dark; --ink: #111827; --soft: #4b5563; --line: #e5e7eb; --page: #ffffff; --best: #ecfdf5; }
@media (prefers-color-scheme: dark) {
  :root { --ink: #f3f4f6; --soft: #9ca3af; --line: #374151; --page: #111827; --best: #064e3b; }
}
* { box-sizing: border-box; }
body { margin: 0 auto; max-width: 62rem; padding: 2rem 1.25rem 4rem; background: var(--page); color: var(--ink);
  font: 16px/1.55 system-ui, -apple-system, "Segoe UI", sans-serif; }
h1 { font-size: 1.9rem; line-height: 1.2; margin: 0 0 .6rem; }
h2 { font-size: 1.2rem; margin: 2.6rem 0 .4rem; }
p { margin: .4rem 0 .9rem; max-width: 46rem; }
.lead { font-size: 1.15rem; }
.soft, figcaption { color: var(--soft); font-size: .92rem; }
.numbers { display: flex; flex-wrap: wrap; gap: 1rem; margin: 1.4rem 0; padding: 0; list-style: none; }
.numbers li { border: 1px solid var(--line); border-radius: .6rem; padding: .8rem 1.1rem; min-width: 9.5rem; flex: 1; }
.numbers b { display: block; font-size: 1.7rem; line-height: 1.2; }
figure { margin: 1rem 0; }
figure svg { width: 100%; height: auto; background: #fff; border: 1px solid var(--line); border-radius: .6rem; }
.scroll { overflow-x: auto; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; font-size: .92rem; width: 100%; }
th, td { padding: .4rem .6rem; text-align: right; border-bottom: 1px solid var(--line); white-space: nowrap; }
th:first-child, td:first-child { text-align: left; }
th { color: var(--soft); font-weight: 600; }
"""

# column of summary.json, heading, format
_COLUMNS = (
    ("mean_jct_s", "mean", "{:.2f}"),
    ("p50_jct_s", "p50", "{:.2f}"),
    ("p90_jct_s", "p90", "{:.2f}"),
    ("p99_jct_s", "p99", "{:.2f}"),
    ("max_jct_s", "max", "{:.2f}"),
    ("mean_ttft_s", "first token", "{:.2f}"),
    ("short", "short ones", "{:.2f}"),
    ("long", "long ones", "{:.2f}"),
    ("output_tokens_per_s", "tokens/s", "{:.0f}"),
    ("gain", "gain", "{:.0%}"),
    ("oracle_share", "of the oracle's", "{:.0%}"),
    ("failed", "failed", "{:d}"),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Section:
    """One heading with what stands under it, in this order.

    Attributes:
        heading: of the section.
        text: a paragraph in plain words.
        figure: an <svg> element.
        caption: what the figure shows.
        rows: summaries, shown as a table; seconds unless the heading says otherwise.
    """

    heading: str
    text: str = ""
    figure: str = ""
    caption: str = ""
    rows: Sequence[Mapping[str, Any]] = ()


def page(
    *,
    title: str,
    lead: str,
    numbers: Sequence[tuple[str, str]],
    sections: Sequence[Section],
    foot: str,
    labels: Mapping[str, str],
) -> str:
    """The whole page.

    Args:
        title: what was found, in one line.
        lead: the same in two sentences.
        numbers: the few figures that matter, as (figure, what it is).
        sections: the evidence.
        foot: how it was measured, and its limits.
        labels: names of policies for people.
    """
    cards = "".join(f"<li><b>{html.escape(value)}</b>{html.escape(what)}</li>" for value, what in numbers)
    body = "".join(_section(section, labels) for section in sections)
    return (
        f'<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        f'<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{html.escape(title)}</title><style>{_CSS}</style></head><body>\n"
        f'<h1>{html.escape(title)}</h1><p class="lead">{html.escape(lead)}</p>\n<ul class="numbers">{cards}</ul>\n'
        f'{body}\n<h2>How this was measured</h2><p class="soft">{html.escape(foot)}</p></body></html>\n'
    )


def _section(section: Section, labels: Mapping[str, str]) -> str:
    parts = [f"<section><h2>{html.escape(section.heading)}</h2>"]
    if section.text:
        parts.append(f"<p>{html.escape(section.text)}</p>")
    if section.figure:
        parts.append(f"<figure>{section.figure}<figcaption>{html.escape(section.caption)}</figcaption></figure>")
    if section.rows:
        parts.append(_table(section.rows, labels))
    return "".join(parts) + "</section>\n"


def _table(rows: Sequence[Mapping[str, Any]], labels: Mapping[str, str]) -> str:
    head = "".join(f"<th>{heading}</th>" for _, heading, _ in _COLUMNS)
    lines = []
    for row in rows:
        cells = "".join(f"<td>{_cell(row.get(name), shape)}</td>" for name, _, shape in _COLUMNS)
        lines.append(f"<tr><td>{html.escape(labels.get(row['policy'], row['policy']))}</td>{cells}</tr>")
    return f'<div class="scroll"><table><tr><th>policy</th>{head}</tr>{"".join(lines)}</table></div>'


def _cell(value: Any, shape: str) -> str:
    if isinstance(value, Mapping):  # short and long jobs: their mean
        value = value.get("mean_jct_s")
    return "–" if value is None else shape.format(value)
