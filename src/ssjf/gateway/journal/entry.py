"""One row of the request log."""

import json
import time
from dataclasses import astuple, dataclass, fields

from ssjf.core.types import Outcome
from ssjf.gateway import clock
from ssjf.gateway.exchange import Exchange


@dataclass(frozen=True, slots=True)
class Entry:
    """A request that has ended. Times are seconds, lengths tokens; None is what never happened or nobody knows.

    Attributes:
        time: when it ended, seconds since 1970.
        quantiles: of the prediction, as JSON: [[level, tokens], ...].
        predictor: which made it, as ``name@version``.
        policy: that ordered the queue.
        wait_s: arrival to the last dispatch.
        ttft_s: arrival to first token.
        jct_s: arrival to end.
        outcome: one of `ssjf.core.types.Outcome`.
        features: the prompt's hashed n-grams, as `ssjf.predict.ngram.features.pack` makes them; not the text.
        prompt: the text, where that is switched on.
    """

    time: float
    model: str
    backend: str | None
    tenant: str
    tier: int
    input_tokens: int | None
    output_tokens: int | None
    predicted_tokens: float | None
    quantiles: str | None
    predictor: str | None
    policy: str
    wait_s: float | None
    ttft_s: float | None
    jct_s: float
    outcome: str
    features: bytes | None = None
    prompt: str | None = None

    def row(self) -> tuple[object, ...]:
        """In the order of `COLUMNS`."""
        return astuple(self)


COLUMNS = tuple(field.name for field in fields(Entry))


def entry_of(exchange: Exchange, outcome: Outcome, now: float, *, policy: str) -> Entry:
    """What the log keeps of an exchange, but for the prompt."""
    request, prediction = exchange.job.request, exchange.job.prediction
    if prediction is not None and prediction.source == "fallback":
        prediction = None
    arrival = request.arrival_time
    return Entry(
        time=time.time() - (clock.now() - now),
        model=request.model,
        backend=None if exchange.server is None else exchange.server.name,
        tenant=request.tenant,
        tier=request.tier,
        input_tokens=exchange.num_prompt_tokens,
        output_tokens=exchange.num_output_tokens,
        predicted_tokens=None if prediction is None else prediction.num_output_tokens,
        quantiles=json.dumps(prediction.quantiles) if prediction is not None and prediction.quantiles else None,
        predictor=None if prediction is None else prediction.source,
        policy=policy,
        wait_s=None if exchange.server is None else exchange.queued_s,
        ttft_s=None if exchange.first_token_at is None else exchange.first_token_at - arrival,
        jct_s=now - arrival,
        outcome=outcome.value,
    )
