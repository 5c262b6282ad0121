"""Records, columns and jobs.csv say the same, to the last bit."""

import math
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ssjf.errors import DataError
from ssjf.metrics.records import JobRecord
from ssjf.metrics.table import COLUMNS, JobTable, read_jobs_csv, tables, write_jobs_csv

instants = st.floats(min_value=0, allow_nan=False, allow_infinity=False)
records = st.builds(
    JobRecord,
    policy=st.sampled_from(["fcfs", "aged-ssjf:rate=0.1"]),
    seed=st.integers(0, 2),
    index=st.integers(0, 10**9),
    arrival_s=instants,
    start_s=st.none() | instants,
    first_token_s=st.none() | instants,
    finish_s=st.none() | instants,
    input_tokens=st.integers(0, 10**9),
    output_tokens=st.integers(0, 10**9),
    predicted_tokens=st.none() | instants,
    status=st.sampled_from(["completed", "failed", "rejected"]),
)


def as_records(table: JobTable) -> list[JobRecord]:
    def optional(value: float) -> float | None:
        return None if math.isnan(value) else value

    return [
        JobRecord(
            policy=table.policy,
            seed=table.seed,
            index=int(table.index[row]),
            arrival_s=float(table.arrival_s[row]),
            start_s=optional(float(table.start_s[row])),
            first_token_s=optional(float(table.first_token_s[row])),
            finish_s=optional(float(table.finish_s[row])),
            input_tokens=int(table.input_tokens[row]),
            output_tokens=int(table.output_tokens[row]),
            predicted_tokens=optional(float(table.predicted_tokens[row])),
            status=table.status[row],
        )
        for row in range(len(table))
    ]


@given(st.lists(records, min_size=1))
def test_jobs_csv_reads_back_to_the_last_bit(tmp_path_factory: pytest.TempPathFactory, jobs: list[JobRecord]) -> None:
    path = tmp_path_factory.mktemp("run") / "jobs.csv"
    write_jobs_csv(path, tables(jobs))
    back = [record for table in read_jobs_csv(path) for record in as_records(table)]
    assert sorted(back, key=repr) == sorted(jobs, key=repr)
    assert [entry.name for entry in path.parent.iterdir()] == ["jobs.csv"]


def test_there_is_one_table_for_each_policy_and_seed_in_order_of_appearance() -> None:
    def job(policy: str, seed: int, index: int) -> JobRecord:
        return JobRecord(
            policy=policy, seed=seed, index=index, arrival_s=0.0, start_s=None, first_token_s=None, finish_s=None,
            input_tokens=0, output_tokens=0, predicted_tokens=None, status="failed",
        )  # fmt: skip

    groups = tables([job("b", 0, 1), job("a", 1, 2), job("b", 0, 3), job("b", 1, 4)])
    assert [(table.policy, table.seed, table.index.tolist()) for table in groups] == [
        ("b", 0, [1, 3]),
        ("a", 1, [2]),
        ("b", 1, [4]),
    ]


def test_the_file_has_the_columns_that_are_promised_and_plain_numbers(tmp_path: Path) -> None:
    table = JobTable(
        policy="fcfs",
        seed=0,
        index=np.array([3]),
        arrival_s=np.array([0.1]),
        start_s=np.array([0.1 + 0.2]),
        first_token_s=np.array([math.nan]),
        finish_s=np.array([2.0]),
        input_tokens=np.array([5]),
        output_tokens=np.array([6]),
        predicted_tokens=np.array([math.nan]),
        status=["completed"],
    )
    write_jobs_csv(tmp_path / "jobs.csv", [table])
    assert (tmp_path / "jobs.csv").read_text() == (
        "policy,seed,index,arrival_s,start_s,first_token_s,finish_s,input_tokens,output_tokens,predicted_tokens,status\n"
        "fcfs,0,3,0.1,0.30000000000000004,,2.0,5,6,,completed\n"
    )


def test_a_failure_while_writing_leaves_the_old_file_and_nothing_else(tmp_path: Path) -> None:
    path = tmp_path / "jobs.csv"
    path.write_text("old")

    def broken() -> list[JobTable]:
        raise RuntimeError("the simulation broke")

    with pytest.raises(RuntimeError):
        write_jobs_csv(path, (table for _ in range(1) for table in broken()))
    assert path.read_text() == "old"
    assert [entry.name for entry in tmp_path.iterdir()] == ["jobs.csv"]


@pytest.mark.parametrize(
    "text",
    ["", "a,b\n1,2\n", ",".join(COLUMNS) + "\nfcfs,0,1\n", ",".join(COLUMNS) + "\nfcfs,0,x,0,,,,1,1,,completed\n"],
    ids=["empty", "other columns", "too few cells", "no number"],
)
def test_another_file_is_refused_with_its_name(tmp_path: Path, text: str) -> None:
    path = tmp_path / "jobs.csv"
    path.write_text(text)
    with pytest.raises(DataError, match=r"jobs\.csv"):
        read_jobs_csv(path)
    with pytest.raises(DataError, match=r"missing\.csv"):
        read_jobs_csv(tmp_path / "missing.csv")
