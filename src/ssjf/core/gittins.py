"""The Gittins index of a job, from quantiles of its predicted service.

This module does not know where the quantiles come from, nor whether they are right.
"""

from dataclasses import dataclass
from math import inf

from ssjf.core.types import Job

_TINY_S = 1e-9  # service seconds that differ by less are taken for the same


@dataclass(frozen=True, slots=True)
class Gittins:
    """Shortest *expected* service that is left, by the predicted distribution.

    That is the Gittins index of jobs which run to their end once they have begun, and optimal for the mean among all
    orders that interrupt nobody (Rothkopf 1966, "Scheduling with random service times"). It differs from `SSJF` where
    the prediction is not the mean, and where a host that runs out of memory asks whom to throw out.
    """

    static = True

    def key(self, job: Job, now: float) -> float:
        """Expected service seconds still to be served."""
        if not job.attained_s:
            return _fresh(_quantiles(job))[1]
        spent_s, ended = _quanta(job)[-1]
        return spent_s / ended


@dataclass(frozen=True, slots=True)
class PreemptiveGittins:
    """Gittins index: the least service to be spent per completion when one may stop at any time.

    Optimal for the mean on one server when nothing but the distributions is known (Gittins 1989; Aalto, Ayesta and
    Righter 2009, "On the Gittins index in the M/G/1 queue").
    """

    static = True
    preemptive = True

    def key(self, job: Job, now: float) -> float:
        """Expected service over probability of completion, for the best quantum."""
        if not job.attained_s:
            return _fresh(_quantiles(job))[0]
        return min(spent_s / ended for spent_s, ended in _quanta(job))

    def look_again_s(self, job: Job) -> float:
        """When the next quantile is reached: between two, the index of a running job only gets better."""
        left = (service_s - job.attained_s for _, service_s in _quantiles(job))
        return next((left_s for left_s in left if left_s > _TINY_S), inf)


def _quantiles(job: Job) -> tuple[tuple[float, float], ...]:
    """(level, service seconds), increasing; without a distribution the prediction is taken for certain."""
    return job.service_quantiles or ((1.0, job.predicted_service_s),)


def _quanta(job: Job) -> list[tuple[float, float]]:
    """For each quantum worth looking at: the service that it costs, and the probability that it ends the job.

    Between quantiles the distribution function F is linear. Below the first it goes on with the slope of the first
    piece, but starts no earlier than at 0. Who outlives the last is expected to need as long again, with a constant
    rate of completion; from there the index gets neither better nor worse.

    The best quantum then ends at a quantile or never. It goes from the attained service a to some b, costs N(b) = ∫ 1
    − F and ends the job with D(b) = F(b) − F(a), both per job that gets as far as a. On a piece of density f,
    (N ÷ D)' = f ÷ D · ((1 − F) ÷ f − N ÷ D). The first quotient falls with slope −1, so that the difference changes
    its sign once, from + to −: N ÷ D is least at one of the piece's ends, and not at a, where it equals the first. In
    the tail that quotient is constant, and N ÷ D tends to it.

    Returns:
        (N, D), both times the share of jobs that get as far as a; the last quantum has no end. O(quantiles).
    """
    quantiles, attained_s = _quantiles(job), job.attained_s
    last_s = quantiles[-1][1]
    if last_s - attained_s <= _TINY_S:
        return [(max(last_s, _TINY_S), 1.0)]
    at_s, level = _start_s(quantiles), 0.0
    attained, spent_s = 0.0, max(0.0, at_s - attained_s)
    quanta = []
    for next_level, next_s in quantiles:
        if next_s - attained_s <= _TINY_S:
            attained = next_level
        else:
            if at_s < attained_s:
                attained = level = level + (next_level - level) * (attained_s - at_s) / (next_s - at_s)
                at_s = attained_s
            spent_s += (next_s - at_s) * (1 - (level + next_level) / 2)
            quanta.append((spent_s, next_level - attained))
        at_s, level = next_s, next_level
    quanta.append((spent_s + (1 - level) * last_s, 1 - attained))
    return quanta


def _fresh(quantiles: tuple[tuple[float, float], ...]) -> tuple[float, float]:
    """For a job that has not run yet, which queues ask about most: N ÷ D of the best quantum and the endless one."""
    at_s = spent_s = _start_s(quantiles)
    level, best = 0.0, inf
    for next_level, next_s in quantiles:
        spent_s += (next_s - at_s) * (1 - (level + next_level) / 2)
        ratio = spent_s / next_level
        best = min(best, ratio)
        at_s, level = next_s, next_level
    endless = spent_s + (1 - level) * at_s
    return min(best, endless), endless


def _start_s(quantiles: tuple[tuple[float, float], ...]) -> float:
    """Where the distribution function leaves 0."""
    level, service_s = quantiles[0]
    if len(quantiles) == 1:
        return service_s
    next_level, next_s = quantiles[1]
    return max(0.0, service_s - level * (next_s - service_s) / (next_level - level))
