"""What the commands about predictors have in common: samples from a data file."""

import hashlib
from pathlib import Path
from typing import TYPE_CHECKING

from ssjf.errors import DataError

if TYPE_CHECKING:
    from ssjf.predict.training import Sample


def read_samples(data: Path, target_model: str | None) -> "tuple[list[Sample], int]":
    """Prompts with lengths, and the number of rows that lack one of the two.

    Raises:
        DataError: the file cannot be read, or no row has both.
    """
    from ssjf.openai import render_messages
    from ssjf.predict.training import Sample
    from ssjf.workload.reader import read_workload

    items = read_workload(data, target_model=target_model)
    samples = [
        Sample(
            item.prompt if isinstance(item.prompt, str) else render_messages(item.prompt),
            item.output_tokens,
            item.model,
            item.max_tokens or 0,
        )
        for item in items
        if item.prompt is not None and item.output_tokens is not None
    ]
    if not samples:
        raise DataError(f"{data}: none of {len(items)} rows has both a prompt and an output length")
    return samples, len(items) - len(samples)


def sha256_of(data: Path) -> str:
    """Of the file's bytes; what an artefact's card keeps of the data it was trained on."""
    from ssjf.workload.hub import local_copy

    return hashlib.sha256(local_copy(data).read_bytes()).hexdigest()
