"""What one process learned another learns as well, and so does whoever starts later."""

import sqlite3
import stat
from collections.abc import Sequence
from pathlib import Path

import pytest

from ssjf.core.types import Prediction, Request
from ssjf.errors import ConfigError
from ssjf.integrations.vllm.front import lessons, middleware
from ssjf.integrations.vllm.front.lessons import LessonBook, SharedPredictor, check_usable
from ssjf.integrations.vllm.front.middleware import make_predictor
from ssjf.integrations.vllm.settings import load_settings


class Listener:
    """Keeps what it was told."""

    def __init__(self) -> None:
        self.heard: list[tuple[str, str, int]] = []

    def predict(self, requests: Sequence[Request]) -> list[Prediction]:
        return [Prediction(7.0)] * len(requests)

    def observe(self, request: Request, num_output_tokens: int) -> None:
        self.heard.append((request.prompt, request.model, num_output_tokens))


class Process:
    """A predictor that shares a file, with a clock in the test's hands."""

    def __init__(self, path: Path) -> None:
        self.now = 0.0
        self.inner = Listener()
        self.predictor = SharedPredictor(self.inner, LessonBook(path), lambda: self.now)
        self.predictor.catch_up()

    def observe(self, prompt: str, num_output_tokens: int) -> None:
        request = Request(request_id="a", prompt=prompt, model="m", arrival_time=0.0)
        self.predictor.observe(request, num_output_tokens)


def test_processes_learn_from_one_another_and_each_lesson_once(tmp_path: Path) -> None:
    one, other = Process(tmp_path / "book"), Process(tmp_path / "book")
    one.observe("short", 3)
    one.observe("long", 900)
    other.now = 1.0
    other.observe("mine", 5)
    assert other.inner.heard == [("mine", "m", 5), ("short", "m", 3), ("long", "m", 900)]
    other.now = 3.0
    other.observe("mine", 6)
    assert len(other.inner.heard) == 4
    one.now = 1.0
    one.observe("later", 1)
    assert one.inner.heard[-2:] == [("mine", "m", 5), ("mine", "m", 6)]


def test_whoever_starts_later_knows_what_was_learned_before(tmp_path: Path) -> None:
    Process(tmp_path / "book").observe("short", 3)
    assert Process(tmp_path / "book").inner.heard == [("short", "m", 3)]


def test_the_file_keeps_the_latest_lessons_and_long_prompts_are_cut(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lessons, "_KEPT", 150)
    process = Process(tmp_path / "book")
    for index in range(400):
        process.observe("x" * 20_000, index)
    heard = Process(tmp_path / "book").inner.heard
    assert [tokens for _, _, tokens in heard] == list(range(250, 400))
    assert len(heard[0][0]) == 8_000


def test_only_its_owner_may_read_the_file(tmp_path: Path) -> None:
    LessonBook(tmp_path / "book")
    assert stat.S_IMODE((tmp_path / "book").stat().st_mode) == 0o600


def test_a_file_that_breaks_is_left_alone_and_predictions_go_on(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    process = Process(tmp_path / "book")
    with sqlite3.connect(tmp_path / "book") as file:
        file.execute("DROP TABLE lessons")
    for _ in range(3):
        process.observe("short", 3)
    assert len(process.inner.heard) == 3
    assert len(caplog.records) == 1
    assert process.predictor.predict([])[:1] == []


def test_a_file_that_cannot_be_used_is_one_clear_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "book").write_text("this is no database, and long enough to be taken for one " * 50)
    for path in (tmp_path / "book", tmp_path / "no folder" / "book"):
        monkeypatch.setenv("SSJF_VLLM_LESSONS", str(path))
        with pytest.raises(ConfigError, match="SSJF_VLLM_LESSONS: cannot use"):
            make_predictor(load_settings())


def test_to_check_a_file_makes_none(tmp_path: Path) -> None:
    check_usable(tmp_path / "book")
    assert not list(tmp_path.iterdir())
    LessonBook(tmp_path / "book")
    check_usable(tmp_path / "book")
    for path in (tmp_path / "no folder" / "book", tmp_path):
        with pytest.raises(ConfigError, match="SSJF_VLLM_LESSONS: cannot use"):
            check_usable(path)


def test_the_file_of_somebody_else_is_used_as_he_lets_it_be(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    LessonBook(tmp_path / "book")
    (tmp_path / "book").chmod(0o666)
    monkeypatch.setattr(lessons.os, "getuid", lambda: 4711)
    LessonBook(tmp_path / "book")
    assert stat.S_IMODE((tmp_path / "book").stat().st_mode) == 0o666


def test_a_file_that_was_there_is_closed_to_others(tmp_path: Path) -> None:
    Process(tmp_path / "book").observe("short", 3)
    files = sorted(tmp_path.iterdir())
    assert len(files) == 3, "SQLite keeps two beside it"
    for file in files:
        file.chmod(0o644)
    Process(tmp_path / "book")
    assert {stat.S_IMODE(file.stat().st_mode) for file in sorted(tmp_path.iterdir())} == {0o600}


def test_who_opens_the_file_while_another_makes_it_waits_for_that(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = sqlite3.connect(tmp_path / "book", isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    monkeypatch.setattr(lessons.time, "sleep", lambda _: other.execute("ROLLBACK"))
    LessonBook(tmp_path / "book")
    other.close()


def test_a_file_that_stays_locked_is_one_clear_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lessons, "_BUSY_S", 0.0)
    other = sqlite3.connect(tmp_path / "book", isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    with pytest.raises(ConfigError, match="is locked"):
        LessonBook(tmp_path / "book")
    other.close()


def test_the_file_survives_a_machine_that_goes_down(tmp_path: Path) -> None:
    book = LessonBook(tmp_path / "book")
    assert book._file.execute("PRAGMA journal_mode").fetchone() == ("wal",)
    assert book._file.execute("PRAGMA synchronous").fetchone() == (1,), "in WAL mode NORMAL is enough"


def test_a_front_door_that_starts_learns_first_what_the_file_holds(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    Process(tmp_path / "book").observe("short", 3)
    listener = Listener()
    monkeypatch.setattr(middleware, "load_predictor", lambda _: listener)
    monkeypatch.setenv("SSJF_VLLM_LESSONS", str(tmp_path / "book"))
    middleware.SSJFMiddleware.check()
    assert listener.heard == [], "a check need not learn"
    middleware.SSJFMiddleware(lambda *_: None)
    assert listener.heard == [("short", "m", 3)]
