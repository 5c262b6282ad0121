"""Many job records as columns, and the file `jobs.csv`.

This module does not know where the numbers come from. Instants that never came are NaN inside, empty in the file.
"""

import csv
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, fields
from itertools import repeat
from pathlib import Path
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from ssjf.errors import DataError
from ssjf.metrics.records import JobRecord

Floats = NDArray[np.float64]
Integers = NDArray[np.int64]

COLUMNS = tuple(field.name for field in fields(JobRecord))


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class JobTable:
    """The jobs of one policy and seed; row i of every column is one job. Columns as in `JobRecord`."""

    policy: str
    seed: int
    index: Integers
    arrival_s: Floats
    start_s: Floats
    first_token_s: Floats
    finish_s: Floats
    input_tokens: Integers
    output_tokens: Integers
    predicted_tokens: Floats
    status: Sequence[str]

    def __len__(self) -> int:
        return len(self.index)

    @classmethod
    def from_records(cls, records: Sequence[JobRecord]) -> Self:
        """Columns of records that share policy and seed; at least one."""
        assert records, "a table needs at least one record"
        first = records[0]
        assert all((r.policy, r.seed) == (first.policy, first.seed) for r in records), "one policy and seed a table"

        def floats(name: str) -> Floats:
            return np.array([math.nan if (v := getattr(r, name)) is None else v for r in records], dtype=np.float64)

        def integers(name: str) -> Integers:
            return np.array([getattr(r, name) for r in records], dtype=np.int64)

        return cls(
            policy=first.policy,
            seed=first.seed,
            index=integers("index"),
            arrival_s=floats("arrival_s"),
            start_s=floats("start_s"),
            first_token_s=floats("first_token_s"),
            finish_s=floats("finish_s"),
            input_tokens=integers("input_tokens"),
            output_tokens=integers("output_tokens"),
            predicted_tokens=floats("predicted_tokens"),
            status=[r.status for r in records],
        )

    @property
    def completed(self) -> NDArray[np.bool_]:
        """Which jobs were answered to the end."""
        return np.array([status == "completed" for status in self.status], dtype=bool)

    @property
    def jct_s(self) -> Floats:
        """Job completion time, finish − arrival."""
        return self.finish_s - self.arrival_s


def tables(records: Iterable[JobRecord]) -> list[JobTable]:
    """One table for each (policy, seed), in order of appearance."""
    groups: dict[tuple[str, int], list[JobRecord]] = {}
    for record in records:
        groups.setdefault((record.policy, record.seed), []).append(record)
    return [JobTable.from_records(group) for group in groups.values()]


def write_jobs_csv(path: Path, jobs: Iterable[JobTable]) -> None:
    """Write `jobs.csv` all at once or not at all; floats read back to the last bit."""
    part = path.with_name(path.name + ".part")
    try:
        with part.open("w", newline="", encoding="utf-8") as file:
            writer = csv.writer(file, lineterminator="\n")  # writes the shortest text that reads back to the same float
            writer.writerow(COLUMNS)
            for table in jobs:
                columns = [_cells(getattr(table, name)) for name in COLUMNS[2:]]
                writer.writerows(zip(repeat(table.policy), repeat(table.seed), *columns))
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)


def read_jobs_csv(path: Path) -> list[JobTable]:
    """Read `jobs.csv` back: one table for each (policy, seed), in order of appearance.

    Raises:
        DataError: it is missing or not such a file.
    """
    groups: dict[tuple[str, str], list[list[str]]] = {}
    try:
        with path.open(newline="", encoding="utf-8") as file:
            rows = csv.reader(file)
            if tuple(next(rows, ())) != COLUMNS:
                raise DataError(f"{path} is not a jobs.csv: its columns must be {', '.join(COLUMNS)}")
            for row in rows:
                groups.setdefault((row[0], row[1]), []).append(row)
        return [_table(policy, int(seed), group) for (policy, seed), group in groups.items()]
    except (OSError, IndexError, ValueError, csv.Error) as error:
        raise DataError(f"{path} cannot be read as a jobs.csv: {error}") from None


def _cells(column: Sequence[Any] | NDArray[Any]) -> Sequence[Any]:
    if not isinstance(column, np.ndarray):
        return column
    cells: list[Any] = column.tolist()
    if np.isnan(column).any():
        return ["" if math.isnan(cell) else cell for cell in cells]
    return cells


def _table(policy: str, seed: int, rows: list[list[str]]) -> JobTable:
    text = dict(zip(COLUMNS, zip(*rows, strict=True), strict=True))

    def floats(name: str) -> Floats:
        return np.array([float(cell) if cell else math.nan for cell in text[name]], dtype=np.float64)

    def integers(name: str) -> Integers:
        return np.array(list(map(int, text[name])), dtype=np.int64)

    return JobTable(
        policy=policy,
        seed=seed,
        index=integers("index"),
        arrival_s=floats("arrival_s"),
        start_s=floats("start_s"),
        first_token_s=floats("first_token_s"),
        finish_s=floats("finish_s"),
        input_tokens=integers("input_tokens"),
        output_tokens=integers("output_tokens"),
        predicted_tokens=floats("predicted_tokens"),
        status=list(text["status"]),
    )
