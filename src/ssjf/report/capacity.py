"""A picture of capacity: what users see as the rate grows, against what they were promised."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

from ssjf.report.style import INK, colour_of, styled

if TYPE_CHECKING:
    from matplotlib.figure import Figure


@styled
def limit_over_rate(
    points: Mapping[str, Sequence[tuple[float, float]]],
    answers: Mapping[str, float],
    *,
    limit_s: float,
    what: str,
    over: str,
) -> "Figure":
    """What was measured at each rate (or number of replicas) by policy, the limit as a line across, and the answers.

    Args:
        points: (rate, seconds) of every run, by policy; those at one rate are its seeds, and their mean is drawn where
            all seeds were there.
        answers: rate by policy.
        limit_s: the line.
        what: name of the measured statistic.
        over: name of the other axis.
    """
    from matplotlib.figure import Figure  # noqa: PLC0415 - an extra

    figure = Figure(figsize=(7.2, 3.9))
    axes = figure.subplots()
    for position, (policy, measured) in enumerate(points.items()):
        rates = np.array([rate for rate, _ in measured])
        seconds = np.array([value for _, value in measured])
        at, counts = np.unique(rates, return_counts=True)
        at = at[counts == counts.max()]
        means = [float(seconds[rates == rate].mean()) for rate in at]
        axes.plot(at, means, color=colour_of(policy, position), marker="o", markersize=3, label=policy)
        if policy in answers:
            axes.plot(
                answers[policy], limit_s, color=colour_of(policy, position), marker="v", markersize=9, linestyle=""
            )
    axes.axhline(limit_s, color=INK, linewidth=1.2, linestyle=(0, (4, 3)))
    axes.annotate("the limit", (0.01, limit_s), xycoords=("axes fraction", "data"), va="bottom", fontsize=9, color=INK)
    axes.set(xlabel=over, ylabel=f"{what}, seconds", ylim=(0, 3 * limit_s))
    axes.grid(visible=True)
    figure.legend(loc="outside upper left", ncols=5, handlelength=1.6, columnspacing=1.6)
    return figure
