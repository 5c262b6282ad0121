"""One frozen record per job: the schema of `jobs.csv`, shared by simulation, replay, demo and comparison.

This module does not know where a record comes from.
"""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class JobRecord:
    """What happened to one job, on one time axis that starts at 0 with the workload.

    Attributes:
        policy: the policy's name as the user gave it.
        seed: which repetition.
        index: row number in the input.
        arrival_s, start_s, first_token_s, finish_s: instants in seconds; None for what never happened.
        input_tokens: prompt length.
        output_tokens: what was really generated (0 when nothing was).
        predicted_tokens: the prediction the policy went by; None where none was made.
        status: ``completed`` or how else it ended, a value of `ssjf.core.types.Outcome` or ``rejected``.
    """

    policy: str
    seed: int
    index: int
    arrival_s: float
    start_s: float | None
    first_token_s: float | None
    finish_s: float | None
    input_tokens: int
    output_tokens: int
    predicted_tokens: float | None
    status: str
