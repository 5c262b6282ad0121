"""A memory that outlives the process and that several API servers share: which prompt had how long an answer.

It is a log of lessons, not a file of weights: what several processes learned side by side cannot be added up, but each
can learn what the others have seen. Whoever starts reads the most recent lessons first.

The file holds prompts as clients sent them; it is made such that only its owner may read it, even if it was there
before, unless it is somebody else's. Nothing here fails a request: a file that breaks while a server runs is complained
of once and left alone.
"""

import logging
import os
import sqlite3
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from ssjf.core.types import Prediction, Request
from ssjf.errors import ConfigError
from ssjf.predict.base import Predictor

_log = logging.getLogger(__name__)
_KEPT = 2_000  # lessons in the file; the slowest predictor to learn takes two seconds for them, when a process starts
_MAX_CHARS = 8_000  # of a prompt, from its head; longer ones are cut
_RETRY_S = 0.01
_BUSY_S = 5.0  # how long the others may have the file to themselves
_LOOK_EVERY_S = 1.0  # seconds between two looks at what the others have written
_TABLE = """
CREATE TABLE IF NOT EXISTS lessons (
    number INTEGER PRIMARY KEY AUTOINCREMENT, writer TEXT, model TEXT, prompt TEXT, num_output_tokens INTEGER
)
"""


def check_usable(path: Path) -> None:
    """Whether the file, or one in its place, could be used from here; nothing is made or changed.

    Raises:
        ConfigError: it could not.
    """
    if path.exists():
        usable = path.is_file() and os.access(path, os.R_OK | os.W_OK)
    else:
        usable = path.parent.is_dir() and os.access(path.parent, os.W_OK | os.X_OK)
    if not usable:
        raise ConfigError(
            f"SSJF_VLLM_LESSONS: cannot use {path}: it cannot be {'used' if path.exists() else 'made'} here"
        )


class LessonBook:
    """The file, as one process sees it.

    Args:
        path: of an SQLite file; made if it does not exist.

    Raises:
        ConfigError: it cannot be used.
    """

    def __init__(self, path: Path) -> None:
        self._writer = os.urandom(8).hex()
        self._last_read = 0
        try:
            path.touch(mode=0o600)
            for file in (path, *(path.with_name(path.name + end) for end in ("-wal", "-shm"))):
                if file.exists() and file.stat().st_uid == os.getuid():  # who may read another's, is for him to say
                    file.chmod(0o600)
            # used by one thread at a time, which need not be this one
            self._file = sqlite3.connect(path, timeout=_BUSY_S, check_same_thread=False, isolation_level=None)
            self._share()
            self._file.execute("PRAGMA synchronous = NORMAL")  # the latest lessons may go with the machine
            self._file.execute(_TABLE)
        except (OSError, sqlite3.Error) as error:
            raise ConfigError(f"SSJF_VLLM_LESSONS: cannot use {path}: {error}") from None

    def _share(self) -> None:
        """Let several processes use the file at once; those that start together are in one another's way here.

        While one changes the journal's mode, SQLite tells the others at once that the file is locked, without waiting.
        """
        give_up_at = time.monotonic() + _BUSY_S
        while True:
            try:
                self._file.execute("PRAGMA journal_mode = WAL")
            except sqlite3.OperationalError as error:
                if error.sqlite_errorcode & 0xFF != sqlite3.SQLITE_BUSY or time.monotonic() >= give_up_at:
                    raise
                time.sleep(_RETRY_S)
            else:
                return

    def read(self) -> list[tuple[Request, int]]:
        """What others wrote since the last time; at first the most recent lessons of everybody."""
        rows = self._file.execute(
            "SELECT number, model, prompt, num_output_tokens FROM lessons WHERE number > ? AND writer != ? "
            "ORDER BY number",
            (self._last_read, self._writer),
        ).fetchall()
        if rows:
            self._last_read = rows[-1][0]
        return [
            (Request(request_id=str(number), prompt=prompt, model=model, arrival_time=0.0), num_output_tokens)
            for number, model, prompt, num_output_tokens in rows
        ]

    def write(self, request: Request, num_output_tokens: int) -> None:
        """Add a lesson, and drop the oldest beyond the number that is kept."""
        number = self._file.execute(
            "INSERT INTO lessons (writer, model, prompt, num_output_tokens) VALUES (?, ?, ?, ?)",
            (self._writer, request.model, request.prompt[:_MAX_CHARS], num_output_tokens),
        ).lastrowid
        if number is not None and number % 100 == 0:
            self._file.execute("DELETE FROM lessons WHERE number <= ?", (number - _KEPT,))


class SharedPredictor:
    """A predictor that writes down what it learns, and learns what others have written.

    Args:
        predictor: who does the work.
        book: the shared memory.
        clock: seconds that never go back.
    """

    def __init__(self, predictor: Predictor, book: LessonBook, clock: Callable[[], float]) -> None:
        self._predictor = predictor
        self._book: LessonBook | None = book
        self._clock = clock
        self._look_at = 0.0

    def predict(self, requests: Sequence[Request]) -> list[Prediction]:
        """See `Predictor`."""
        return self._predictor.predict(requests)

    def observe(self, request: Request, num_output_tokens: int) -> None:
        """Learn one request and, now and then, those of others."""
        self._predictor.observe(request, num_output_tokens)
        try:
            if self._book is not None:
                self._book.write(request, num_output_tokens)
        except sqlite3.Error:
            self._give_up()
        if self._clock() >= self._look_at:
            self.catch_up()

    def catch_up(self) -> None:
        """Learn what others have written since the last time; at first, what the file holds."""
        self._look_at = self._clock() + _LOOK_EVERY_S
        try:
            lessons = [] if self._book is None else self._book.read()
        except sqlite3.Error:
            self._give_up()
            return
        for request, num_output_tokens in lessons:
            self._predictor.observe(request, num_output_tokens)

    def _give_up(self) -> None:
        _log.exception("the file of lessons is left alone from here on")
        self._book = None
