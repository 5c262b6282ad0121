"""Workloads written for others to read."""

import json
from collections.abc import Iterable
from pathlib import Path

from ssjf.errors import DataError
from ssjf.workload.items import WorkItem


def write_mooncake(path: Path, items: Iterable[WorkItem]) -> None:
    """Write a timed workload as Mooncake JSONL, which public load generators understand; all at once or not at all.

    Times become whole milliseconds, as in the format's own traces; some generators refuse others. No prompt shares a
    prefix with another: the hashes of blocks are empty.

    Args:
        path: of the file to write.
        items: in the order to be written.

    Raises:
        DataError: an item lacks its arrival or its output length.
    """
    part = path.with_name(path.name + ".part")
    try:
        with part.open("w", encoding="utf-8") as file:
            for item in items:
                if item.arrival_s is None or item.output_tokens is None:
                    raise DataError(f"row {item.index} has no arrival or no output length; a Mooncake trace needs both")
                line = {
                    "timestamp": round(item.arrival_s * 1000),
                    "input_length": item.input_tokens,
                    "output_length": item.output_tokens,
                    "hash_ids": list[int](),
                }
                file.write(json.dumps(line) + "\n")
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)
