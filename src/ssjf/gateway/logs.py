"""The gateway's log: for people, or as JSON lines for machines; one line for each request that ended.

No prompts, no keys. What a client sent in `x-request-id` is in the line, so that its own log can be joined.
"""

import json
import logging
from datetime import UTC, datetime
from typing import Literal

from ssjf.core.types import Outcome
from ssjf.gateway.exchange import Exchange

_log = logging.getLogger("ssjf.requests")
_FIELDS = "fields"


def configure(log_format: Literal["text", "json"]) -> None:
    """Send everything to stderr in this form."""
    handler = logging.StreamHandler()
    if log_format == "json":
        handler.setFormatter(_JSONLines())
    else:
        handler.setFormatter(_Text("%(asctime)s %(levelname)s %(name)s: %(message)s"))
    logging.basicConfig(level=logging.INFO, handlers=[handler], force=True)


def log_outcome(exchange: Exchange, outcome: Outcome, now: float) -> None:
    """A listener of the dispatcher: says how a request ended."""
    if not _log.isEnabledFor(logging.INFO):
        return
    request, prediction = exchange.job.request, exchange.job.prediction
    arrival = request.arrival_time
    fields = {
        "request_id": exchange.incoming.client_id,
        "outcome": outcome.value,
        "model": request.model,
        "tenant": request.tenant or None,
        "tier": request.tier or None,
        "backend": None if exchange.server is None else exchange.server.name,
        "input_tokens": exchange.num_prompt_tokens,
        "output_tokens": exchange.num_output_tokens,
        "predicted_tokens": None if prediction is None else round(prediction.num_output_tokens, 1),
        "wait_s": None if exchange.server is None else round(exchange.queued_s, 4),
        "ttft_s": None if exchange.first_token_at is None else round(exchange.first_token_at - arrival, 4),
        "jct_s": round(now - arrival, 4),
    }
    _log.info("request ended", extra={_FIELDS: {name: value for name, value in fields.items() if value is not None}})


class _JSONLines(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        line = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname,
            "logger": record.name,
            "message": record.getMessage(),
            **getattr(record, _FIELDS, {}),
        }
        if record.exc_info:
            line["exception"] = self.formatException(record.exc_info)
        return json.dumps(line, default=str)


class _Text(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        fields = getattr(record, _FIELDS, {})
        # as JSON values: what clients call their models cannot begin a line of its own
        return " ".join([super().format(record), *(f"{name}={json.dumps(value)}" for name, value in fields.items())])
