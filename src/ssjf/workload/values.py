"""Cells of a file as numbers, times, texts and prompts; what makes no sense is named by file and row."""

import math
from collections.abc import Callable, Sequence
from datetime import datetime
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import orjson

from ssjf.errors import DataError
from ssjf.workload.formats import Chunk

Values = Sequence[Any]
_MILLISECONDS = "timestamp"  # Mooncake's; every other time is in seconds
_MAX_TOKENS = 10**9  # a larger count is a mistake, and would overflow sums later


def numbers(values: Values, column: str, chunk: Chunk, *, whole: bool = False) -> list[Any]:
    """Finite numbers of at least 0, and whole ones if need be; None for blanks."""
    return _clean_numbers(values, whole=whole) or [
        _number(value, column, chunk, position, whole=whole) for position, value in enumerate(values)
    ]


def _clean_numbers(values: Values, *, whole: bool) -> list[Any] | None:
    """The same at ten times the speed, if there are neither blanks nor mistakes; None if there may be."""
    if bool in set(map(type, values)):
        return None
    try:
        found = np.fromiter(map(float, values), np.float64, len(values))
    except (TypeError, ValueError, OverflowError):
        return None
    good = (found >= 0) & (found < math.inf)
    if whole:
        good &= (found <= _MAX_TOKENS) & (found == np.floor(found))
    if not good.all():
        return None
    clean: list[Any] = (found.astype(np.int64) if whole else found).tolist()
    return clean


def _number(value: Any, column: str, chunk: Chunk, position: int, *, whole: bool) -> float | int | None:
    if value is None or (isinstance(value, str) and not value.strip()):
        return None
    try:
        number = math.nan if isinstance(value, bool) else float(value)
    except (TypeError, ValueError, OverflowError):
        number = math.nan
    if whole:
        if 0 <= number <= _MAX_TOKENS and number.is_integer():
            return int(number)
        raise chunk.error(position, f"{column} must be a whole number from 0 to {_MAX_TOKENS}, not {shown(value)}")
    if 0 <= number < math.inf:
        return number
    raise chunk.error(position, f"{column} must be a finite number of at least 0, not {shown(value)}")


def _times(values: Values, column: str, chunk: Chunk) -> list[Any]:
    """Seconds, or datetimes where the file has such."""
    first = next((value for value in values if value not in (None, "")), None)
    if isinstance(first, datetime) or (isinstance(first, str) and _datetime(first) is not None):
        times: list[datetime | None] = []
        for position, value in enumerate(values):
            time = value if isinstance(value, datetime) else _datetime(value)
            if time is None and value not in (None, ""):
                raise chunk.error(position, f"{column} must be a date and time like the first, not {shown(value)}")
            times.append(time)
        return times
    seconds = numbers(values, column, chunk)
    if column == _MILLISECONDS:
        return [None if number is None else number / 1000 for number in seconds]
    return seconds


def _datetime(value: Any) -> datetime | None:
    """A date with a time in ISO's notation; None for anything else."""
    try:
        # a bare number can be an ISO date too: 20231116
        return datetime.fromisoformat(value) if isinstance(value, str) and ":" in value else None
    except ValueError:
        return None


def since_first(times: list[Any], path: Path) -> list[Any]:
    """Datetimes as seconds since the earliest of them; seconds stay as they are."""
    instants = [time for time in times if isinstance(time, datetime)]
    if not instants:
        return times
    try:
        begin = min(instants)
        return [None if time is None else (time - begin).total_seconds() for time in times]
    except TypeError:
        raise DataError(f"{path} mixes numbers and dates, or dates with and without a time zone, as arrivals") from None


def _texts(values: Values, _column: str, _chunk: Chunk) -> list[str]:
    return ["" if value is None else str(value) for value in values]


def _prompts(values: Values, column: str, chunk: Chunk) -> list[Any]:
    prompts: list[Any] = []
    for position, value in enumerate(values):
        prompt = from_json(value, "[")  # in CSV, messages are written as JSON
        if prompt is not value and not _are_messages(prompt):
            prompt = value  # text that happens to be JSON
        if not (prompt is None or isinstance(prompt, str) or _are_messages(prompt)):
            message = f"{column} must be text or a list of messages with a role each, not {shown(value)}"
            raise chunk.error(position, message)
        prompts.append(prompt)
    return prompts


def _are_messages(value: Any) -> bool:
    return isinstance(value, list) and bool(value) and all(isinstance(m, dict) and "role" in m for m in value)


def _bytes(values: Values, column: str, chunk: Chunk) -> list[Any]:
    for position, value in enumerate(values):
        if not (value is None or isinstance(value, bytes)):
            raise chunk.error(position, f"{column} is {shown(value)}: only a request log has that")
    return list(values)


def from_json(value: Any, begins: str) -> Any:
    """What a cell says if it is JSON that begins so; else the cell itself."""
    if isinstance(value, str) and value.startswith(begins):
        try:
            return orjson.loads(value)
        except orjson.JSONDecodeError:
            return value
    return value


def shown(value: Any) -> str:
    """A cell as an error quotes it."""
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "..."


_Converter = Callable[[Values, str, Chunk], list[Any]]
_whole: _Converter = partial(numbers, whole=True)
CONVERTERS: dict[str, _Converter] = {
    "arrival_s": _times,
    "input_tokens": _whole,
    "output_tokens": _whole,
    "predicted_tokens": numbers,
    "prompt": _prompts,
    "prompt_features": _bytes,
    "model": _texts,
    "tenant": _texts,
    "deadline_s": numbers,
    "max_tokens": _whole,
}
