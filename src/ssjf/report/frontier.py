"""Pictures of a comparison over many cases: what each policy gains, and what it does to the tail.

A row is an object of `summary.json` with its case (slots, load, arrivals, predictor) and its tail relative to FCFS's;
several rows of one policy and case are its seeds. This module does not know how they came about.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ssjf.metrics.summary import interval95
from ssjf.report.style import INK, LINE, SOFT, colour_of, styled

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

Row = Mapping[str, Any]
Group = tuple[Any, ...]
Interval = tuple[float, float]  # mean and half-width; no width where there is a single seed
Limits = Mapping[str, float]  # ratios to FCFS's by their names in a row, and how much may be asked of an operator

_PANELS = ("slots", "arrivals", "predictor")  # that `gain_over_load` has a panel for
_CASE = ("slots", "load", "arrivals", "predictor")
_PANELS_PER_PICTURE, _CASES_PER_PICTURE = 8, 6  # more would be too tall to look at
_LABEL_INCHES = 0.15  # from one label to the next
_DASHES: tuple[Any, ...] = ("-", (0, (4, 1.5)), (0, (1.2, 1.2)), (0, (5, 1.2, 1.2, 1.2)))
_CORNERS = {"fcfs": "FCFS", "sjf": "oracle"}  # of the frontier
_OWN_MARKERS = {"fcfs": "s", "sjf": "*", "auto": "o"}
_MARKERS = "D^vPX<>hpd8H"
_LINEAR = 10  # per cent of change within which the axis of a tail is linear; it is logarithmic beyond


@dataclass(frozen=True, slots=True)
class _Look:
    """How a policy is drawn, the same in every panel: policies of one colour differ in marker and dashes."""

    colour: str
    marker: str
    dashes: Any


@styled
def gain_over_load(rows: Sequence[Row]) -> list["Figure"]:
    """Gain in the mean over the load: a curve with its 95 % band for each policy, in a panel for all else."""
    groups = list(dict.fromkeys(_key(row, _PANELS) for row in _with_predictors(rows)))
    looks = _looks(rows)
    return [
        _gain_picture(rows, groups[first : first + _PANELS_PER_PICTURE], looks)
        for first in range(0, len(groups), _PANELS_PER_PICTURE)
    ]


@styled
def frontier(rows: Sequence[Row], limits: Limits) -> list["Figure"]:
    """Gain in the mean against the change of the tail, a line of panels for each case; further up and left is better.

    Shaded is what keeps the limits. Two corners stand out: FCFS, and the oracle, which knows every length. Thin lines
    are 95 % intervals.
    """
    cases = list(dict.fromkeys(_key(row, _CASE) for row in _with_predictors(rows)))
    looks = _looks(rows)
    return [
        _frontier_picture(rows, cases[first : first + _CASES_PER_PICTURE], limits, looks)
        for first in range(0, len(cases), _CASES_PER_PICTURE)
    ]


def _gain_picture(rows: Sequence[Row], groups: Sequence[Group], looks: Mapping[str, _Look]) -> "Figure":
    from matplotlib.figure import Figure  # noqa: PLC0415 - an extra

    columns = min(2, len(groups))
    lines = -(-len(groups) // columns)
    inches = max(2.3, _LABEL_INCHES * len(looks))
    figure = Figure(figsize=(5.6 * columns, 0.2 + (inches + 0.75) * lines))
    panels = figure.subplots(lines, columns, squeeze=False)
    for axes, group in zip(panels.flat, groups, strict=False):
        shown = _in_group(rows, group, _PANELS)
        ends: dict[str, float] = {}
        seen: list[float] = []
        for policy, look in looks.items():
            own = [row for row in shown if row["policy"] == policy]
            loads = sorted({row["load"] for row in own})
            if not loads:
                continue
            gains = [_interval([row["gain"] for row in own if row["load"] == load]) for load in loads]
            means = [mean for mean, _ in gains]
            band = [mean - half for mean, half in gains], [mean + half for mean, half in gains]
            axes.fill_between(loads, *band, color=look.colour, alpha=0.12, linewidth=0)
            if len(loads) == 1:  # a band without width
                axes.vlines(loads, *band, color=look.colour, alpha=0.35, linewidth=0.9)
            style = {"color": look.colour, "linestyle": look.dashes, "marker": look.marker, "markersize": 4}
            axes.plot(loads, means, linewidth=1.6, label=policy, **style)
            ends[policy] = means[-1]
            seen += means
        axes.set(title=_title(group, _PANELS), xlabel="load", ylabel="gain in the mean")
        axes.set_xticks(sorted({row["load"] for row in shown}))
        axes.xaxis.set_major_formatter("{x:g}")
        axes.grid(visible=True, axis="y")
        _gain_axis(axes, seen)
        _labels_beside(axes, ends, looks, inches)
    for axes in panels.flat[len(groups) :]:
        axes.set_visible(False)
    return figure


def _frontier_picture(
    rows: Sequence[Row], cases: Sequence[Group], limits: Limits, looks: Mapping[str, _Look]
) -> "Figure":
    from matplotlib.figure import Figure  # noqa: PLC0415 - an extra

    inches = max(2.0, _LABEL_INCHES * len(looks))
    figure = Figure(figsize=(11.0, 0.2 + (inches + 0.75) * len(cases)))
    panels = figure.subplots(len(cases), len(limits), sharex="col", sharey="row", squeeze=False)
    for line, case in zip(panels, cases, strict=True):
        shown = _in_group(rows, case, _CASE)
        gains = {
            policy: _interval([row["gain"] for row in shown if row["policy"] == policy])
            for policy in looks
            if any(row["policy"] == policy for row in shown)
        }
        for axes, (measure, limit) in zip(line, limits.items(), strict=True):
            axes.axvspan(-99, 100 * (limit - 1), color=LINE, alpha=0.45, linewidth=0)
            axes.axvline(0, color=SOFT, linewidth=0.8)
            axes.axhline(0, color=SOFT, linewidth=0.8)
            for policy, gain in gains.items():
                change = _interval([100 * (row[measure] - 1) for row in shown if row["policy"] == policy])
                _point(axes, policy, change, gain, looks[policy])
            axes.set_xlabel(f"change of {measure.removesuffix('_vs_fcfs')} against FCFS, %")
        line[0].set(title=_title(case, _CASE), ylabel="gain in the mean")
        means = {policy: mean for policy, (mean, _) in gains.items()}
        _gain_axis(line[0], list(means.values()))
        _labels_beside(line[-1], means, looks, inches)
    for axes, measure in zip(panels[-1], limits, strict=True):
        _change_axis(axes, [100 * (row[measure] - 1) for row in rows])
    return figure


def _point(axes: "Axes", policy: str, change: Interval, gain: Interval, look: _Look) -> None:
    """A policy at its change of the tail and its gain, with intervals; the two corners stand out."""
    (x, x_half), (y, y_half) = change, gain
    axes.errorbar(x, y, y_half or None, x_half or None, color=look.colour, alpha=0.35, elinewidth=0.9, linestyle="")
    size = 9 if policy in _OWN_MARKERS else 6.5
    edge = INK if policy == "auto" else "none"
    axes.plot(x, y, marker=look.marker, markersize=size, color=look.colour, markeredgecolor=edge, linestyle="")
    if policy in _CORNERS:
        beside: dict[str, Any] = {"ha": "right", "xytext": (-7, 4)} if x > 0 else {"ha": "left", "xytext": (7, 4)}
        beside |= {"textcoords": "offset points", "va": "bottom", "fontsize": 8.5, "color": SOFT}
        axes.annotate(_CORNERS[policy], (x, y), **beside)
    if policy == "sjf":
        axes.axhline(y, color=look.colour, linewidth=0.9, linestyle=(0, (4, 3)), zorder=1)


def _gain_axis(axes: "Axes", means: Sequence[float]) -> None:
    """As high as the means; of few seeds the intervals may be wider than anything there is to see."""
    low, high = min(means), max(means)
    margin = 0.08 * max(high - low, 0.01)
    axes.set_ylim(low - margin, high + margin)
    axes.yaxis.set_major_formatter(_percent)


def _change_axis(axes: "Axes", changes: Sequence[float]) -> None:
    """Per cent, linear about 0 and logarithmic beyond: tails are a few per cent longer, or many times as long."""
    axes.set_xscale("symlog", linthresh=_LINEAR, linscale=1.6)
    axes.set_xlim(max(-99.0, min(-12.0, 1.3 * min(changes))), max(30.0, 1.5 * max(changes)))
    low, high = axes.get_xlim()
    ticks = [tick for tick in (-50, -10, 0, 10, 100, 1000, 10_000) if low < tick < high]
    axes.set_xticks(ticks, [f"{tick:+d}".replace("-", "−") if tick else "0" for tick in ticks])
    axes.minorticks_off()


def _labels_beside(axes: "Axes", heights: Mapping[str, float], looks: Mapping[str, _Look], inches: float) -> None:
    """Names to the right of the axes, each as near to its height as the others let it, with a line to it."""
    low, high = axes.get_ylim()
    order = sorted(heights, key=lambda policy: heights[policy])
    wanted = [(heights[policy] - low) / (high - low) for policy in order]
    for policy, height, place in zip(order, wanted, _spread(wanted, _LABEL_INCHES / inches), strict=True):
        look, beside = looks[policy], axes.transAxes
        line: dict[str, Any] = {
            "color": look.colour,
            "linewidth": 0.8,
            "alpha": 0.7,
            "transform": beside,
            "clip_on": False,
        }
        axes.plot([1.0, 1.02, 1.06], [height, height, place], **line)
        mark: dict[str, Any] = {
            "color": look.colour,
            "marker": look.marker,
            "markersize": 5,
            "clip_on": False,
            "transform": beside,
        }
        axes.plot(1.085, place, linestyle="", **mark)
        weight = "bold" if policy == "auto" else "normal"
        axes.text(1.115, place, policy, transform=beside, va="center", fontsize=8.5, weight=weight)


def _spread(wanted: Sequence[float], gap: float) -> list[float]:
    """Places at least a gap apart, as near as possible to those wanted, which increase, and from 0 to 1 if all fit."""
    # Least squares: without the gaps, places only have to increase; neighbours that would not are pooled at their mean.
    pools: list[tuple[float, int]] = []
    for position, height in enumerate(wanted):
        mean, count = height - position * gap, 1
        while pools and pools[-1][0] > mean:
            other, others = pools.pop()
            mean, count = (mean * count + other * others) / (count + others), count + others
        pools.append((mean, count))
    last = 1 - (len(wanted) - 1) * gap
    places = [min(max(mean, 0.0), max(last, 0.0)) for mean, count in pools for _ in range(count)]
    return [place + position * gap for position, place in enumerate(places)]


def _looks(rows: Sequence[Row]) -> dict[str, _Look]:
    """How each policy is drawn, in order of appearance."""
    policies = list(dict.fromkeys(row["policy"] for row in rows))
    names = list(dict.fromkeys(policy.partition(":")[0] for policy in policies))
    unnamed = [name for name in names if colour_of(name, 0) != colour_of(name, 1)]  # of no colour of their own
    looks: dict[str, _Look] = {}
    for policy in policies:
        name = policy.partition(":")[0]
        colour = colour_of(policy, unnamed.index(name) if name in unnamed else 0)
        alike = sum(look.colour == colour for look in looks.values())
        others = sum(other not in _OWN_MARKERS for other in looks)
        marker = _OWN_MARKERS.get(policy, _MARKERS[others % len(_MARKERS)])
        looks[policy] = _Look(colour, marker, _DASHES[alike % len(_DASHES)])
    return looks


def _with_predictors(rows: Sequence[Row]) -> Sequence[Row]:
    """Rows of policies that are told something; FCFS and oracles belong beside each predictor."""
    return [row for row in rows if row["predictor"] is not None] or rows


def _in_group(rows: Sequence[Row], group: Group, keys: Sequence[str]) -> list[Row]:
    said = dict(zip(keys, group, strict=True))
    return [
        row
        for row in rows
        if row["predictor"] in (said["predictor"], None)
        and all(row[key] == value for key, value in said.items() if key != "predictor")
    ]


def _key(row: Row, keys: Sequence[str]) -> Group:
    return tuple(row[key] for key in keys)


def _title(group: Group, keys: Sequence[str]) -> str:
    said = dict(zip(keys, group, strict=True))
    words = [f"{said['slots']} slot{'s' * (said['slots'] != 1)}"]
    words += [f"load {said['load']:g}"] if "load" in said else []
    words += [said["arrivals"], *([said["predictor"]] if said["predictor"] else [])]
    return ", ".join(words)


def _interval(values: Sequence[float]) -> Interval:
    mean, half = interval95(values)
    return mean, half or 0.0


def _percent(value: float, _position: float) -> str:
    return f"{100 * value:.3g} %".replace("-", "−")
