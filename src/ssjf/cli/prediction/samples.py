"""What the commands about predictors have in common: samples from a data file."""

import hashlib
from pathlib import Path
from typing import TYPE_CHECKING

from ssjf.errors import DataError

if TYPE_CHECKING:
    from ssjf.predict.training import Sample
    from ssjf.workload.items import WorkItem


def read_samples(data: Path, target_model: str | None, *, hashed: bool = False) -> "tuple[list[Sample], int]":
    """Prompts with lengths, and the number of rows that lack one of the two.

    Args:
        data: any workload or prompt set, or a request log.
        target_model: as `read_workload` takes it.
        hashed: prompts of which a request log kept only hashed n-grams will do.

    Raises:
        DataError: the file cannot be read, or no row has both.
    """
    from ssjf.workload.reader import read_workload

    items = read_workload(data, target_model=target_model)
    samples = [sample for item in items if (sample := sample_of(item, data, hashed=hashed)) is not None]
    if not samples and not hashed and any(item.prompt_features for item in items):
        raise DataError(
            f"{data} has no prompts, only their hashed n-grams, of which the family ngram alone can make something; "
            "ssjf serve --log-prompts keeps the texts"
        )
    if not samples:
        raise DataError(f"{data}: none of {len(items)} rows has both a prompt and an output length")
    return samples, len(items) - len(samples)


def sample_of(item: "WorkItem", data: Path | None = None, *, hashed: bool = False) -> "Sample | None":
    """A row as a sample, arguments as `read_samples` has them; None where it lacks prompt or length.

    Raises:
        DataError: what a request log kept of the prompt is of another format.
    """
    from ssjf.predict.training import Sample

    if item.output_tokens is None or (prompt := _prompt(item, data, hashed=hashed)) is None:
        return None
    return Sample(prompt, item.output_tokens, item.model, item.max_tokens or 0, item.input_tokens)


def _prompt(item: "WorkItem", data: Path | None, *, hashed: bool) -> str | None:
    from ssjf.openai import render_messages
    from ssjf.predict.ngram.features import HashedPrompt

    if isinstance(item.prompt, str):
        return item.prompt
    if item.prompt is not None:
        return render_messages(item.prompt)
    if not hashed or item.prompt_features is None:
        return None
    try:
        return HashedPrompt(item.prompt_features)
    except ValueError as error:
        raise DataError(f"{f'{data}, ' if data else ''}row {item.index} {error}") from None


def sha256_of(data: Path) -> str:
    """Of the file's bytes; what an artefact's card keeps of the data it was trained on."""
    from ssjf.workload.hub import local_copy

    return hashlib.sha256(local_copy(data).read_bytes()).hexdigest()
