"""Files of recorded output lengths with the length classes that a classifier predicted for them.

The format is that of the SSJF paper's published predictions, one row per request. Without prompts and arrivals such a
file is no workload: it says how well somebody predicted, not who asked when.
"""

from collections import defaultdict
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from ssjf.errors import DataError
from ssjf.workload.formats import read_chunks
from ssjf.workload.values import numbers


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
    """Read a file with the columns output_tokens and pred_class<N>, and perhaps lat<N>_ms and round.

    Args:
        path: of any format that workloads have.
        num_classes: N, whose predictions to take.

    Raises:
        DataError: the file cannot be read, lacks a column or has a bad value; the message names the row.
    """
    class_column, latency_column = f"pred_class{num_classes}", f"lat{num_classes}_ms"
    needed = ("output_tokens", class_column)
    columns: dict[str, list[Any]] = {}
    for chunk in read_chunks(path):
        if missing := [name for name in needed if name not in chunk.columns]:
            raise DataError(f"{path} has no column {', '.join(missing)}; it has: {', '.join(chunk.columns) or 'none'}")
        if not columns:
            columns = {name: [] for name in (*needed, latency_column, "round") if name in chunk.columns}
        for name, column in columns.items():
            unknown = [None] * len(chunk.rows)
            values = numbers(chunk.columns.get(name, unknown), name, chunk, whole=name != latency_column)
            if None in values:
                raise chunk.error(values.index(None), f"{name} is missing")
            column.extend(values)
    if not columns:
        raise DataError(f"{path} has no rows")
    return Predictions(
        output_tokens=tuple(columns["output_tokens"]),
        class_ids=tuple(columns[class_column]),
        latency_s=tuple(ms / 1000 for ms in columns[latency_column]) if latency_column in columns else None,
        rounds=tuple(columns["round"]) if "round" in columns else None,
    )
