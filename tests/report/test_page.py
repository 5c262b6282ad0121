"""The page stands alone, is well-formed, and says the same as the terminal's table."""

import re
from html.parser import HTMLParser

from rich.console import Console

from ssjf.metrics.summary import summarize
from ssjf.metrics.table import JobTable
from ssjf.report import figures
from ssjf.report.page import Section, page
from ssjf.report.table import COLUMNS, table

Runs = dict[str, JobTable]
VOID = {"meta"}


class Outline(HTMLParser):
    """Checks that elements nest, and gathers what is visible."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.text: list[str] = []

    def handle_starttag(self, tag: str, attrs: object) -> None:
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if "style" not in self.open:
            self.text.append(data)


def full_page(runs: Runs) -> str:
    rows = [summarize(run, fcfs=runs["fcfs"]) for run in runs.values()]
    return page(
        title="A <title> & more",
        lead="What was found.",
        numbers=[("41 %", "lower mean")],
        sections=[
            Section(heading="Picture", figure=figures.svg(figures.who_waited(runs)), caption="Who waited"),
            Section(heading="Table", text="In words.", rows=rows),
            Section(heading="Another table", rows=rows),
        ],
        foot="How it was measured.",
        labels={"fcfs": "first come <first>"},
    )


def test_the_page_is_well_formed_and_shows_everything(runs: Runs) -> None:
    outline = Outline()
    outline.feed(full_page(runs))
    assert outline.open == []
    shown = " ".join(outline.text)
    for text in (
        "A <title> & more",
        "What was found.",
        "41 %",
        "Who waited",
        "first come <first>",
        "ssjf",
        "In words.",
    ):
        assert text in shown
    assert shown.count("knowledge of the lengths") == 1, "the table is explained once"


def test_nothing_is_loaded_from_elsewhere_and_nothing_runs(runs: Runs) -> None:
    text = full_page(runs)
    assert not re.search(r"<(script|link|img|iframe|object)\b", text)
    assert not re.search(r"""(src|href)=["'](?!#)|@import|url\((?!#)""", text)


def test_the_page_fits_a_phone_and_the_dark(runs: Runs) -> None:
    text = full_page(runs)
    assert 'name="viewport"' in text
    assert "prefers-color-scheme: dark" in text


def test_page_and_terminal_show_the_same_figures(runs: Runs) -> None:
    rows = [summarize(run, fcfs=runs["fcfs"], oracle=runs["ssjf"]) for run in runs.values()]
    console = Console(width=200)
    with console.capture() as capture:
        console.print(table(rows, title="overload", labels={"ssjf": "shortest first"}))
    terminal = capture.get()
    html = page(title="", lead="", numbers=[], sections=[Section(heading="", rows=rows)], foot="", labels={})
    for heading in ("policy", *(heading for _, heading, _ in COLUMNS)):
        assert heading in terminal
        assert f">{heading.replace(chr(39), '&#x27;')}<" in html
    figures_of_ssjf = [
        f"{rows[1]['mean_jct_s']:.2f}",
        f"{rows[1]['short']['mean_jct_s']:.2f}",
        f"{rows[1]['gain']:.0%}",
    ]
    for figure in figures_of_ssjf:
        assert figure in terminal
        assert f"<td>{figure}</td>" in html
    assert "shortest first" in terminal


def test_what_does_not_apply_is_a_dash(runs: Runs) -> None:
    console = Console(width=200)
    with console.capture() as capture:
        console.print(table([summarize(runs["ssjf"])]))
    assert "–" in capture.get()
    assert "None" not in capture.get()
