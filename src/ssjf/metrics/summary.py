"""Pure functions over job tables: one summary per run, in the schema of `summary.json`.

Percentiles interpolate linearly between order statistics (numpy's default). What does not apply is None.
"""

import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ssjf.metrics.table import Floats, JobTable

Summary = dict[str, Any]

_MIN_WAIT_S = 1e-3  # shorter waits are the host's bookkeeping, not a queue


def summarize(
    table: JobTable,
    *,
    fcfs: JobTable | None = None,
    oracle: JobTable | None = None,
    alone_s: Floats | None = None,
) -> Summary:
    """What one run gave.

    Args:
        table: the run's jobs, in any order.
        fcfs: the same jobs under first come first served; `gain` compares with it.
        oracle: the same jobs under non-preemptive shortest true service first; `oracle_share` compares with it.
        alone_s: seconds that each job (row of `table`) takes on an idle engine; slowdown, and the border between
            short and long jobs, come from it. Without it the border is the median of output tokens. Jobs that lie
            on the border are neither short nor long.

    Returns:
        One object of `summary.json`; means and percentiles are over completed jobs.
    """
    done = table.completed
    size = table.output_tokens if alone_s is None else alone_s
    middle = np.median(size[done]) if done.any() else 0
    summary: Summary = {"policy": table.policy, "seed": table.seed, "n": len(table), "failed": int((~done).sum())}
    summary |= _measures(table, done, alone_s)
    summary["output_tokens_per_s"] = tokens_per_second_while_waiting(table)
    summary["gain"] = None if fcfs is None else gain(table, fcfs)
    summary["oracle_share"] = None if fcfs is None or oracle is None else oracle_share(table, fcfs, oracle)
    for half, rows in (("short", done & (size < middle)), ("long", done & (size > middle))):
        summary[half] = {"n": int(rows.sum()), **_measures(table, rows, alone_s)}
    return summary


def gain(table: JobTable, fcfs: JobTable) -> float | None:
    """1 − mean JCT ÷ mean JCT under FCFS, over the jobs that both completed."""
    own, reference = _mean_jcts(table, fcfs)
    return None if own is None or not reference else 1 - own / reference


def oracle_share(table: JobTable, fcfs: JobTable, oracle: JobTable) -> float | None:
    """The share of the oracle's gain, (FCFS − X) ÷ (FCFS − SJF) of mean JCT, over the jobs that all three completed.

    None where the oracle gained nothing.
    """
    own, first_come, best = _mean_jcts(table, fcfs, oracle)
    if own is None or first_come is None or best is None or first_come <= best:
        return None
    return (first_come - own) / (first_come - best)


def tokens_per_second_while_waiting(table: JobTable) -> float | None:
    """Output tokens per second while somebody waits.

    A job waits from arrival to start. Its tokens are taken to come evenly from start to finish. What falls into the
    union of all waiting intervals is divided by that union's length: so the drain at the end of a run, which says
    nothing about throughput, does not count, and a job at its edge counts by its share. None where nobody ever waited,
    or no start is known.
    """
    queued = table.start_s - table.arrival_s > _MIN_WAIT_S
    waits = _union(table.arrival_s[queued], table.start_s[queued])
    total_s = float(np.sum(waits[:, 1] - waits[:, 0]))
    if not total_s:
        return None
    served = table.completed & (table.finish_s > table.start_s)
    start, finish = table.start_s[served], table.finish_s[served]
    share = (_covered(waits, finish) - _covered(waits, start)) / (finish - start)
    return float(np.sum(share * table.output_tokens[served])) / total_s


def interval95(values: Sequence[float]) -> tuple[float, float | None]:
    """Mean and half-width of the 95 % Student-t interval; no width for a single value."""
    count = len(values)
    mean = math.fsum(values) / count
    if count < 2:
        return mean, None
    deviation = math.sqrt(math.fsum((v - mean) ** 2 for v in values) / (count - 1))
    return mean, _student_t_975(count - 1) * deviation / math.sqrt(count)


def write_summary(path: Path, summaries: Sequence[Summary]) -> None:
    """Write `summary.json` all at once or not at all."""
    text = json.dumps(list(summaries), indent=2, allow_nan=False) + "\n"
    part = path.with_name(path.name + ".part")
    part.write_text(text, encoding="utf-8")
    part.replace(path)


def _measures(table: JobTable, rows: NDArray[np.bool_], alone_s: Floats | None) -> Summary:
    jct = table.jct_s[rows]
    ttft = (table.first_token_s - table.arrival_s)[rows]
    tokens = table.output_tokens[rows]
    several = tokens > 1
    tpot = (table.finish_s - table.first_token_s)[rows][several] / (tokens[several] - 1)
    percentiles = np.percentile(jct, [50, 90, 99]) if jct.size else [math.nan] * 3
    return {
        "mean_jct_s": _mean(jct),
        "p50_jct_s": _number(percentiles[0]),
        "p90_jct_s": _number(percentiles[1]),
        "p99_jct_s": _number(percentiles[2]),
        "max_jct_s": _number(jct.max()) if jct.size else None,
        "mean_wait_s": _mean((table.start_s - table.arrival_s)[rows]),
        "mean_slowdown": None if alone_s is None else _mean(jct / alone_s[rows]),
        "mean_ttft_s": _mean(ttft),
        "p99_ttft_s": _number(np.percentile(ttft, 99)) if ttft.size else None,
        "mean_tpot_s": _mean(tpot),
    }


def _mean(values: Floats) -> float | None:
    return _number(values.mean()) if values.size else None


def _number(value: Any) -> float | None:
    number = float(value)
    return number if math.isfinite(number) else None


def _mean_jcts(*runs: JobTable) -> tuple[float | None, ...]:
    """Mean JCT of each run over the jobs that all of them completed; jobs are matched by index."""
    done = [run.completed for run in runs]
    if all(len(run) == len(runs[0]) and (run.index == runs[0].index).all() for run in runs):
        common = np.logical_and.reduce(done)  # the usual case: the same rows in the same order
        return tuple(_mean(run.jct_s[common]) for run in runs)
    indices = runs[0].index[done[0]]
    for run, completed in zip(runs[1:], done[1:], strict=True):
        indices = np.intersect1d(indices, run.index[completed])
    return tuple(
        _mean(run.jct_s[completed & np.isin(run.index, indices)]) for run, completed in zip(runs, done, strict=True)
    )


def _union(begin: Floats, end: Floats) -> Floats:
    """The union of intervals as rows (begin, end), disjoint and in order."""
    if not begin.size:
        return np.empty((0, 2))
    order = np.argsort(begin, kind="stable")
    begin, reach = begin[order], np.maximum.accumulate(end[order])
    opens = np.concatenate(([True], begin[1:] > reach[:-1]))
    closes = np.concatenate((opens[1:], [True]))
    return np.column_stack((begin[opens], reach[closes]))


def _covered(intervals: Floats, instants: Floats) -> Floats:
    """How much of the intervals lies before each instant."""
    lengths = np.concatenate(([0.0], np.cumsum(intervals[:, 1] - intervals[:, 0])))
    position = np.searchsorted(intervals[:, 0], instants, side="right")
    inside = np.zeros(len(instants))
    some = position > 0
    last = intervals[position[some] - 1]
    inside[some] = lengths[position[some] - 1] + np.minimum(instants[some], last[:, 1]) - last[:, 0]
    return inside


def _student_t_975(freedom: int) -> float:
    """The 97.5 % quantile of Student's t, by bisection on its distribution function.

    The integral is Simpson's over a fine grid: exact to far more digits than an interval needs.
    """
    constant = math.exp(math.lgamma((freedom + 1) / 2) - math.lgamma(freedom / 2)) / math.sqrt(freedom * math.pi)
    low, high = 0.0, 13.0  # 12.71 with one degree of freedom
    for _ in range(50):
        middle = (low + high) / 2
        grid = np.linspace(0.0, middle, 2001)
        density = constant * (1 + grid**2 / freedom) ** (-(freedom + 1) / 2)
        weights = np.ones(2001)
        weights[1:-1:2], weights[2:-1:2] = 4, 2
        mass = float(np.sum(weights * density)) * middle / 2000 / 3
        low, high = (middle, high) if mass < 0.475 else (low, middle)
    return (low + high) / 2
