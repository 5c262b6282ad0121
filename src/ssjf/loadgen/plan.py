"""What is sent, and when: workload rows become planned requests.

This module does no I/O and does not know who will answer.
"""

import random
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from ssjf.errors import DataError
from ssjf.workload.items import WorkItem

# One token each in every common vocabulary, where a space leads: a prompt of n of them has about n tokens.
_WORDS = (
    "time year people way day man thing woman life child world school state family student group country problem hand "
    "part place case week company system program question work government number night point home water room mother "
    "area money story fact month lot right study book eye job word business issue side kind head house service friend"
)


@dataclass(frozen=True, slots=True, kw_only=True)
class PlannedRequest:
    """One request to send.

    Attributes:
        index: row number in the input.
        arrival_s: seconds after the start of the run at which it is sent.
        prompt: text, or a list of chat messages.
        input_tokens: length of the prompt as the workload has it; the server's own count replaces it in results.
        max_tokens: the cap on the answer; None leaves it to the server.
        fixed_output: the answer must have exactly `max_tokens` tokens.
        hint: the recorded length, told to the server as its prediction; None tells nothing.
    """

    index: int
    arrival_s: float = 0.0
    prompt: str | list[dict[str, Any]]
    input_tokens: int = 0
    max_tokens: int | None = None
    fixed_output: bool = False
    hint: int | None = None


def plan_requests(
    items: Sequence[WorkItem],
    arrivals: Sequence[float] | None,
    *,
    seed: int = 0,
    fixed_output: bool = False,
    hints: bool = False,
    max_output_tokens: int | None = None,
) -> list[PlannedRequest]:
    """Plan one request for each workload row.

    Args:
        items: the rows.
        arrivals: seconds at which they are sent, one for each row; None takes the rows' own, shifted to begin at 0.
        seed: of the words where a row has no prompt.
        fixed_output: ask for exactly the recorded number of output tokens, as the field's serving benchmarks do.
        hints: tell the server the recorded length.
        max_output_tokens: caps answers, and recorded lengths with them.

    Returns:
        The requests in order of arrival; equal arrivals keep the rows' order.

    Raises:
        DataError: there are no rows, or a row lacks the arrival or the recorded length that is asked for.
    """
    if not items:
        raise DataError("the workload has no rows; nothing can be sent")
    if arrivals is None:
        arrivals = _recorded_arrivals(items)
    planned = []
    for item, arrival_s in zip(items, arrivals, strict=True):
        recorded = item.output_tokens
        if recorded is None and (fixed_output or hints):
            option = "--fixed-output" if fixed_output else "--hints"
            raise DataError(
                f"row {item.index} has no recorded output length, which {option} needs; "
                "for a set with lengths of several models give --target-model"
            )
        if recorded is not None and max_output_tokens is not None:
            recorded = min(recorded, max_output_tokens)
        planned.append(
            PlannedRequest(
                index=item.index,
                arrival_s=arrival_s,
                prompt=synthetic_prompt(item, seed) if item.prompt is None else item.prompt,
                input_tokens=item.input_tokens,
                # An answer of no tokens cannot be asked for: one is the least.
                max_tokens=max(recorded, 1) if fixed_output and recorded is not None else max_output_tokens,
                fixed_output=fixed_output,
                hint=recorded if hints else None,
            )
        )
    return sorted(planned, key=lambda request: request.arrival_s)


def synthetic_prompt(item: WorkItem, seed: int) -> str:
    """Words for a row that has none: about `item.input_tokens` tokens, the same for the same row and seed."""
    rng = random.Random(f"{seed}/{item.index}")  # noqa: S311 - filler text
    return " ".join(rng.choices(_WORDS.split(" "), k=max(item.input_tokens, 1)))


def _recorded_arrivals(items: Sequence[WorkItem]) -> list[float]:
    times = []
    for item in items:
        if item.arrival_s is None:
            raise DataError(f"row {item.index} has no arrival time; give --arrivals, for example poisson:2")
        times.append(item.arrival_s)
    first = min(times)
    return [time - first for time in times]
