"""The laboratory: a grid of cases × seeds, every policy on the same jobs, one summary each.

A *case* says what is asked of which host: slots, load, arrival process, predictor. A *cell* is one case and seed: jobs,
arrivals and predictions are drawn once and all policies serve them, so differences between policies are not those of
the draw. Each finished cell is kept in a file of its own; a run that was stopped goes on from there.

This module does not know how results are shown.
"""

import hashlib
import json
import os
import signal
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ProcessPoolExecutor, as_completed
from dataclasses import asdict, dataclass
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np

from ssjf.core.policies import FCFS, SSJF
from ssjf.core.types import Policy
from ssjf.metrics.summary import Summary, summarize
from ssjf.metrics.table import JobTable
from ssjf.sim.host import Host, Trace
from ssjf.workload.items import WorkItem

TAIL = {"p90_vs_fcfs": "p90_jct_s", "p99_vs_fcfs": "p99_jct_s", "max_vs_fcfs": "max_jct_s"}

# the tail that an operator may be asked to accept
LIMITS = {"p90_vs_fcfs": 1.08, "p99_vs_fcfs": 1.05, "max_vs_fcfs": 1.10}


@dataclass(frozen=True, slots=True, order=True)
class Case:
    """What is asked of which host.

    Attributes:
        slots: jobs that run at once.
        load: arrival rate over the rate at which the host is always busy.
        arrivals: the process, without its rate.
        predictor: where predictions come from.
    """

    slots: int
    load: float
    arrivals: str
    predictor: str

    def __str__(self) -> str:
        plural = "" if self.slots == 1 else "s"
        return f"{self.slots} slot{plural}, load {self.load:g}, {self.arrivals}, {self.predictor}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Laboratory:
    """What all cells have in common; the functions must be picklable.

    Attributes:
        items: what is asked; each seed draws its jobs from them.
        jobs: how many each cell serves.
        policies: by their specifications, in the order of the results.
        host: the host for the drawn items, with so many slots.
        trace: arrivals and predictions for drawn items: (items, case, host, seed) -> trace.
        serve: one policy on a trace: (trace, specification, policy, host, seed) -> table.
        fingerprint: whatever else the results depend on, as text.
    """

    items: Sequence[WorkItem]
    jobs: int
    policies: Mapping[str, Policy]
    host: Callable[[Sequence[WorkItem], int], Host]
    trace: Callable[[Sequence[WorkItem], Case, Host, int], Trace]
    serve: Callable[[Trace, str, Policy, Host, int], JobTable]
    fingerprint: str


def drawn(items: Sequence[WorkItem], jobs: int, seed: int) -> list[WorkItem]:
    """A sample of the items, the same for the same seed; without replacement where there are enough."""
    rng = np.random.default_rng([seed, 0x64726177])
    rows = rng.choice(len(items), jobs, replace=jobs > len(items))
    return [items[row] for row in rows]


def run_cell(laboratory: Laboratory, case: Case, seed: int) -> list[Summary]:
    """One summary for each policy, with the case in it, and the tail as ratios to FCFS's."""
    items = drawn(laboratory.items, laboratory.jobs, seed)
    host = laboratory.host(items, case.slots)
    trace = laboratory.trace(items, case, host, seed)
    known = {
        "fcfs": laboratory.serve(trace, "fcfs", FCFS(), host, seed),
        "sjf": laboratory.serve(trace, "sjf", SSJF(), host, seed),
    }
    alone_s = host.alone_s(trace.input_tokens, trace.output_tokens)
    reference = summarize(known["fcfs"])
    rows = []
    for spec, policy in laboratory.policies.items():
        table = known.get(spec) or laboratory.serve(trace, spec, policy, host, seed)
        row = summarize(table, fcfs=known["fcfs"], oracle=known["sjf"], alone_s=alone_s)
        rows.append({**row, **asdict(case), **{name: row[key] / reference[key] for name, key in TAIL.items()}})
    return rows


def run(
    laboratory: Laboratory,
    cases: Sequence[Case],
    seeds: int,
    *,
    folder: Path,
    workers: int,
    on_cell: Callable[[bool], None],
) -> list[Summary]:
    """All cells, on several processes; those that are there already are read.

    Args:
        laboratory: what they have in common.
        cases: the grid.
        seeds: repetitions of each case.
        folder: where finished cells are kept.
        workers: processes; 1 runs in this one.
        on_cell: told of each cell, and whether it was there already.

    Returns:
        The summaries, by case, seed and policy in the order given, whatever the number of workers.
    """
    folder.mkdir(parents=True, exist_ok=True)
    cells = [(case, seed) for case in cases for seed in range(seeds)]
    base = _digest(laboratory)
    found: dict[tuple[Case, int], list[Summary]] = {}
    missing = []
    for cell in cells:
        rows = _read(_path(folder, base, *cell))
        if rows is None:
            missing.append(cell)
        else:
            found[cell] = rows
            on_cell(True)
    for cell, rows in _computed(laboratory, missing, workers):
        _write(_path(folder, base, *cell), rows)
        found[cell] = rows
        on_cell(False)
    return [row for cell in cells for row in found[cell]]


def _computed(
    laboratory: Laboratory, cells: Sequence[tuple[Case, int]], workers: int
) -> Iterator[tuple[tuple[Case, int], list[Summary]]]:
    if workers == 1 or len(cells) <= 1:
        for cell in cells:
            yield cell, run_cell(laboratory, *cell)
        return
    # processes start anew: the one that has a progress bar has threads, which do not survive a fork
    pool = ProcessPoolExecutor(
        min(workers, len(cells)), mp_context=get_context("spawn"), initializer=_begin, initargs=(laboratory,)
    )
    try:
        waiting: dict[Future[list[Summary]], tuple[Case, int]] = {pool.submit(_cell, *cell): cell for cell in cells}
        for future in as_completed(waiting):
            yield waiting[future], future.result()
    finally:
        pool.shutdown(wait=False, cancel_futures=True)


_laboratory: list[Laboratory] = []  # of a worker process


def _begin(laboratory: Laboratory) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent ends everything
    _laboratory.append(laboratory)


def _cell(case: Case, seed: int) -> list[Summary]:
    return run_cell(_laboratory[0], case, seed)


def _digest(laboratory: Laboratory) -> str:
    """Of everything that the results of a cell depend on, but for the case and the seed."""
    digest = hashlib.sha256()
    for part in (laboratory.fingerprint, str(laboratory.jobs), *map(repr, laboratory.policies.items())):
        digest.update(part.encode() + b"\0")
    for item in laboratory.items:
        digest.update(repr(item).encode())
    return digest.hexdigest()


def _path(folder: Path, base: str, case: Case, seed: int) -> Path:
    name = hashlib.sha256(f"{base}\0{case!r}\0{seed}".encode()).hexdigest()[:20]
    return folder / f"{name}.json"


def _read(path: Path) -> list[Summary] | None:
    """A finished cell; None where there is none, or a damaged file."""
    try:
        rows: Any = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return rows if isinstance(rows, list) and rows and all(isinstance(row, dict) for row in rows) else None


def _write(path: Path, rows: list[Summary]) -> None:
    part = path.with_name(f"{path.name}.{os.getpid()}")
    part.write_text(json.dumps(rows, allow_nan=False), encoding="utf-8")
    part.replace(path)
