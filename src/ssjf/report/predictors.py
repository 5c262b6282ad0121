"""Pictures about output lengths and the predictors of them."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from ssjf.report.style import INK, LONG, SHORT, SOFT, styled

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_MAX_MODELS, _MAX_CURVES = 12, 6
_COLOURS = ("#2f7de1", "#e07b0d", "#0f9b8e", "#9163e0", "#d6517d", "#6a9a1f")


@styled
def ranking_and_gain(rows: Sequence[Mapping[str, Any]]) -> "Figure":
    """Each predictor's τ-b and its share of the oracle's gain, as bars side by side; rows are `ssjf evaluate`'s."""
    from matplotlib.figure import Figure  # noqa: PLC0415 - an extra

    figure = Figure(figsize=(8.2, 0.9 + 0.42 * len(rows)))
    panels = figure.subplots(1, 2, sharey=True)
    measures = (("tau_b", "ranking, Kendall's τ-b", SHORT), ("oracle_share", "share of the oracle's gain", LONG))
    for axes, (key, title, colour) in zip(panels, measures, strict=True):
        values = [row[key] or 0.0 for row in rows]
        axes.barh(range(len(rows)), values, color=colour, height=0.66)
        for position, value in enumerate(values):
            axes.annotate(
                f"{value:.2f}" if key == "tau_b" else f"{100 * value:.0f} %",
                (max(value, 0.0), position),
                xytext=(4, 0),
                textcoords="offset points",
                va="center",
                fontsize=9,
                color=INK,
            )
        axes.axvline(0, color=SOFT, linewidth=0.8)
        axes.set(title=title, xlim=(min(0.0, *values), 1.2 * max([*values, 0.05])), xticks=[])
        axes.set_yticks(range(len(rows)), [str(row["predictor"]) for row in rows])
        axes.spines["bottom"].set_visible(False)
        axes.tick_params(length=0)
        axes.tick_params(axis="y", labelcolor=INK)
    panels[0].invert_yaxis()
    return figure


@styled
def length_distributions(lengths: Mapping[str, Sequence[int]]) -> "Figure":
    """Histogram, distribution function and box plots of output lengths: boxes of a dozen models, curves of six."""
    from matplotlib.figure import Figure  # noqa: PLC0415 - an extra

    shown = {model or "all": np.maximum(1, np.asarray(values)) for model, values in list(lengths.items())[:_MAX_MODELS]}
    figure = Figure(figsize=(9.0, 4.2 + 0.28 * len(shown)))
    figures: Any = figure.subfigures(2, 1, height_ratios=(3.0, 1.0 + 0.28 * len(shown)))
    top, bottom = figures
    histogram, cumulative = top.subplots(1, 2)
    longest = max(float(values.max()) for values in shown.values())
    edges = np.geomspace(1, longest * 1.01, 40)
    for position, (model, values) in enumerate(list(shown.items())[:_MAX_CURVES]):
        colour = _COLOURS[position % len(_COLOURS)]
        share = np.histogram(values, edges)[0] / len(values)
        histogram.stairs(share, edges, color=colour, linewidth=1.4, label=model)
        ordered = np.sort(values)
        kept = np.unique(np.linspace(0, len(ordered) - 1, min(len(ordered), 300)).astype(int))
        cumulative.step(ordered[kept], (kept + 1) / len(ordered), where="post", color=colour, linewidth=1.4)
    for axes, title in ((histogram, "share of answers"), (cumulative, "share of answers up to this length")):
        axes.set(xscale="log", title=title, xlabel="output tokens", xlim=(1, longest * 1.05))
        axes.grid(visible=True)
    boxes = bottom.subplots()
    boxes.boxplot(list(shown.values()), orientation="horizontal", whis=(5, 95), showfliers=False, widths=0.6)
    boxes.set_yticks(range(1, len(shown) + 1), list(shown), fontsize=8)
    boxes.set(xscale="log", xlim=(1, longest * 1.05), title="half of the answers in the box, 90 % within the whiskers")
    boxes.invert_yaxis()
    boxes.grid(visible=True, axis="x")
    if len(shown) > 1:
        histogram.legend(fontsize=7)
    return figure
