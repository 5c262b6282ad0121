"""The request log and what was learned survive; nothing waits or fails for them."""

import asyncio
import signal
import sqlite3
import subprocess
import sys
import threading
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from ssjf.cli.prediction.evaluate import evaluate
from ssjf.cli.prediction.train import train
from ssjf.errors import ConfigError, DataError
from ssjf.forecast import Forecaster
from ssjf.gateway.journal import keeping, store
from ssjf.gateway.journal.entry import COLUMNS, Entry
from ssjf.gateway.journal.memory import remember, snapshot, to_bytes
from ssjf.gateway.journal.store import Journal
from ssjf.predict.artefact import load_predictor
from ssjf.predict.ngram.features import pack
from ssjf.predict.online import OnlinePredictor
from ssjf.predict.simple import Constant
from ssjf.workload.reader import read_workload
from tests.gateway.conftest import MakeStack
from tests.predict.made_up import ask, make_samples

ENTRY = Entry(
    time=1000.0,
    model="m",
    backend="gpu",
    tenant="t",
    tier=0,
    input_tokens=5,
    output_tokens=7,
    predicted_tokens=6.5,
    quantiles="[[0.5, 6.0]]",
    predictor="online@1",
    policy="auto",
    wait_s=0.5,
    ttft_s=0.75,
    jct_s=2.0,
    outcome="completed",
)


def open_journal(path: Path, *, max_rows: int = 1000, max_bytes: float = 1e9, keep_prompts: bool = False) -> Journal:
    return Journal(path, max_rows=max_rows, max_bytes=max_bytes, keep_prompts=keep_prompts)


def rows_of(path: Path) -> list[dict[str, object]]:
    database = sqlite3.connect(path)
    database.row_factory = sqlite3.Row
    rows = [dict(row) for row in database.execute("SELECT * FROM requests ORDER BY id")]
    database.close()
    return rows


@pytest.mark.parametrize("keep_prompts", [False, True])
def test_a_request_is_one_row_and_its_text_is_kept_only_if_asked_for(tmp_path: Path, keep_prompts: bool) -> None:
    journal = open_journal(tmp_path / "log.sqlite", keep_prompts=keep_prompts)
    journal.record(ENTRY, "a secret prompt")
    journal.close()
    (row,) = rows_of(tmp_path / "log.sqlite")
    for name, value in zip(COLUMNS[:-2], ENTRY.row()[:-2], strict=True):
        assert row[name] == value, name
    assert row["prompt"] == ("a secret prompt" if keep_prompts else None)
    assert row["features"] == pack("a secret prompt")
    assert (b"secret" in (tmp_path / "log.sqlite").read_bytes()) is keep_prompts


def test_a_log_is_a_workload_to_train_on_and_to_simulate(tmp_path: Path) -> None:
    journal = open_journal(tmp_path / "log.sqlite", keep_prompts=True)
    journal.record(replace(ENTRY, time=12.0, jct_s=2.0), "second")
    journal.record(replace(ENTRY, time=11.0, jct_s=3.0, model="other"), "first")
    journal.record(replace(ENTRY, outcome="failed"), "never answered")
    journal.close()
    items = read_workload(tmp_path / "log.sqlite")
    assert [(item.prompt, item.arrival_s, item.output_tokens, item.model) for item in items] == [
        ("first", 8.0, 7, "other"),
        ("second", 10.0, 7, "m"),
    ]
    (tmp_path / "no.sqlite").write_bytes(b"not a database, whatever its name is" * 100)
    for name in ("no.sqlite", "missing.sqlite"):
        with pytest.raises(DataError):
            read_workload(tmp_path / name)


def test_n_grams_are_learned_from_a_log_without_texts_as_from_one_with_them(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for keep_prompts in (False, True):
        journal = open_journal(tmp_path / f"{keep_prompts}.sqlite", keep_prompts=keep_prompts)
        for second, sample in enumerate(make_samples(60)):
            journal.record(replace(ENTRY, time=10.0 + second, output_tokens=sample.num_output_tokens), sample.prompt)
        journal.close()
    without, with_texts = tmp_path / "False.sqlite", tmp_path / "True.sqlite"
    train(without, tmp_path / "ngram")
    short, long = load_predictor(str(tmp_path / "ngram")).predict([ask("Say hello of Anna"), ask("Write a story")])
    assert short.num_output_tokens < long.num_output_tokens
    for log in (without, with_texts):
        evaluate([str(tmp_path / "ngram"), str(log)], as_json=tmp_path / f"{log.stem}.json", seeds=1)
        # what was trained on does not count, whether its text is known or not
        assert f"12 samples of {log.name}" in capsys.readouterr().out
    with pytest.raises(DataError, match="--log-prompts"):
        train(without, tmp_path / "trees", family="trees")
    with pytest.raises(DataError, match="--log-prompts"):
        evaluate(["default", str(without)])


def test_the_oldest_rows_go_when_there_are_too_many(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(store, "_COMMIT_S", 0.0)
    journal = open_journal(tmp_path / "log.sqlite", max_rows=50)
    for number in range(500):
        journal.record(replace(ENTRY, output_tokens=number), "x")
    journal.close()
    numbers = [row["output_tokens"] for row in rows_of(tmp_path / "log.sqlite")]
    assert numbers[-1] == 499
    assert len(numbers) <= 100
    assert numbers == list(range(500 - len(numbers), 500))


def test_the_file_does_not_outgrow_its_limit_however_long_prompts_are(tmp_path: Path) -> None:
    path = tmp_path / "log.sqlite"
    journal = open_journal(path, max_rows=10_000, max_bytes=2e6, keep_prompts=True)
    for number in range(6000):
        journal.record(replace(ENTRY, time=float(number)), f"prompt {number} " + "x" * 1000)
    journal.close()
    rows = rows_of(path)
    assert path.stat().st_size < 4e6  # the last thousand rows have not been looked at yet
    assert rows[-1]["time"] == 5999.0
    assert 1000 < len(rows) < 4000


def test_of_a_prompt_no_more_than_its_beginning_is_kept(tmp_path: Path) -> None:
    journal = open_journal(tmp_path / "log.sqlite", keep_prompts=True)
    journal.record(ENTRY, "long " * 2**20)
    journal.close()
    (row,) = rows_of(tmp_path / "log.sqlite")
    assert len(str(row["prompt"])) == 2**18


async def test_a_predictor_that_hangs_does_not_keep_the_process(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(keeping, "_LAST_S", 0.05)
    hangs = threading.Event()

    class Hanging(Constant):
        def learned(self) -> object:
            hangs.wait()
            return {}, {}

        def resume(self, arrays: object, state: object) -> None:
            raise AssertionError

    journal = open_journal(tmp_path / "log.sqlite")
    forecaster = Forecaster(Hanging(), budget_s=1.0, on_failure=lambda _: None)
    async with keeping.Keeper(journal, forecaster, "constant"):
        forecaster.observe(ask("hello"), 5)
        while not forecaster.num_learned:
            await asyncio.sleep(0)
    hangs.set()
    await forecaster.close()
    journal.close()


def test_what_was_learned_is_there_for_the_next_process_and_only_if_it_fits(tmp_path: Path) -> None:
    first = OnlinePredictor()
    for number in range(50):
        first.observe(ask(f"prompt {number}", model="m"), 10 * number)
    journal = open_journal(tmp_path / "log.sqlite")
    assert journal.learned("online") is None
    journal.keep("online", b"an older one")
    journal.keep("online", to_bytes(*snapshot(first)))
    journal.close()
    kept = open_journal(tmp_path / "log.sqlite")
    state = kept.learned("online")
    assert state is not None
    second = OnlinePredictor()
    assert remember(second, state)
    requests = [ask(f"prompt {number}", model="m") for number in range(0, 50, 7)]
    assert second.predict(requests) == first.predict(requests)
    assert not remember(OnlinePredictor(), b"nonsense")
    assert not remember(OnlinePredictor(), to_bytes({"x": np.zeros(3)}, {"format": 99}))
    kept.close()


@pytest.mark.parametrize(
    "content", [b"hello, I am a text file, not a database at all" * 50, b"SQLite format 3\x00" * 99]
)
def test_a_file_that_is_something_else_is_refused_and_left_alone(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "log.sqlite"
    path.write_bytes(content)
    with pytest.raises(ConfigError, match="--log"):
        open_journal(path)
    assert path.read_bytes() == content


def test_another_programs_database_and_another_version_are_refused(tmp_path: Path) -> None:
    other = sqlite3.connect(tmp_path / "other.db")
    other.execute("CREATE TABLE mine (x)")
    other.commit()
    other.close()
    with pytest.raises(ConfigError, match="another program"):
        open_journal(tmp_path / "other.db")
    open_journal(tmp_path / "old.db").close()
    old = sqlite3.connect(tmp_path / "old.db")
    old.execute("PRAGMA user_version = 99")
    old.close()
    with pytest.raises(ConfigError, match="version 99"):
        open_journal(tmp_path / "old.db")
    with pytest.raises(ConfigError, match="cannot be opened"):
        open_journal(Path("/proc/no/such/log.sqlite"))


def test_what_cannot_be_written_is_counted_and_nobody_waits(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    journal = open_journal(tmp_path / "log.sqlite")
    journal.record(replace(ENTRY, model=object()), "cannot be stored")  # type: ignore[arg-type]
    while journal.num_dropped == 0:
        pass
    monkeypatch.setattr(store, "_MAX_PENDING", 0)
    journal.record(ENTRY, "too many wait")
    assert journal.num_dropped == 2
    monkeypatch.undo()
    journal.record(ENTRY, "fine again")
    journal.close()
    assert len(rows_of(tmp_path / "log.sqlite")) == 1


IN_ANOTHER_PROCESS = """
import sys, time
from pathlib import Path
from dataclasses import replace
from tests.gateway.journal.test_journal import ENTRY, open_journal
journal = open_journal(Path(sys.argv[1]), max_rows=10**6)
number = 0
while True:
    for _ in range(20):
        journal.record(replace(ENTRY, output_tokens=number, time=time.time()), f"prompt {number}")
        number += 1
    journal.keep("state", str(number).encode())
    print(number, time.time(), flush=True)
    time.sleep(0.01)
"""


def test_a_process_that_is_killed_leaves_a_whole_file_without_at_most_the_last_second(tmp_path: Path) -> None:
    path = tmp_path / "log.sqlite"
    process = subprocess.Popen(
        [sys.executable, "-c", IN_ANOTHER_PROCESS, str(path)], stdout=subprocess.PIPE, text=True, cwd=Path.cwd()
    )
    assert process.stdout is not None
    told = [line.split() for _, line in zip(range(150), process.stdout, strict=False)]
    process.send_signal(signal.SIGKILL)
    process.wait()
    process.stdout.close()
    last_told = float(told[-1][1])
    # what had been handed over more than a second before is there, and nothing is missing in between
    due = max((int(number) for number, at in told if float(at) < last_told - 1.0), default=0)
    assert due > 0
    database = sqlite3.connect(path)
    assert database.execute("PRAGMA integrity_check").fetchone() == ("ok",)
    numbers = [number for (number,) in database.execute("SELECT output_tokens FROM requests ORDER BY id")]
    database.close()
    assert numbers == list(range(len(numbers)))
    assert len(numbers) >= due
    again = open_journal(path)
    state = again.learned("state")
    assert state is not None
    assert int(state) >= due
    again.close()


async def test_a_gateway_logs_each_outcome_and_goes_on_from_what_it_learned(
    make_stack: MakeStack, tmp_path: Path
) -> None:
    path = tmp_path / "log.sqlite"
    async with make_stack(log=path, log_prompts=True, automatic=True, predictor=OnlinePredictor()) as stack:
        for number in range(5):
            assert (await stack.chat(f"number {number}"))[0] == 200
        stack.engine.status = 400
        assert (await stack.chat("refused"))[0] == 400
        await stack.settled(requests_running=0)
        while stack.gateway.dispatcher._forecaster.num_learned < 5:
            await asyncio.sleep(0)
    rows = rows_of(path)
    assert [(row["prompt"], row["outcome"]) for row in rows] == [
        *((f"number {number}", "completed") for number in range(5)),
        ("refused", "refused"),
    ]
    assert all(row["wait_s"] <= row["jct_s"] and row["policy"] == "ssjf" for row in rows)  # type: ignore[operator]
    again = OnlinePredictor()
    async with make_stack(log=path, automatic=True, predictor=again):
        assert again.target_models == ("tiny",)
