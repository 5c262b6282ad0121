"""One self-contained HTML page: text, tables and inline pictures; no scripts, nothing loaded from elsewhere.

It reads on a phone and on a desk, on light and on dark. This module does not know what was measured.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape

from ssjf.metrics.summary import Summary
from ssjf.report.style import colour_of
from ssjf.report.table import COLUMNS, cells

_CSS = """
:root { color-scheme: light dark; --ink: #1f2430; --soft: #5b6472; --line: #dfe3e8; --page: #ffffff; --card: #f6f7f9; }
@media (prefers-color-scheme: dark) {
  :root { --ink: #eceef2; --soft: #a3abb8; --line: #353b46; --page: #14171d; --card: #1d2129; }
}
* { box-sizing: border-box; }
html { -webkit-text-size-adjust: 100%; }
body { margin: 0 auto; max-width: 52rem; padding: 2.4rem 1.2rem 4rem; background: var(--page); color: var(--ink);
  font: 1rem/1.55 system-ui, -apple-system, "Segoe UI", Roboto, "Helvetica Neue", Arial, sans-serif; }
h1 { font-size: 1.85rem; line-height: 1.2; margin: 0 0 .7rem; letter-spacing: -.01em; }
h2 { font-size: 1.2rem; line-height: 1.3; margin: 2.8rem 0 .3rem; }
p { margin: .3rem 0 .9rem; max-width: 44rem; }
.lead { font-size: 1.12rem; }
.soft, figcaption, .note { color: var(--soft); font-size: .9rem; }
.numbers { display: grid; grid-template-columns: repeat(auto-fit, minmax(10.5rem, 1fr)); gap: .8rem; margin: 1.6rem 0;
  padding: 0; list-style: none; }
.numbers li { background: var(--card); border-radius: .6rem; padding: .8rem 1rem; font-size: .9rem; line-height: 1.4;
  color: var(--soft); }
.numbers b { display: block; font-size: 1.75rem; line-height: 1.25; color: var(--ink); }
figure { margin: .8rem 0 0; }
.scroll { overflow-x: auto; }
figure svg { display: block; width: 100%; height: auto; }
figure svg text { font-family: system-ui, -apple-system, "Segoe UI", Roboto, Arial, sans-serif !important; }
figcaption { margin-top: .4rem; max-width: 44rem; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; font-size: .88rem; width: 100%;
  margin-top: .6rem; }
th, td { padding: .42rem .5rem; text-align: right; border-bottom: 1px solid var(--line); white-space: nowrap; }
th:first-child, td:first-child { text-align: left; position: sticky; left: 0; background: var(--page); }
thead th { color: var(--soft); font-weight: 600; }
tbody th { font-weight: 600; }
i.dot { display: inline-block; width: .7em; height: .7em; border-radius: 50%; margin-right: .5em; }
"""

_TABLE_NOTE = (
    "Seconds from arrival to a whole answer: mean, percentiles, longest. TTFT: mean seconds to the first token. Short "
    "and long: mean of the answers below and above the median length. Tokens/s: while somebody waits. Gain: of the "
    "mean, against first come first served; then its share of what perfect knowledge of the lengths would gain."
)


_TABLE_END = "</table></div>"


@dataclass(frozen=True, slots=True, kw_only=True)
class Section:
    """One heading with what stands under it, in this order.

    Attributes:
        heading: of the section.
        text: a paragraph in plain words.
        figure: an <svg> element.
        caption: what the figure shows.
        rows: summaries, shown as a table.
    """

    heading: str
    text: str = ""
    figure: str = ""
    caption: str = ""
    rows: Sequence[Summary] = ()


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
    cards = "".join(f"<li><b>{escape(value)}</b>{escape(what)}</li>" for value, what in numbers)
    body = "".join(_section(section, labels) for section in sections)
    body = body.replace(_TABLE_END, f'{_TABLE_END}<p class="note">{_TABLE_NOTE}</p>', 1)  # said once
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{escape(title)}</title><style>{_CSS}</style></head><body>\n"
        f'<h1>{escape(title)}</h1><p class="lead">{escape(lead)}</p>\n<ul class="numbers">{cards}</ul>\n'
        f'{body}<section><h2>How this was measured</h2><p class="soft">{escape(foot)}</p></section>\n</body></html>\n'
    )


def _section(section: Section, labels: Mapping[str, str]) -> str:
    parts = [f"<section><h2>{escape(section.heading)}</h2>"]
    if section.text:
        parts.append(f"<p>{escape(section.text)}</p>")
    if section.figure:
        caption = f"<figcaption>{escape(section.caption)}</figcaption>" if section.caption else ""
        parts.append(f'<figure><div class="scroll">{section.figure}</div>{caption}</figure>')
    if section.rows:
        parts.append(_table(section.rows, labels))
    return "".join(parts) + "</section>\n"


def _table(rows: Sequence[Summary], labels: Mapping[str, str]) -> str:
    head = "".join(f'<th scope="col">{escape(heading)}</th>' for _, heading, _ in COLUMNS)
    lines = []
    for position, row in enumerate(rows):
        dot = f'<i class="dot" style="background:{colour_of(row["policy"], position)}"></i>'
        name = escape(labels.get(row["policy"], row["policy"]))
        figures = "".join(f"<td>{escape(cell)}</td>" for cell in cells(row))
        lines.append(f'<tr><th scope="row">{dot}{name}</th>{figures}</tr>')
    return (
        f'<div class="scroll"><table><thead><tr><th scope="col">policy</th>{head}</tr></thead>'
        f"<tbody>{''.join(lines)}</tbody>{_TABLE_END}"
    )
