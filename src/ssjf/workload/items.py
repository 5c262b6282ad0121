"""One row of a workload or prompt set, whatever file it came from.

This is the only place where the true output length lives beside what the client asked.
"""

from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkItem:
    """What is asked, when, and how long the recorded answer was.

    Attributes:
        index: row number in the input file, from 0.
        arrival_s: seconds since the workload began; None in a prompt set.
        input_tokens: prompt length; estimated from the text where the file gives none.
        output_tokens: recorded length of the answer; None where unknown.
        predicted_tokens: a prediction that the file brings along.
        prompt: text, or a list of chat messages; None where a trace has none.
        prompt_features: what a request log kept of the prompt in its place; see `ssjf.predict.ngram.features.pack`.
        model: the target model; "" where the file names none.
        tenant: who asks.
        deadline_s: seconds after arrival by which the answer is wanted.
        max_tokens: the client's cap on the answer; None where it gave none.
    """

    index: int
    arrival_s: float | None = None
    input_tokens: int = 0
    output_tokens: int | None = None
    predicted_tokens: float | None = None
    prompt: str | list[dict[str, Any]] | None = None
    prompt_features: bytes | None = None
    model: str = ""
    tenant: str = ""
    deadline_s: float | None = None
    max_tokens: int | None = None
