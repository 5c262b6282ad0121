"""Pictures of results, drawn with matplotlib (an extra, imported only when something is drawn).

This module knows columns of jobs, not where they come from. A policy has the same colour in every picture.
"""

import io
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from ssjf.errors import ConfigError
from ssjf.metrics.rank import kendall_tau_b
from ssjf.metrics.table import JobTable

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_COLOURS = {"fcfs": "#6b7280", "ssjf": "#2563eb", "aged-ssjf": "#0d9488", "sjf": "#d97706", "auto": "#7c3aed"}
_OTHERS = ("#be185d", "#4d7c0f", "#0369a1", "#a16207", "#9f1239", "#334155")
_SHORT, _LONG, _WAITING = "#2563eb", "#d97706", "#d1d5db"
_STYLE: dict[Any, Any] = {
    "font.family": "DejaVu Sans",
    "font.size": 10,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.edgecolor": "#9ca3af",
    "axes.labelcolor": "#374151",
    "axes.titleweight": "bold",
    "axes.titlesize": 11,
    "axes.titlelocation": "left",
    "xtick.color": "#4b5563",
    "ytick.color": "#4b5563",
    "svg.fonttype": "path",
    "svg.hashsalt": "ssjf",  # the same picture gives the same file
}


def colour_of(policy: str, position: int = 0) -> str:
    """The policy's colour; one by position for names without a fixed one."""
    return _COLOURS.get(policy.partition(":")[0], _OTHERS[position % len(_OTHERS)])


def completion_times(tables: Mapping[str, JobTable], labels: Mapping[str, str] | None = None) -> "Figure":
    """The share of requests that were answered within a time, one curve for each policy."""
    figure, (axes,) = _figure(1, width=7.2, height=3.6)
    for position, (policy, table) in enumerate(tables.items()):
        jct = np.sort(table.jct_s[table.completed])
        share = np.arange(1, len(jct) + 1) / len(jct)
        axes.step(jct, share, where="post", color=colour_of(policy, position), label=(labels or {}).get(policy, policy))
    axes.set_xscale("log")
    axes.xaxis.set_major_formatter(_plain_numbers())
    axes.set(ylim=(0, 1), xlabel="seconds from arrival to the end of the answer", title="Answered within …")
    axes.yaxis.set_major_formatter(_percent())
    axes.grid(visible=True, color="#e5e7eb", linewidth=0.6)
    axes.legend(frameon=False, loc="lower right")
    return figure


def mean_and_tail(summaries: Sequence[Mapping[str, Any]], labels: Mapping[str, str] | None = None) -> "Figure":
    """Mean, 99th percentile and worst completion time as bars, each with its change against the first row."""
    measures = (("mean_jct_s", "mean"), ("p99_jct_s", "99th percentile"), ("max_jct_s", "worst"))
    figure, panels = _figure(len(measures), width=9.0, height=0.9 + 0.42 * len(summaries))
    names = [(labels or {}).get(row["policy"], row["policy"]) for row in summaries]
    for axes, (key, title) in zip(panels, measures, strict=True):
        values = [row[key] or 0.0 for row in summaries]
        colours = [colour_of(row["policy"], position) for position, row in enumerate(summaries)]
        axes.barh(range(len(values)), values, color=colours, height=0.65)
        for position, value in enumerate(values):
            change = "" if position == 0 or not values[0] else f"  {value / values[0] - 1:+.0%}"
            axes.text(value, position, f" {value:.2f} s{change}", va="center", fontsize=9, color="#111827")
        axes.set(title=title, xlim=(0, 1.5 * max(values, default=1.0)), xticks=[])
        axes.set_yticks(range(len(names)), names if axes is panels[0] else [""] * len(names))
        axes.invert_yaxis()
        axes.spines["bottom"].set_visible(False)
        axes.tick_params(length=0)
    return figure


def who_waited(tables: Mapping[str, JobTable], labels: Mapping[str, str] | None = None) -> "Figure":
    """Every request as a line from its arrival to its end: grey while it waits, coloured while it is served.

    One panel for each policy over the same time axis; requests in order of arrival from top to bottom; short answers
    (below the median) and long ones in two colours.
    """
    figure, panels = _figure(len(tables), width=max(7.2, 3.4 * len(tables)), height=4.2, share=True)
    for axes, (policy, table) in zip(panels, tables.items(), strict=True):
        done = table.completed
        order = np.argsort(table.arrival_s[done], kind="stable")
        arrival, start, finish, tokens = (
            column[done][order] for column in (table.arrival_s, table.start_s, table.finish_s, table.output_tokens)
        )
        rows = np.arange(len(arrival))
        width = max(0.3, min(2.0, 240 / max(1, len(rows))))
        axes.hlines(rows, arrival, start, color=_WAITING, linewidth=width)
        short = tokens <= np.median(tokens) if len(tokens) else np.zeros(0, dtype=bool)
        for which, colour, label in ((short, _SHORT, "short answer"), (~short, _LONG, "long answer")):
            axes.hlines(rows[which], start[which], finish[which], color=colour, linewidth=width, label=label)
        axes.set(title=(labels or {}).get(policy, policy), xlabel="seconds", yticks=[], xlim=(0, None))
        axes.invert_yaxis()
    panels[0].set_ylabel("requests in order of arrival")
    handles, names = panels[0].get_legend_handles_labels()
    if handles:
        panels[-1].legend(handles, names, frameon=False, loc="upper right", fontsize=9)
    return figure


def predicted_against_actual(predicted: Sequence[float], actual: Sequence[float]) -> "Figure":
    """Each answer's predicted against its true length on logarithmic axes, with Kendall's τ-b."""
    x, y = np.maximum(1.0, np.asarray(predicted, float)), np.maximum(1.0, np.asarray(actual, float))
    figure, (axes,) = _figure(1, width=4.6, height=4.2)
    top = 1.3 * float(max(x.max(initial=1.0), y.max(initial=1.0)))
    axes.plot([1, top], [1, top], color="#9ca3af", linewidth=1, linestyle="--")
    axes.scatter(x, y, s=10, alpha=0.45, color=_SHORT, linewidths=0)
    tau = kendall_tau_b(x, y)
    ranking = "" if tau is None else f" (Kendall τ-b {tau:.2f})"
    axes.set(xscale="log", yscale="log", xlim=(0.9, top), ylim=(0.9, top))
    axes.set(xlabel="predicted tokens", ylabel="true tokens", title=f"Predicted and true lengths{ranking}")
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_major_formatter(_plain_numbers())
    axes.grid(visible=True, color="#e5e7eb", linewidth=0.6)
    return figure


def svg(figure: "Figure") -> str:
    """The picture as an <svg> element that scales with its page."""
    buffer = io.StringIO()
    figure.savefig(buffer, format="svg", metadata={"Date": None, "Creator": None})
    text = buffer.getvalue()
    text = text[text.index("<svg") :]
    return re.sub(r' (width|height)="[\d.]+pt"', "", text, count=2)


def save(figure: "Figure", path: Path) -> None:
    """Write the picture in the format that the path's ending names."""
    figure.savefig(path, dpi=160, metadata={"Date": None} if path.suffix == ".svg" else None)


def _figure(panels: int, *, width: float, height: float, share: bool = False) -> tuple["Figure", NDArray[Any]]:
    try:
        import matplotlib as mpl  # noqa: PLC0415 - an extra
        from matplotlib.figure import Figure  # noqa: PLC0415
    except ImportError:
        raise ConfigError("drawing needs matplotlib; install it with: pip install 'ssjf[plot]'") from None
    mpl.rcParams.update(_STYLE)
    figure = Figure(figsize=(width, height), layout="constrained", facecolor="white")
    axes = figure.subplots(1, panels, sharex=share, sharey=share, squeeze=False)
    return figure, axes[0]


def _plain_numbers() -> Any:
    from matplotlib.ticker import FuncFormatter  # noqa: PLC0415

    return FuncFormatter(lambda value, _: f"{value:g}")


def _percent() -> Any:
    from matplotlib.ticker import PercentFormatter  # noqa: PLC0415

    return PercentFormatter(1.0, decimals=0)
