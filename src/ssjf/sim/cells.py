"""Cells of the laboratory on all cores, and finished ones on disk.

A finished cell is one small file, written at once or not at all, and named by all that its result depends on, the
program included. So a run that was stopped goes on where it was, and nothing else is ever taken for this. This module
does not know what a cell is good for.
"""

import hashlib
import inspect
import json
import os
import signal
import threading
from collections.abc import Generator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from contextlib import suppress
from functools import cache
from importlib.metadata import version
from multiprocessing import active_children, get_context, parent_process
from pathlib import Path
from typing import Any

from ssjf.errors import SSJFError
from ssjf.metrics.summary import Summary
from ssjf.plugins import make_policy
from ssjf.sim.compare import Cell, Laboratory

_ROOMS = ("core", "metrics", "sim", "workload")  # whose code a result depends on


class CellFolder:
    """Finished cells of one laboratory.

    Attributes:
        path: the folder, which exists before anything is put there.
    """

    def __init__(self, path: Path, laboratory: Laboratory) -> None:
        self.path = path
        self._laboratory = laboratory

    def get(self, cell: Cell) -> Summary | None:
        """The cell's summary; None if it is not there, is of another setting or program, or cannot be read."""
        wanted = self._description(cell)
        try:
            document: Any = json.loads(self._file(wanted).read_bytes())
        except (OSError, ValueError):
            return None
        if not isinstance(document, dict) or document.get("cell") != wanted:
            return None
        summary: Any = document.get("summary")
        return summary if isinstance(summary, dict) and summary.get("policy") == cell.policy else None

    def put(self, cell: Cell, summary: Summary) -> None:
        """Keep a finished cell."""
        description = self._description(cell)
        file = self._file(description)
        part = file.with_name(f"{file.name}.{os.getpid()}.part")
        part.write_text(json.dumps({"cell": description, "summary": summary}, allow_nan=False), encoding="utf-8")
        part.replace(file)

    def _description(self, cell: Cell) -> dict[str, Any]:
        return {"program": _program(cell.policy), **self._laboratory.description(cell)}

    def _file(self, description: dict[str, Any]) -> Path:
        return self.path / f"{hashlib.sha256(json.dumps(description).encode()).hexdigest()[:32]}.json"


@cache
def _program(policy: str) -> str:
    """A digest of the code that a result depends on: of this package, and of the policy, which may be a stranger's."""
    digest = hashlib.sha256(version("ssjf").encode())
    package = Path(__file__).parents[1]
    files = sorted(file for room in _ROOMS for file in (package / room).rglob("*.py"))
    if policy != "sjf":
        with suppress(TypeError):  # it was not read from a file
            files.append(Path(inspect.getfile(type(make_policy(policy)))))
    for file in files:
        digest.update(file.read_bytes())
    return digest.hexdigest()


def compute(
    laboratory: Laboratory, cells: Sequence[Cell], *, workers: int
) -> Generator[tuple[Cell, Summary], None, None]:
    """Run cells, in this process if `workers` is 1, and yield each when it is finished.

    When the iterator is closed, or anything is raised in it, the other processes end at once.

    Raises:
        SSJFError: a policy failed, or a process died.
    """
    if workers == 1 or len(cells) <= 1:
        for cell in cells:
            yield cell, laboratory.run(cell)
        return
    before = set(active_children())
    # Anew, not forked: this process has threads, if only the progress bar's. The interrupt is for it alone: others
    # inherit the mask, never see Ctrl-C, and are ended below.
    pool = ProcessPoolExecutor(
        min(workers, len(cells)), mp_context=get_context("spawn"), initializer=_begin, initargs=(laboratory,)
    )
    try:
        mask = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
        try:
            waiting = {pool.submit(_run, cell): cell for cell in cells}
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, mask)  # an interrupt that came meanwhile is raised here
        for future in as_completed(waiting):
            yield waiting[future], future.result()
    except BrokenProcessPool:
        raise SSJFError("a worker process died, perhaps for want of memory; try fewer --workers") from None
    except BaseException:
        for process in set(active_children()) - before:
            process.terminate()
        raise
    finally:
        pool.shutdown(cancel_futures=True)


_laboratory: list[Laboratory] = []  # a worker process has one


def _begin(laboratory: Laboratory) -> None:
    _laboratory.append(laboratory)
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    """Else a worker whose parent was killed would wait for work for ever."""
    parent = parent_process()
    assert parent is not None
    parent.join()
    os._exit(1)


def _run(cell: Cell) -> Summary:
    return _laboratory[0].run(cell)
