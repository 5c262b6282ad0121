"""One reader for every workload file and prompt set: what the columns of public data sets mean.

Rows keep the order of the file. The reader neither sorts, samples nor scales, and does not know what the rows are for.
"""

import gc
import math
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from dataclasses import replace
from itertools import repeat
from pathlib import Path
from typing import Any

from ssjf.errors import DataError, did_you_mean
from ssjf.openai import message_text
from ssjf.workload.formats import Chunk, read_chunks
from ssjf.workload.hub import local_copy
from ssjf.workload.items import WorkItem
from ssjf.workload.values import CONVERTERS, Values, from_json, shown, since_first

# Canonical column: the names that are understood for it, in order of preference. They are those of: this project; the
# Azure LLM traces; Mooncake; BurstGPT; the SSJF paper's data; prompt sets.
ALIASES: dict[str, tuple[str, ...]] = {
    "arrival_s": ("arrival_s", "TIMESTAMP", "timestamp", "Timestamp"),
    "input_tokens": ("input_tokens", "ContextTokens", "input_length", "Request tokens", "in_tokens"),
    "output_tokens": (
        *("output_tokens", "GeneratedTokens", "output_length", "Response tokens", "response_length", "out_tokens"),
    ),
    "predicted_tokens": ("predicted_tokens",),
    "prompt": ("prompt", "prompt_content"),
    "prompt_features": ("prompt_features",),
    "model": ("model", "model_name", "Model"),
    "tenant": ("tenant",),
    "deadline_s": ("deadline_s",),
    "max_tokens": ("max_tokens",),
}
_CONVERSATIONS = ("conversations", "conversation")  # ShareGPT's, LMSYS-Chat-1M's
_ROLES = {"human": "user", "gpt": "assistant", "chatgpt": "assistant", "bing": "assistant", "bard": "assistant"}

ALL_MODELS = "all"
"""As target model: every model of the set, one item for each of its lengths."""

_CHARACTERS_PER_TOKEN = 4  # of English text under common vocabularies


def read_workload(
    path: str | Path, *, target_model: str | None = None, require: Collection[str] = ()
) -> list[WorkItem]:
    """Read a workload or prompt set.

    Args:
        path: a file ending in .csv, .tsv, .jsonl, .json or .parquet; .gz may follow. ``hf://OWNER/NAME/FILE`` is a
            file of a data set on the Hugging Face hub.
        target_model: picks the model in a set with lengths for several, and the rows of that model in a set whose rows
            name their models. Where the file names none, the items get this name. With `ALL_MODELS`, a row
            with lengths for several models becomes an item for each.
        require: canonical columns that must be there and have a value in every row.

    Returns:
        One item per row, in the order of the file. Of a conversation: one item per answer of the assistant, with what
        was said before as the prompt; lengths that are not given are estimated, and `index` counts answers.

    Raises:
        DataError: the file cannot be read as that; the message names file and row.

    Cost: about 3 s for a million CSV rows of numbers.
    """
    with _no_garbage_collection():
        return _read(local_copy(path), target_model, require)


def _read(path: Path, target_model: str | None, require: Collection[str]) -> list[WorkItem]:
    columns: dict[str, list[Any]] = {name: [] for name in ("index", *ALIASES)}
    lengths = _LengthsByModel(target_model)
    for raw in read_chunks(path):
        chunk = _one_row_per_answer(raw)
        if target_model == ALL_MODELS:
            chunk = _one_row_per_model(chunk)
        found = _known_columns(chunk, require)
        first = len(columns["index"])
        columns["index"] += range(first, first + len(chunk.rows))
        for name, convert in CONVERTERS.items():
            source = found.get(name)
            if source is None:
                columns[name] += repeat(None, len(chunk.rows))
                continue
            values = chunk.columns[source]
            if name == "output_tokens":
                values = lengths.pick(values)
            converted = convert(values, source, chunk)
            if name in require and None in converted:
                raise chunk.error(converted.index(None), f"{source} is missing")
            columns[name] += converted
    if not columns["index"]:
        raise DataError(f"{path} has no rows")
    lengths.check(path)
    columns["arrival_s"] = since_first(columns["arrival_s"], path)
    return _of_model(_items(columns), path, target_model, named=lengths.models)


@contextmanager
def _no_garbage_collection() -> Iterator[None]:
    """Millions of objects that all stay: looking for garbage among them doubles the time and finds nothing."""
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_enabled:
            gc.enable()


def estimate_tokens(prompt: str | list[dict[str, Any]]) -> int:
    """A rough count of a prompt's tokens, for where nobody gives one: a quarter of its characters, rounded up."""
    texts = [prompt] if isinstance(prompt, str) else [message_text(message.get("content")) for message in prompt]
    return sum(math.ceil(len(text) / _CHARACTERS_PER_TOKEN) for text in texts)


def _known_columns(chunk: Chunk, require: Collection[str]) -> dict[str, str]:
    """Which of the chunk's columns stands for which canonical one."""
    found = {
        canonical: present[0]
        for canonical, names in ALIASES.items()
        if (present := [name for name in names if name in chunk.columns])
    }
    missing = [name for name in ALIASES if name in require and name not in found]
    if missing or not found.keys() & {"arrival_s", "input_tokens", "output_tokens", "prompt"}:
        wanted = [" or ".join(ALIASES[name]) for name in missing or ("prompt", "output_tokens", "input_tokens")]
        has = ", ".join(map(repr, list(chunk.columns)[:12]))
        what = (
            f"no column {'; no column '.join(wanted)}" if missing else f"no known column, such as {'; '.join(wanted)}"
        )
        raise DataError(f"{chunk.path} has {what}; it has: {has}")
    return found


# --- items and conversations ----------------------------------------------------------------------------------------


def _items(columns: dict[str, list[Any]]) -> list[WorkItem]:
    return [
        WorkItem(
            index=index,
            arrival_s=arrival_s,
            input_tokens=(0 if prompt is None else estimate_tokens(prompt)) if input_tokens is None else input_tokens,
            output_tokens=output_tokens,
            predicted_tokens=predicted_tokens,
            prompt=prompt,
            prompt_features=prompt_features,
            model=model or "",
            tenant=tenant or "",
            deadline_s=deadline_s,
            max_tokens=max_tokens,
        )
        for (
            index,
            arrival_s,
            input_tokens,
            output_tokens,
            predicted_tokens,
            prompt,
            prompt_features,
            model,
            tenant,
            deadline_s,
            max_tokens,
        ) in zip(columns["index"], *(columns[name] for name in ALIASES), strict=True)
    ]


def _one_row_per_answer(chunk: Chunk) -> Chunk:
    """Conversations as prompts and lengths; any other chunk stays as it is."""
    name = next((name for name in _CONVERSATIONS if name in chunk.columns), None)
    if name is None:
        return chunk
    origin: list[int] = []  # position in the chunk that each answer comes from
    prompts: list[Any] = []
    lengths: list[Any] = []
    given_column = next((alias for alias in ALIASES["output_tokens"] if alias in chunk.columns), None)
    given_lengths = chunk.columns[given_column] if given_column else repeat(None)
    for position, (conversation, given) in enumerate(zip(chunk.columns[name], given_lengths)):  # noqa: B905 - may repeat
        answers = _answers(conversation, name, chunk, position)
        counts = given if isinstance(given, list) else [given]
        if given is None:
            counts = [math.ceil(len(answer) / _CHARACTERS_PER_TOKEN) for _, answer in answers]
        elif len(counts) != len(answers):
            raise chunk.error(position, f"{len(counts)} output lengths for {len(answers)} answers")
        origin += [position] * len(answers)
        prompts += [history for history, _ in answers]
        lengths += counts
    columns: dict[str, Values] = {
        other: [values[position] for position in origin] for other, values in chunk.columns.items()
    }
    lines = None if chunk.lines is None else [chunk.lines[position] for position in origin]
    columns |= {"prompt": prompts, given_column or "output_tokens": lengths}
    return Chunk(chunk.path, columns, [chunk.rows[position] for position in origin], lines)


def _answers(conversation: Any, column: str, chunk: Chunk, position: int) -> list[tuple[list[dict[str, Any]], str]]:
    """What was said before each answer of the assistant, and the answer."""
    conversation = from_json(conversation, "[")  # in CSV
    if not isinstance(conversation, list):
        raise chunk.error(position, f"{column} must be a list of turns, not {shown(conversation)}")
    history: list[dict[str, Any]] = []
    answers: list[tuple[list[dict[str, Any]], str]] = []
    for turn in conversation:
        role, text = (
            (turn.get("role", turn.get("from")), turn.get("content", turn.get("value")))
            if isinstance(turn, dict)
            else (None, None)
        )
        if not isinstance(role, str) or not isinstance(text, str):
            raise chunk.error(position, f"each turn of {column} needs a role and text, unlike {shown(turn)}")
        role = _ROLES.get(role, role)
        if role == "assistant" and history:  # an answer to nobody is only context
            answers.append((list(history), text))
        history.append({"role": role, "content": text})
    return answers


def _one_row_per_model(chunk: Chunk) -> Chunk:
    """Rows with a length for each of several models as a row for each of them."""
    name = next((alias for alias in ALIASES["output_tokens"] if alias in chunk.columns), None)
    if name is None:
        return chunk
    lengths = [from_json(value, "{") for value in chunk.columns[name]]
    if not any(isinstance(value, dict) for value in lengths):
        return chunk
    each = [
        (position, model, length)
        for position, value in enumerate(lengths)
        for model, length in (value.items() if isinstance(value, dict) else [(None, value)])
        if length is not None
    ]
    origin = [position for position, _, _ in each]
    columns: dict[str, Values] = {
        other: [values[position] for position in origin] for other, values in chunk.columns.items()
    }
    columns |= {"model": [model for _, model, _ in each], name: [length for _, _, length in each]}
    lines = None if chunk.lines is None else [chunk.lines[position] for position in origin]
    return Chunk(chunk.path, columns, [chunk.rows[position] for position in origin], lines)


# --- models ---------------------------------------------------------------------------------------------------------


class _LengthsByModel:
    """Picks the target model's length where rows give one for each of several models.

    Attributes:
        models: all that were seen.
    """

    def __init__(self, target_model: str | None) -> None:
        self._target = target_model
        self.models: set[str] = set()

    def pick(self, values: Values) -> Values:
        """The target's length of each row; None where the row lacks it. Plain lengths stay as they are."""
        if not any(isinstance(value, dict) or (isinstance(value, str) and value.startswith("{")) for value in values):
            return values
        return [self._pick(from_json(value, "{")) for value in values]

    def _pick(self, value: Any) -> Any:
        if not isinstance(value, dict):
            return value
        self.models.update(model for model, length in value.items() if length is not None)
        return value.get(self._target)

    def check(self, path: Path) -> None:
        """Raises: DataError: no target model was named where one is needed, or none has that name."""
        if self.models and self._target is None:
            models = ", ".join(sorted(self.models))
            raise DataError(f"{path} has lengths of several models; pick one with --target-model, or all: {models}")
        if self.models and self._target not in self.models:
            raise _unknown_model(path, self._target, self.models)


def _of_model(items: list[WorkItem], path: Path, target: str | None, *, named: Collection[str]) -> list[WorkItem]:
    if target is None or target == ALL_MODELS:
        return items
    models = {item.model for item in items} - {""}
    if not models or target in named:
        return [replace(item, model=target) for item in items]
    if target not in models:
        raise _unknown_model(path, target, models)
    return [item for item in items if item.model == target]


def _unknown_model(path: Path, target: str | None, models: Collection[str]) -> DataError:
    return DataError(f"{path} has nothing of a model {target!r}; {did_you_mean(target or '', models)}")
