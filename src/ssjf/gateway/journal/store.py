"""The request log and the learned state in one SQLite file, written by a thread of its own.

Laws of this file:
1. Nothing here makes a request wait or fail: what cannot be written is counted and dropped.
2. What was handed over is in the file within `_COMMIT_S`, each batch in one transaction, behind a write-ahead log: a
   process that is killed leaves a file that is whole, without at most the last moment.
3. The file does not grow without end: beyond `max_rows` or `max_bytes` the oldest rows go. Nor does what waits to be
   written, and of a prompt no more than its first `_MAX_PROMPT` characters are kept.

The schema is that of `Entry`, one row for each request that ended, and a table for the predictor's state.
"""

import logging
import math
import queue
import sqlite3
import threading
import time
from dataclasses import replace
from pathlib import Path

from ssjf.errors import ConfigError
from ssjf.gateway.journal.entry import COLUMNS, Entry
from ssjf.predict.ngram.features import pack

_log = logging.getLogger(__name__)
VERSION = 2
_APPLICATION_ID = 0x73736A66  # "ssjf"
_COMMIT_S = 0.25
_MAX_PENDING = 20_000  # entries that wait to be written; more are dropped and counted
_MAX_PENDING_CHARACTERS = 128 * 2**20
_MAX_PROMPT = 2**18
_BATCH = 500
_TRIM_EVERY = 1000  # rows written between two looks at how many there are

_TYPES = {"tier": "INTEGER", "input_tokens": "INTEGER", "output_tokens": "INTEGER", "features": "BLOB"}
_REALS = {"time", "predicted_tokens", "wait_s", "ttft_s", "jct_s"}
_SCHEMA = f"""
CREATE TABLE requests (
    id INTEGER PRIMARY KEY,
    {", ".join(f"{name} {_TYPES.get(name, 'REAL' if name in _REALS else 'TEXT')}" for name in COLUMNS)}
);
CREATE TABLE learned (name TEXT PRIMARY KEY, time REAL NOT NULL, state BLOB NOT NULL);
PRAGMA application_id = {_APPLICATION_ID};
PRAGMA user_version = {VERSION};
"""
_INSERT = f"INSERT INTO requests ({', '.join(COLUMNS)}) VALUES ({', '.join('?' * len(COLUMNS))})"  # noqa: S608 - ours
_State = tuple[str, bytes]


class Journal:
    """A file that requests and learned states are written to.

    Args:
        path: made if it does not exist.
        max_rows: requests kept.
        max_bytes: of the file, roughly.
        keep_prompts: the text too, not only its hashed features.

    Attributes:
        num_dropped: entries that could not be written.

    Raises:
        ConfigError: the file is something else, damaged, or of another version.
    """

    def __init__(self, path: Path, *, max_rows: int, max_bytes: float, keep_prompts: bool) -> None:
        self._path = path
        self._max_rows = max_rows
        self._max_bytes = max_bytes
        self._keep_prompts = keep_prompts
        self._inbox: queue.SimpleQueue[tuple[Entry, str] | _State | None] = queue.SimpleQueue()
        self._since_trim = 0
        self._taken = self._written = 0  # characters, each counted by one thread
        self.num_dropped = 0
        self._database = _open(path)
        self._thread = threading.Thread(target=self._write, name="ssjf-journal", daemon=True)
        self._thread.start()

    def record(self, entry: Entry, prompt: str) -> None:
        """Log a request; returns at once.

        Args:
            entry: all but the prompt.
            prompt: its text, of which hashed features are kept, and itself only if that is switched on.
        """
        if self._inbox.qsize() >= _MAX_PENDING or self._taken - self._written > _MAX_PENDING_CHARACTERS:
            self.num_dropped += 1
            return
        self._taken += len(prompt)
        self._inbox.put((entry, prompt))

    def keep(self, name: str, state: bytes) -> None:
        """Replace the learned state of this name; returns at once."""
        self._inbox.put((name, state))

    def learned(self, name: str) -> bytes | None:
        """The state kept under this name by an earlier process. To be asked before anything is written."""
        found = self._database.execute("SELECT state FROM learned WHERE name = ?", (name,)).fetchone()
        return None if found is None else bytes(found[0])

    def close(self) -> None:
        """Write what is pending, and close the file."""
        self._inbox.put(None)
        self._thread.join()
        self._database.close()

    def _write(self) -> None:
        """In the journal's thread."""
        going = True
        while going:
            batch = [self._inbox.get()]
            until = time.monotonic() + _COMMIT_S
            while len(batch) < _BATCH and batch[-1] is not None:
                try:
                    batch.append(self._inbox.get(timeout=max(until - time.monotonic(), 0.0)))
                except queue.Empty:
                    break
            going = batch[-1] is not None
            entries = [item for item in batch if item is not None and isinstance(item[0], Entry)]
            states = dict(item for item in batch if item is not None and isinstance(item[0], str))
            try:
                self._commit(entries, states)
            except Exception:  # noqa: BLE001 - a log that fails is no reason for anything else to
                if not self.num_dropped:
                    _log.exception("the request log %s cannot be written; /metrics counts what is lost", self._path)
                self.num_dropped += len(entries)
            self._written += sum(len(prompt) for _, prompt in entries)

    def _commit(self, entries: list[tuple[Entry, str]], states: dict[str, bytes]) -> None:
        rows = [
            replace(entry, features=pack(prompt), prompt=prompt[:_MAX_PROMPT] if self._keep_prompts else None).row()
            for entry, prompt in entries
        ]
        with self._database:
            self._database.executemany(_INSERT, rows)
            for name, state in states.items():
                self._database.execute(
                    "INSERT OR REPLACE INTO learned (name, time, state) VALUES (?, ?, ?)", (name, time.time(), state)
                )
        self._since_trim += len(rows)
        if self._since_trim >= min(_TRIM_EVERY, self._max_rows):
            self._since_trim = 0
            self._trim()

    def _trim(self) -> None:
        self._delete("id <= (SELECT max(id) FROM requests) - ?", self._max_rows)
        excess = 1 - self._max_bytes / max(self._num_bytes(), 1)
        if excess > 0:  # rows are about equally large; what is left over goes the next time
            oldest, latest = self._database.execute("SELECT min(id), max(id) FROM requests").fetchone()
            self._delete("id < ?", oldest + math.ceil((latest - oldest) * excess))
        self._database.execute("PRAGMA incremental_vacuum(20000)").fetchall()

    def _delete(self, condition: str, bound: int) -> None:
        with self._database:
            self._database.execute(f"DELETE FROM requests WHERE {condition}", (bound,))  # noqa: S608 - ours

    def _num_bytes(self) -> int:
        used = _pragma(self._database, "page_count") - _pragma(self._database, "freelist_count")
        return used * _pragma(self._database, "page_size")


def _open(path: Path) -> sqlite3.Connection:
    """The file as a journal.

    Raises:
        ConfigError: it cannot be one.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        database = sqlite3.connect(path, check_same_thread=False)
    except (OSError, sqlite3.Error) as error:
        raise ConfigError(f"the request log {path} cannot be opened: {error}") from None
    try:
        _prepare(database, path)
    except sqlite3.Error as error:
        database.close()
        raise ConfigError(
            f"the request log {path} cannot be used ({error}); move it away, or name another with --log"
        ) from None
    except ConfigError:
        database.close()
        raise
    return database


def _pragma(database: sqlite3.Connection, name: str) -> int:
    return int(database.execute(f"PRAGMA {name}").fetchone()[0])


def _prepare(database: sqlite3.Connection, path: Path) -> None:
    if _pragma(database, "page_count") == 0:
        database.execute("PRAGMA auto_vacuum = INCREMENTAL")
        database.executescript(f"BEGIN;{_SCHEMA}COMMIT;")  # all of it or, where the process is killed, nothing
    if _pragma(database, "application_id") != _APPLICATION_ID:
        raise ConfigError(f"{path} is a database of another program; name another file with --log")
    version = _pragma(database, "user_version")
    if version != VERSION:
        raise ConfigError(f"{path} is of version {version}, this ssjf writes {VERSION}; name another file")
    # NORMAL with a write-ahead log: whole after a crash of the process, and after one of the machine too
    database.execute("PRAGMA journal_mode = WAL").fetchall()
    database.execute("PRAGMA synchronous = NORMAL")
    database.execute("PRAGMA busy_timeout = 2000")
    database.execute("SELECT 1 FROM requests LIMIT 1").fetchall()
