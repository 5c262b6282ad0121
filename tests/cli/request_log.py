"""A gateway's request log as far as it is data for other commands: the columns that these read."""

import sqlite3
from collections.abc import Iterable
from contextlib import closing
from pathlib import Path

from ssjf.predict.ngram.features import pack


def write_log(path: Path, rows: Iterable[tuple[str, int, int]]) -> Path:
    """A log of (prompt, input tokens, output tokens), a request each second, that kept only hashes of the prompts."""
    columns = "time, jct_s, outcome, features, input_tokens, output_tokens, predicted_tokens, prompt, model, tenant"
    values = [
        (float(second), 0.0, "completed", pack(prompt), asked, answered, None, None, "", "")
        for second, (prompt, asked, answered) in enumerate(rows)
    ]
    with closing(sqlite3.connect(path)) as database, database:
        database.execute(f"CREATE TABLE requests (id INTEGER PRIMARY KEY, {columns})")
        database.executemany(f"INSERT INTO requests ({columns}) VALUES ({', '.join('?' * 10)})", values)
    return path
