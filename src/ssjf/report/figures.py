"""Pictures of results.

This module knows columns of jobs, not where they come from. Every picture takes names of policies for people; a policy
without one is called by its own name.
"""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ssjf.metrics.rank import kendall_tau_b
from ssjf.metrics.table import JobTable
from ssjf.report.style import INK, LONG, SHORT, SOFT, colour_of, save, styled, svg

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = ["completion_times", "mean_and_tail", "predicted_against_actual", "save", "svg", "who_waited"]

# More would be no clearer and make a heavy page.
_MAX_STEPS = 400
_MAX_DOTS = 1500
_MAX_BARS = 110

Labels = Mapping[str, str] | None


@styled
def completion_times(tables: Mapping[str, JobTable], labels: Labels = None) -> "Figure":
    """The share of requests that were answered within a time, one curve for each policy; longer is further right."""
    figure, axes = _figure(7.2, 3.9)
    earliest = np.inf
    for position, (policy, table) in enumerate(tables.items()):
        jct = np.sort(table.jct_s[table.completed])
        if not len(jct):
            continue
        steps = np.unique(np.linspace(0, len(jct) - 1, min(len(jct), _MAX_STEPS)).astype(int))
        axes.step(
            jct[steps],
            (steps + 1) / len(jct),
            where="post",
            color=colour_of(policy, position),
            linestyle=(0, (4, 1.2)) if policy == "sjf" else "-",  # the oracle is no policy one could run
            label=_name(policy, labels),
        )
        earliest = min(earliest, float(np.quantile(jct, 0.005)))
    axes.set_xscale("log")
    if np.isfinite(earliest) and earliest > 0:
        axes.set_xlim(left=earliest * 0.9)
    _plain_numbers(axes.xaxis)
    axes.set(ylim=(0, 1.01), yticks=[0, 0.25, 0.5, 0.75, 1], xlabel="seconds from arrival to the end of the answer")
    axes.set_yticklabels(["0 %", "25 %", "50 %", "75 %", "100 %"])
    axes.set_ylabel("requests answered by then")
    axes.grid(visible=True)
    if earliest < np.inf:
        figure.legend(loc="outside upper left", ncols=min(4, len(tables)), handlelength=1.6, columnspacing=1.6)
    return figure


@styled
def mean_and_tail(summaries: Sequence[Mapping[str, Any]], labels: Labels = None) -> "Figure":
    """Mean, 99th percentile and longest completion time as bars, each with its change against the first row."""
    measures = (("mean_jct_s", "mean"), ("p99_jct_s", "99th percentile"), ("max_jct_s", "longest"))
    figure, panels = _panels(1, len(measures), 8.2, 0.75 + 0.42 * len(summaries), sharey=True)
    for axes, (key, title) in zip(panels.flat, measures, strict=True):
        values = [row[key] or 0.0 for row in summaries]
        colours = [colour_of(row["policy"], position) for position, row in enumerate(summaries)]
        axes.barh(range(len(values)), values, color=colours, height=0.66)
        for position, value in enumerate(values):
            beside = {"xytext": (4, 0), "textcoords": "offset points", "va": "center", "fontsize": 9}
            axes.annotate(_seconds(value), (value, position), weight="bold", **beside)
            if position and values[0]:
                change = f"{value / values[0] - 1:+.0%}".replace("-", "−").replace("%", " %")
                axes.text(
                    1.0, position, change, va="center", ha="right", color=SOFT, fontsize=9, transform=_beside(axes)
                )
        axes.set(title=title, xlim=(0, 2.25 * max([*values, 1e-9])), xticks=[])
        axes.set_yticks(range(len(values)), [_name(row["policy"], labels) for row in summaries])
        axes.spines["bottom"].set_visible(False)
        axes.tick_params(length=0)
        axes.tick_params(axis="y", labelcolor=INK)
    panels[0, 0].invert_yaxis()
    return figure


@styled
def who_waited(tables: Mapping[str, JobTable], labels: Labels = None) -> "Figure":
    """Every request as a line from its arrival to its end: pale while it waits, full while it is served.

    One panel for each policy over the same time axis, with the first to arrive on top; the shorter and the longer half
    of the answers in two colours. Of many requests, only every so-manieth is shown.
    """
    from matplotlib.lines import Line2D  # noqa: PLC0415 - an extra

    columns = min(2, len(tables))
    rows = -(-len(tables) // columns)
    figure, panels = _panels(rows, columns, 8.2, 0.6 + 3.1 * rows, sharex=True, sharey=True)
    step = 1
    for axes, (policy, table) in zip(panels.flat, tables.items(), strict=False):
        shown, step = _bars(table)
        arrival, start, finish = (column[shown] for column in (table.arrival_s, table.start_s, table.finish_s))
        start = np.where(np.isnan(start), arrival, start)  # a host that cannot see the start sees no wait
        short = table.output_tokens[shown] <= np.median(table.output_tokens[shown]) if len(shown) else shown > 0
        line = np.arange(len(shown))
        for which, colour in ((short, SHORT), (~short, LONG)):
            axes.hlines(line[which], arrival[which], start[which], color=colour, alpha=0.38, linewidth=1.6)
            axes.hlines(line[which], start[which], finish[which], color=colour, linewidth=1.9)
        waits = (table.start_s - table.arrival_s)[table.completed]
        mean = "" if not len(waits) or np.isnan(waits).any() else f": {_seconds(float(waits.mean()))} wait on average"
        axes.set_title(_name(policy, labels) + mean)
        axes.set(yticks=[], xlim=(0, None))
        axes.grid(visible=True, axis="x")
    for axes in panels[-1]:
        axes.set_xlabel("seconds since the start")
    for axes in panels[:, 0]:
        axes.set_ylabel("requests by arrival" if step == 1 else f"every {_ordinal(step)} request, by arrival")
    for axes in panels.flat[len(tables) :]:
        axes.set_visible(False)
    panels[0, 0].invert_yaxis()  # shared by all
    keys = [
        Line2D([], [], color=colour, alpha=alpha, linewidth=4, label=label)
        for colour, kind in ((SHORT, "short answer"), (LONG, "long answer"))
        for alpha, label in ((0.38, f"{kind}, waiting"), (1.0, "being answered"))
    ]
    figure.legend(handles=keys, loc="outside upper left", ncols=4, handlelength=1.6, columnspacing=1.6)
    return figure


@styled
def predicted_against_actual(predicted: ArrayLike, actual: ArrayLike) -> "Figure":
    """Each answer's predicted and true length on logarithmic axes, with Kendall's τ-b of all of them."""
    x, y = np.asarray(predicted, dtype=np.float64), np.asarray(actual, dtype=np.float64)
    tau = kendall_tau_b(x, y)
    shown = np.unique(np.linspace(0, max(0, len(x) - 1), min(len(x), _MAX_DOTS)).astype(int))
    x, y = np.maximum(1.0, x[shown]), np.maximum(1.0, y[shown])
    figure, axes = _figure(5.0, 4.6)
    low = 0.8 * float(min(x.min(initial=10.0), y.min(initial=10.0)))
    high = 1.3 * float(max(x.max(initial=10.0), y.max(initial=10.0)))
    axes.plot([low, high], [low, high], color=SOFT, linewidth=1, linestyle=(0, (4, 3)))
    axes.scatter(x, y, s=14, alpha=0.5, color=SHORT, linewidths=0)
    axes.set(xscale="log", yscale="log", xlim=(low, high), ylim=(low, high), aspect="equal")
    axes.set(xlabel="predicted tokens", ylabel="true tokens")
    if tau is not None:
        axes.set_title(f"Kendall's τ-b = {tau:.2f}")
    for axis in (axes.xaxis, axes.yaxis):
        _plain_numbers(axis)
    axes.grid(visible=True)
    return figure


def _bars(table: JobTable) -> tuple[NDArray[np.intp], int]:
    """Which rows to show, in order of arrival, and that they are every so-manieth."""
    done = np.flatnonzero(table.completed)
    done = done[np.argsort(table.arrival_s[done], kind="stable")]
    step = -(-len(done) // _MAX_BARS) or 1
    return done[::step], step


def _figure(width: float, height: float) -> tuple["Figure", "Axes"]:
    figure, panels = _panels(1, 1, width, height)
    axes: Axes = panels[0, 0]
    return figure, axes


def _panels(
    rows: int, columns: int, width: float, height: float, *, sharex: bool = False, sharey: bool = False
) -> tuple["Figure", NDArray[Any]]:
    from matplotlib.figure import Figure  # noqa: PLC0415 - an extra

    figure = Figure(figsize=(width, height))
    panels: NDArray[Any] = figure.subplots(rows, columns, sharex=sharex, sharey=sharey, squeeze=False)
    return figure, panels


def _beside(axes: "Axes") -> Any:
    """Positions across the axes from 0 to 1, and down them by row."""
    return axes.get_yaxis_transform()


def _plain_numbers(axis: Any) -> None:
    from matplotlib.ticker import FuncFormatter, NullFormatter  # noqa: PLC0415 - an extra

    axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axis.set_minor_formatter(NullFormatter())


def _name(policy: str, labels: Labels) -> str:
    return (labels or {}).get(policy, policy)


def _seconds(value: float) -> str:
    return f"{value:.{2 if value < 10 else 1 if value < 100 else 0}f} s"


def _ordinal(number: int) -> str:
    return f"{number}{ {1: 'st', 2: 'nd', 3: 'rd'}.get(number % 10 if number // 10 % 10 != 1 else 0, 'th') }"
