"""Files of recorded output lengths with the length classes that a classifier predicted for them.

The format is that of the SSJF paper's published predictions, one row per request. Without prompts and arrivals such a
file is no workload: it says how well somebody predicted, not who asked when.
"""

import csv
import gzip
import math
from collections import defaultdict
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from ssjf.errors import DataError


@dataclass(frozen=True)
class Predictions:
    """True lengths and what a classifier said about them, one entry per request in each column.

    Attributes:
        output_tokens: true output lengths.
        class_ids: predicted length classes, 0 for the shortest.
        latency_s: how long each prediction took; None where the file does not say.
        rounds: turn of the conversation; None in a file of single questions.
    """

    output_tokens: tuple[int, ...]
    class_ids: tuple[int, ...]
    latency_s: tuple[float, ...] | None = None
    rounds: tuple[int, ...] | None = None

    @cached_property
    def class_means(self) -> dict[int, float]:
        """Mean output tokens of each predicted class in this very file."""
        members: dict[int, list[int]] = defaultdict(list)
        for class_id, tokens in zip(self.class_ids, self.output_tokens, strict=True):
            members[class_id].append(tokens)
        return {class_id: sum(tokens) / len(tokens) for class_id, tokens in sorted(members.items())}

    @cached_property
    def expected_tokens(self) -> tuple[float, ...]:
        """For each request the mean output tokens of its predicted class."""
        return tuple(self.class_means[class_id] for class_id in self.class_ids)


def read_predictions(path: Path, *, num_classes: int) -> Predictions:
    """Read a CSV file with the columns output_tokens and pred_class<N>, and perhaps lat<N>_ms and round; .gz too.

    Args:
        path: the file.
        num_classes: N, whose predictions to take.

    Raises:
        DataError: the file cannot be read, lacks a column or has a bad value; the message names the row.
    """
    class_column, latency_column = f"pred_class{num_classes}", f"lat{num_classes}_ms"
    try:
        with gzip.open(path, "rt", newline="") if path.suffix == ".gz" else path.open(newline="") as file:
            reader = csv.DictReader(file)
            present = reader.fieldnames or []
            missing = [name for name in ("output_tokens", class_column) if name not in present]
            if missing:
                raise DataError(f"{path} has no column {', '.join(missing)}; it has: {', '.join(present) or 'none'}")
            wanted = ("output_tokens", class_column, latency_column, "round")
            columns: dict[str, list[float]] = {name: [] for name in wanted if name in present}
            for number, row in enumerate(reader, start=1):
                for name, values in columns.items():
                    values.append(_number(row[name], name, whole=name != latency_column, where=f"{path}, row {number}"))
    except (OSError, EOFError, UnicodeDecodeError, csv.Error) as error:
        raise DataError(f"cannot read {path}: {error}") from error
    return Predictions(
        output_tokens=tuple(map(int, columns["output_tokens"])),
        class_ids=tuple(map(int, columns[class_column])),
        latency_s=tuple(ms / 1000 for ms in columns[latency_column]) if latency_column in columns else None,
        rounds=tuple(map(int, columns["round"])) if "round" in columns else None,
    )


def _number(text: str | None, column: str, *, whole: bool, where: str) -> float:
    try:
        value = float(text or "")
    except ValueError:
        value = math.nan
    if not (math.isfinite(value) and value >= 0) or (whole and not value.is_integer()):
        raise DataError(f"{where}: {column} must be a {'whole ' if whole else ''}number of at least 0, not {text!r}")
    return value
