"""Exported traces are what public load generators read, and nothing half-written is left behind."""

import json
from pathlib import Path

import pytest

from ssjf.errors import DataError
from ssjf.workload.items import WorkItem
from ssjf.workload.reader import read_workload
from ssjf.workload.writer import write_mooncake


def test_a_mooncake_trace_reads_back_as_the_same_workload(tmp_path: Path) -> None:
    items = [
        WorkItem(index=0, arrival_s=0.0, input_tokens=3, output_tokens=5),
        WorkItem(index=1, arrival_s=27.482, input_tokens=6955, output_tokens=52),
    ]
    path = tmp_path / "trace.jsonl"
    write_mooncake(path, items)
    assert read_workload(path) == items
    first, second = map(json.loads, path.read_text().splitlines())
    assert first == {"timestamp": 0, "input_length": 3, "output_length": 5, "hash_ids": []}
    assert second["timestamp"] == 27482


@pytest.mark.parametrize("item", [WorkItem(index=1, output_tokens=5), WorkItem(index=1, arrival_s=0.0)])
def test_an_incomplete_item_leaves_no_file(tmp_path: Path, item: WorkItem) -> None:
    with pytest.raises(DataError, match="row 1 has no arrival or no output length"):
        write_mooncake(tmp_path / "trace.jsonl", [WorkItem(index=0, arrival_s=0.0, output_tokens=1), item])
    assert list(tmp_path.iterdir()) == []
