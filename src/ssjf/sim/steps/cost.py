"""An engine with continuous batching, as the simulator's step model sees it: what an iteration costs and may hold.

The cost coefficients are an engine's whole description in time: they are fitted by `ssjf calibrate` and kept in a
small JSON file. This module knows neither schedules nor how the coefficients were fitted.
"""

import json
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

from ssjf.core.service import LinearServiceModel
from ssjf.errors import DataError


@dataclass(frozen=True, slots=True, kw_only=True)
class StepCostModel:
    """Seconds = base + per_prefill · prefill tokens + per_decode · decoding sequences + per_kv · resident KV tokens.

    For each request that enters with it, an iteration takes `per_request_s` more.

    Attributes:
        base_s: for every iteration, whatever it does: reading the weights, launching kernels, delivering tokens.
        per_prefill_token_s: for each prompt token that is computed in it.
        per_decode_token_s: for each sequence that decodes, which gets it one token.
        per_kv_token_s: for each token whose keys and values running sequences hold at its end: attention reads them.
        per_request_s: for each request that enters: HTTP, tokenization, bookkeeping, where they hold up the engine.
    """

    base_s: float
    per_prefill_token_s: float
    per_decode_token_s: float
    per_kv_token_s: float
    per_request_s: float = 0.0

    def __post_init__(self) -> None:
        """Reject coefficients with which time would stand still or run backwards."""
        values = tuple(asdict(self).values())
        if not all(math.isfinite(value) and value >= 0 for value in values) or not any(values):
            raise ValueError(f"cost coefficients must be finite, at least 0 and not all 0: {values}")

    def iteration_s(self, *, prefill_tokens: int, decode_tokens: int, kv_tokens: int) -> float:
        """Seconds of one iteration, with which nobody enters."""
        return (
            self.base_s
            + self.per_prefill_token_s * prefill_tokens
            + self.per_decode_token_s * decode_tokens
            + self.per_kv_token_s * kv_tokens
        )

    def service_model(self, *, num_seqs: int, context_tokens: float) -> LinearServiceModel:
        """What a request costs on a full engine, in seconds of one of its slots: what policies order by.

        With `num_seqs` running, entering and each prompt token hold up all of them, and an output token takes its
        sequence one iteration, in which the others get theirs. So a request's service seconds are its share of the
        engine's time times the number of slots, and arrival rate × mean service seconds ÷ slots is the engine's load.

        Args:
            num_seqs: the reference batch; the engine's `max_num_seqs`.
            context_tokens: mean context of a running sequence. A request's own context grows with its length; with
                a common one service stays linear.
        """
        per_decode_token_s = self.per_decode_token_s + self.per_kv_token_s * context_tokens
        return LinearServiceModel(
            base_s=num_seqs * self.per_request_s,
            per_input_token_s=num_seqs * self.per_prefill_token_s,
            per_output_token_s=self.base_s + num_seqs * per_decode_token_s,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineLimits:
    """What an engine can hold and do in one iteration, beside the number of sequences; names as in vLLM.

    Attributes:
        num_kv_blocks: blocks of the KV cache.
        block_size: tokens that a block holds.
        max_num_batched_tokens: tokens computed in one iteration: one for each decoding sequence, prompts in the rest.
        prefix_hit_fraction: part of every prompt that the prefix cache has already; it costs no prefill, but memory.
        prefix_lifetime_s: how long after a request's arrival its prefix stays cached; one that is let in later has to
            compute all of its prompt. So an order that lets some wait for long pays for the locality it loses.
    """

    num_kv_blocks: int
    block_size: int = 16
    max_num_batched_tokens: int = 2048
    prefix_hit_fraction: float = 0.0
    prefix_lifetime_s: float = math.inf

    def __post_init__(self) -> None:
        """Reject an engine that could do nothing."""
        if min(self.num_kv_blocks, self.block_size, self.max_num_batched_tokens) < 1:
            raise ValueError(f"an engine's limits must be at least 1: {self}")
        if not 0 <= self.prefix_hit_fraction <= 1:
            raise ValueError(f"prefix_hit_fraction must be from 0 to 1, not {self.prefix_hit_fraction}")
        if not self.prefix_lifetime_s >= 0:
            raise ValueError(f"prefix_lifetime_s must be at least 0, not {self.prefix_lifetime_s}")

    def cached_tokens(self, num_prompt_tokens: int) -> int:
        """How much of a prompt the prefix cache has; the last token is always computed."""
        return min(int(self.prefix_hit_fraction * num_prompt_tokens), num_prompt_tokens - 1)


def seconds_alone(num_prompt_tokens: int, num_output_tokens: int, cost: StepCostModel, limits: EngineLimits) -> float:
    """From arrival to the last token on an idle engine: what slowdown is measured against."""
    cached = limits.cached_tokens(num_prompt_tokens)
    chunk = limits.max_num_batched_tokens
    num_chunks = -(-(num_prompt_tokens - cached) // chunk)
    num_decodes = num_output_tokens - 1
    kv_while_prefilling = (num_chunks - 1) * cached + chunk * num_chunks * (num_chunks - 1) // 2 + num_prompt_tokens
    kv_while_decoding = num_decodes * num_prompt_tokens + num_decodes * (num_decodes + 1) // 2
    return (
        cost.per_request_s
        + cost.base_s * (num_chunks + num_decodes)
        + cost.per_prefill_token_s * (num_prompt_tokens - cached)
        + cost.per_decode_token_s * num_decodes
        + cost.per_kv_token_s * (kv_while_prefilling + kv_while_decoding)
    )


def save_cost_model(path: Path, model: StepCostModel, calibration: Mapping[str, Any]) -> None:
    """Write a model as JSON, with how it was found beside it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    document = {"step_cost_model": asdict(model), "calibration": calibration}
    path.write_text(json.dumps(document, indent=2) + "\n", encoding="utf-8")


def load_cost_model(path: Path) -> StepCostModel:
    """Read a model that `save_cost_model` wrote; files with the coefficients alone do as well.

    Raises:
        DataError: the file cannot be read, or has not exactly the coefficients.
    """
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise DataError(f"cost model {path} cannot be read: {error.strerror}") from None
    except ValueError as error:  # neither JSON nor UTF-8
        raise DataError(f"cost model {path} is no JSON file: {error}") from None
    names = {field.name for field in fields(StepCostModel)}
    coefficients = document.get("step_cost_model", document) if isinstance(document, dict) else None
    if not isinstance(coefficients, dict) or set(coefficients) != names:
        raise DataError(
            f"cost model {path} must have exactly the coefficients {', '.join(sorted(names))}; `ssjf calibrate` "
            "writes such files"
        )
    try:
        return StepCostModel(**{name: float(value) for name, value in coefficients.items()})
    except (OverflowError, TypeError, ValueError) as error:
        raise DataError(f"cost model {path}: {error}") from None
