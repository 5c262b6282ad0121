"""Cells on disk and on several processes: kept at once, never taken for others, the same wherever they are computed."""

import importlib.util
import json
import os
import signal
import sys
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from multiprocessing import active_children
from pathlib import Path
from typing import Any

import pytest

from ssjf.sim import cells
from ssjf.sim.cells import CellFolder, compute
from ssjf.sim.compare import Case, Cell, Generated, Laboratory
from ssjf.sim.host import LinearHost
from ssjf.workload.arrivals import Poisson
from ssjf.workload.generated.lengths import Constant, Exponential

CELL = Cell(policy="ssjf", predictor="lognormal:0.5", case=Case(slots=1, load=0.9, arrivals="poisson"), seed=0)
CELLS = [replace(CELL, seed=seed, policy=policy) for seed in (0, 1) for policy in ("ssjf", "auto")]


def laboratory(jobs: int = 60) -> Laboratory:
    hosts = {(1, seed): LinearHost() for seed in (0, 1)}
    return Laboratory(
        source=Generated(outputs=Exponential(100), inputs=Constant(1)),
        jobs=jobs,
        processes={"poisson": Poisson(1.0)},
        hosts=hosts,
        oracle_hosts=hosts,
    )


@pytest.fixture
def folder(tmp_path: Path) -> CellFolder:
    return CellFolder(tmp_path, laboratory())


def test_a_finished_cell_reads_back_as_it_was(folder: CellFolder) -> None:
    summary = laboratory().run(CELL)
    assert folder.get(CELL) is None
    folder.put(CELL, summary)
    assert folder.get(CELL) == summary
    assert len(list(folder.path.iterdir())) == 1  # and no half-written file


def test_a_cell_of_another_setting_is_not_taken_for_this(folder: CellFolder) -> None:
    folder.put(CELL, laboratory().run(CELL))
    others = [replace(CELL, seed=1), replace(CELL, policy="auto"), replace(CELL, predictor="random")]
    assert [folder.get(other) for other in others] == [None] * 3
    assert CellFolder(folder.path, laboratory(jobs=61)).get(CELL) is None
    assert CellFolder(folder.path, laboratory()).get(CELL) is not None


def test_a_cell_of_another_program_is_not_taken_for_this(folder: CellFolder, monkeypatch: pytest.MonkeyPatch) -> None:
    folder.put(CELL, laboratory().run(CELL))
    monkeypatch.setattr(cells, "_program", lambda _: "changed")
    assert folder.get(CELL) is None


def test_the_program_of_a_policy_includes_its_own_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "mine.py"
    file.write_text("class Mine: ...\n")
    spec = importlib.util.spec_from_file_location("mine", file)
    assert spec is not None
    assert spec.loader is not None
    mine = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, "mine", mine)
    spec.loader.exec_module(mine)
    monkeypatch.setattr(cells, "make_policy", lambda _: mine.Mine())
    before = cells._program.__wrapped__("mine")
    assert cells._program.__wrapped__("mine") == before
    file.write_text("class Mine: ...  # with another rule\n")
    assert cells._program.__wrapped__("mine") != before


@pytest.mark.parametrize("damage", [b"", b"{", b"[]", b'"x"', b'{"cell": {}, "summary": {}}', b"\xff\xfe"])
def test_a_damaged_file_is_no_cell(folder: CellFolder, damage: bytes) -> None:
    folder.put(CELL, laboratory().run(CELL))
    (file,) = folder.path.iterdir()
    file.write_bytes(damage)
    assert folder.get(CELL) is None


def test_a_file_without_its_summary_is_no_cell(folder: CellFolder) -> None:
    folder.put(CELL, laboratory().run(CELL))
    (file,) = folder.path.iterdir()
    file.write_text(json.dumps({"cell": json.loads(file.read_text())["cell"]}))
    assert folder.get(CELL) is None


def test_several_processes_find_the_same() -> None:
    alone = dict(compute(laboratory(), CELLS, workers=1))
    together = dict(compute(laboratory(), CELLS, workers=2))
    assert together == alone == {cell: laboratory().run(cell) for cell in CELLS}


def test_cells_are_computed_one_after_another_as_they_are_asked_for() -> None:
    running = compute(laboratory(), CELLS, workers=1)
    assert next(running)[0] == CELLS[0]
    running.close()
    assert list(running) == []


def test_an_interrupt_while_cells_are_handed_out_leaves_no_process(monkeypatch: pytest.MonkeyPatch) -> None:
    submit = ProcessPoolExecutor.submit

    def interrupted(*arguments: Any) -> Any:
        os.kill(os.getpid(), signal.SIGINT)
        return submit(*arguments)

    monkeypatch.setattr(ProcessPoolExecutor, "submit", interrupted)
    before = set(active_children())
    with pytest.raises(KeyboardInterrupt):
        next(compute(laboratory(), CELLS, workers=2))
    assert set(active_children()) <= before
