"""Pictures of a comparison over many cases: what each policy gains, and what it does to the tail.

Rows are objects of `summary.json` with the case (slots, load, arrivals, predictor) and the tail relative to FCFS in
them; several rows of one policy and case are its seeds.
"""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from ssjf.metrics.summary import interval95
from ssjf.report.style import INK, LINE, SOFT, colour_of, styled

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

Row = Mapping[str, Any]

_TAIL = (("p90_vs_fcfs", "p90", 8), ("p99_vs_fcfs", "p99", 5), ("max_vs_fcfs", "worst", 10))  # limits in per cent
_CASE = ("slots", "load", "arrivals", "predictor")
_MARKERS = "osD^vP*Xph<>"
_LINEAR = 10  # per cent of change, within which the axis is linear; beyond, it is logarithmic
_MAX_CASES = 8


@styled
def frontier(rows: Sequence[Row]) -> "Figure":
    """Gain in the mean against the change of the tail: one line of panels for each case, up and left is better.

    Grey: the changes within 8 % for p90, 5 % for p99 and 10 % for the worst. The dashed line is the gain of the oracle.
    Of many cases the first few are shown.
    """
    from matplotlib.lines import Line2D  # noqa: PLC0415 - an extra

    cases = list(dict.fromkeys(tuple(row[key] for key in _CASE) for row in rows))[:_MAX_CASES]
    policies = list(dict.fromkeys(row["policy"] for row in rows))
    from matplotlib.figure import Figure  # noqa: PLC0415

    figure = Figure(figsize=(9.0, 1.1 + 2.35 * len(cases)))
    panels = figure.subplots(len(cases), len(_TAIL), sharex="col", sharey="row", squeeze=False)
    for line, case in zip(panels, cases, strict=True):
        of_case = [row for row in rows if tuple(row[key] for key in _CASE) == case]
        for axes, (key, name, limit) in zip(line, _TAIL, strict=True):
            _frontier_panel(axes, of_case, policies, key, limit)
            if axes in panels[-1]:
                axes.set_xlabel(f"change of {name} against FCFS")
        line[0].set_ylabel("gain in the mean")
        line[0].set_title(_title(case), fontsize=9.5)
    keys = [
        Line2D([], [], color=colour_of(name, position), marker=_marker(position), linestyle="", label=name)
        for position, name in enumerate(policies)
    ]
    figure.legend(handles=keys, loc="outside upper left", ncols=5, handlelength=1.0, columnspacing=1.4, fontsize=9)
    return figure


@styled
def gain_over_load(rows: Sequence[Row]) -> "Figure":
    """Gain in the mean over the load, a curve with its 95 % band for each policy, in a panel for all else."""
    from matplotlib.figure import Figure  # noqa: PLC0415 - an extra

    others = ("slots", "arrivals", "predictor")
    groups = list(dict.fromkeys(tuple(row[key] for key in others) for row in rows))[:_MAX_CASES]
    policies = list(dict.fromkeys(row["policy"] for row in rows))
    columns = min(2, len(groups))
    height = -(-len(groups) // columns)
    figure = Figure(figsize=(1.2 + 3.9 * columns, 1.0 + 2.9 * height))
    panels = figure.subplots(height, columns, sharex=True, sharey=True, squeeze=False)
    for axes, group in zip(panels.flat, groups, strict=False):
        for position, policy in enumerate(policies):
            own = [row for row in rows if row["policy"] == policy and tuple(row[key] for key in others) == group]
            loads = sorted({row["load"] for row in own})
            means, halves = zip(
                *(interval95([row["gain"] for row in own if row["load"] == load]) for load in loads), strict=True
            )
            colour = colour_of(policy, position)
            axes.plot(loads, means, color=colour, marker=_marker(position), markersize=4, label=policy)
            low = [mean - (half or 0.0) for mean, half in zip(means, halves, strict=True)]
            high = [mean + (half or 0.0) for mean, half in zip(means, halves, strict=True)]
            axes.fill_between(loads, low, high, color=colour, alpha=0.15, linewidth=0)
        slots, arrivals, predictor = group
        axes.set_title(f"{slots} slot{'s' * (slots != 1)}, {arrivals}, {predictor}", fontsize=9.5)
        axes.grid(visible=True)
        axes.yaxis.set_major_formatter(_percent)
    for axes in panels.flat[len(groups) :]:
        axes.set_visible(False)
    for axes in panels[-1]:
        axes.set_xlabel("load")
    for axes in panels[:, 0]:
        axes.set_ylabel("gain in the mean")
    handles, labels = panels[0, 0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside upper left", ncols=5, handlelength=1.4, columnspacing=1.4, fontsize=9)
    return figure


def _frontier_panel(axes: "Axes", rows: Sequence[Row], policies: Sequence[str], key: str, limit: float) -> None:
    axes.axvspan(-1e3, limit, color=LINE, alpha=0.45, linewidth=0)
    axes.axvline(0, color=SOFT, linewidth=0.8)
    axes.axhline(0, color=SOFT, linewidth=0.8)
    for position, policy in enumerate(policies):
        own = [row for row in rows if row["policy"] == policy]
        if not own:
            continue
        change = 100 * (interval95([row[key] for row in own])[0] - 1)
        gain = interval95([row["gain"] for row in own])[0]
        if policy == "sjf":
            axes.axhline(gain, color=colour_of(policy), linewidth=1, linestyle=(0, (4, 3)))
        edge = INK if policy == "auto" else "none"
        axes.plot(
            change,
            gain,
            marker=_marker(position),
            markersize=8 if policy == "auto" else 6.5,
            color=colour_of(policy, position),
            markeredgecolor=edge,
            linestyle="",
        )
    axes.set_xscale("symlog", linthresh=_LINEAR, linscale=1.6)
    axes.set_xlim(-80, max(40.0, 1.5 * max(100 * (row[key] - 1) for row in rows)))
    ticks = [tick for tick in (-50, 0, 10, 100, 1000) if tick < axes.get_xlim()[1]]
    axes.set_xticks(ticks, [f"{tick:+d} %".replace("-", "−") if tick else "0" for tick in ticks])
    axes.minorticks_off()
    axes.yaxis.set_major_formatter(_percent)


def _percent(value: float, _position: float) -> str:
    return f"{100 * value:.3g} %".replace("-", "−")


def _marker(position: int) -> str:
    return _MARKERS[position % len(_MARKERS)]


def _title(case: tuple[Any, ...]) -> str:
    slots, load, arrivals, predictor = case
    return f"{slots} slot{'s' * (slots != 1)}, load {load:g}, {arrivals}, {predictor}"
