"""Rows of CSV, JSONL, JSON and Parquet files as raw columns, a chunk at a time.

This module knows file formats; it does not know what a column means.
"""

import codecs
import contextlib
import csv
import gzip
import sqlite3
import sys
import zlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import IO, Any, cast

import orjson

from ssjf.errors import DataError

# So large that the work per chunk vanishes beside the work per row.
_CHUNK_ROWS = 8192


@dataclass(frozen=True, slots=True)
class Chunk:
    """Some consecutive rows.

    Attributes:
        path: the file they stand in.
        columns: raw values by column name, one for each row: text from CSV, else what JSON or Parquet has; None where
            a row lacks the column.
        rows: number of each row in the file, from 0.
        lines: line of the file that each row ends on, from 1; None where the format has no lines.
    """

    path: Path
    columns: dict[str, Sequence[Any]]
    rows: Sequence[int]
    lines: Sequence[int] | None

    def error(self, position: int, message: str) -> DataError:
        """What is wrong with the row at a position of this chunk."""
        return row_error(self.path, self.rows[position], None if self.lines is None else self.lines[position], message)


def row_error(path: Path, row: int, line: int | None, message: str) -> DataError:
    """What is wrong with a row; rows count from 0, as `index` does in result files."""
    where = f"row {row}" if line is None else f"row {row} (line {line})"
    return DataError(f"{path}, {where}: {message}")


def read_chunks(path: Path) -> Iterator[Chunk]:
    """Read a file by its suffix.

    Args:
        path: ends in .csv, .tsv, .jsonl, .json (a list of objects) or .parquet; .gz may follow. Or in .sqlite or .db:
            a gateway's request log, of which completed requests count.

    Raises:
        DataError: the file is not what its suffix says; the message names the row where one is at fault.
    """
    if path.suffix.lower() in _LOGS:
        yield from _read_log(path)
        return
    kind = Path(path.stem).suffix if path.suffix.lower() == ".gz" else path.suffix
    reader = _READERS.get(kind.lower())
    if reader is None:
        raise DataError(f"{path}: the file's name must end in {', '.join((*_READERS, *_LOGS))}; .gz may follow")
    try:
        with _open(path) as file:
            yield from reader(path, file)
    except (OSError, EOFError, zlib.error) as error:
        raise DataError(f"{path} cannot be read: {error}") from None


_LOGS = (".sqlite", ".db")
_LOG_COLUMNS = {
    "arrival_s": "time - jct_s",
    "prompt_features": "features",
    **{name: name for name in ("input_tokens", "output_tokens", "predicted_tokens", "prompt", "model", "tenant")},
}


def _read_log(path: Path) -> Iterator[Chunk]:
    """A gateway's request log, in order of arrival; a gateway may be writing to it."""
    if not path.is_file():
        raise DataError(f"{path} cannot be read: no such file")
    chosen = ", ".join(f"{expression} AS {name}" for name, expression in _LOG_COLUMNS.items())
    query = f"SELECT {chosen} FROM requests WHERE outcome = 'completed' ORDER BY time - jct_s, id"  # noqa: S608 - ours
    try:
        with contextlib.closing(sqlite3.connect(f"{path.resolve().as_uri()}?mode=ro", uri=True)) as database:
            cursor = database.execute(query)
            first = 0
            while rows := cursor.fetchmany(_CHUNK_ROWS):
                columns: dict[str, Sequence[Any]] = dict(zip(_LOG_COLUMNS, zip(*rows, strict=True), strict=True))
                yield Chunk(path, columns, range(first, first + len(rows)), None)
                first += len(rows)
    except sqlite3.Error as error:
        raise DataError(f"{path} is no request log of a gateway: {error}") from None


def _open(path: Path) -> IO[bytes]:
    # gzip files are binary files in all but their declared type
    return cast("IO[bytes]", gzip.open(path)) if path.suffix.lower() == ".gz" else path.open("rb")


def _read_csv(path: Path, file: IO[bytes], delimiter: str = ",") -> Iterator[Chunk]:
    csv.field_size_limit(sys.maxsize)  # the default refuses prompts beyond 128 KiB
    reader = csv.reader(_decoded(path, file), delimiter=delimiter, strict=True)
    count = 0
    try:
        header = _header(next(reader, []), path)
        numbered = ((reader.line_num, row) for row in reader if row)  # a blank line is no row
        while chunk := list(islice(numbered, _CHUNK_ROWS)):
            lines, rows = zip(*chunk, strict=True)
            for line, row in chunk:
                if len(row) != len(header):
                    raise row_error(
                        path, count + lines.index(line), line, f"{len(row)} cells under {len(header)} columns"
                    )
            columns: dict[str, Sequence[Any]] = dict(zip(header, zip(*rows, strict=True), strict=True))
            yield Chunk(path, columns, range(count, count + len(rows)), lines)
            count += len(rows)
    except csv.Error as error:
        raise DataError(f"{path}, line {reader.line_num}: {error}") from None


def _header(cells: list[str], path: Path) -> list[str]:
    names = [cell.strip() for cell in cells]
    repeated = {name for name in names if names.count(name) > 1}
    if not names:
        raise DataError(f"{path} is empty")
    if repeated:
        raise DataError(f"{path} has several columns named {', '.join(sorted(repeated))}")
    return names


def _read_tsv(path: Path, file: IO[bytes]) -> Iterator[Chunk]:
    return _read_csv(path, file, "\t")


def _decoded(path: Path, file: IO[bytes]) -> Iterator[str]:
    for number, line in enumerate(file, start=1):
        try:
            # some spreadsheets begin a file with a byte-order mark
            yield line.decode("utf-8-sig" if number == 1 else "utf-8")
        except UnicodeDecodeError as error:
            raise DataError(f"{path}, line {number}: not UTF-8 text ({error.reason})") from None


def _read_jsonl(path: Path, file: IO[bytes]) -> Iterator[Chunk]:
    numbered = ((number, line) for number, line in enumerate(file, start=1) if not line.isspace())
    first = 0
    while chunk := list(islice(numbered, _CHUNK_ROWS)):
        lines = [number for number, _ in chunk]
        objects: list[dict[str, Any]] = []
        for number, line in chunk:
            try:
                value = orjson.loads(line.removeprefix(codecs.BOM_UTF8))
            except orjson.JSONDecodeError as error:
                raise row_error(path, first + len(objects), number, f"not valid JSON: {error}") from None
            if not isinstance(value, dict):
                raise row_error(path, first + len(objects), number, "expected a JSON object")
            objects.append(value)
        yield Chunk(path, _columns(objects), range(first, first + len(objects)), lines)
        first += len(objects)


def _read_json(path: Path, file: IO[bytes]) -> Iterator[Chunk]:
    try:
        objects = orjson.loads(file.read())
    except orjson.JSONDecodeError as error:
        raise DataError(f"{path} is not valid JSON: {error}") from None
    if not isinstance(objects, list):
        raise DataError(f"{path} must be a JSON list of objects (or one object a line in a .jsonl file)")
    for row, value in enumerate(objects):
        if not isinstance(value, dict):
            raise row_error(path, row, None, "expected a JSON object")
    if objects:
        yield Chunk(path, _columns(objects), range(len(objects)), None)


def _read_parquet(path: Path, file: IO[bytes]) -> Iterator[Chunk]:
    try:
        import pyarrow as pa  # noqa: PLC0415 - an extra
        import pyarrow.parquet as pq  # noqa: PLC0415
    except ImportError:
        raise DataError(f"{path}: reading Parquet needs pyarrow; pip install 'ssjf[parquet]'") from None

    def plain(column: Any) -> list[Any]:
        # Python's datetimes have no nanoseconds
        if pa.types.is_timestamp(column.type):
            column = column.cast(pa.timestamp("us", column.type.tz), safe=False)
        values: list[Any] = column.to_pylist()
        return values

    first = 0
    try:
        for batch in pq.ParquetFile(pa.BufferReader(file.read())).iter_batches(_CHUNK_ROWS):
            columns = {name: plain(batch.column(name)) for name in batch.schema.names}
            yield Chunk(path, dict(columns), range(first, first + batch.num_rows), None)
            first += batch.num_rows
    except pa.ArrowException as error:
        raise DataError(f"{path} is not a Parquet file: {error}") from None


def _columns(objects: Sequence[dict[str, Any]]) -> dict[str, Sequence[Any]]:
    names = dict.fromkeys(name for value in objects for name in value)
    return {name: [value.get(name) for value in objects] for name in names}


_READERS: dict[str, Callable[[Path, IO[bytes]], Iterator[Chunk]]] = {
    ".csv": _read_csv,
    ".tsv": _read_tsv,
    ".jsonl": _read_jsonl,
    ".json": _read_json,
    ".parquet": _read_parquet,
}
