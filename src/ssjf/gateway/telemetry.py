"""The numbers behind /metrics, in a registry of their own, and a line in the log when trust in predictions turns.

This module only counts and tells; it decides nothing.
"""

import logging
import math
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

from ssjf.core.types import AdaptivePolicy, Outcome
from ssjf.gateway import clock

if TYPE_CHECKING:
    from ssjf.gateway.backends.pool import Member, Pool
    from ssjf.gateway.dispatcher import Dispatcher
    from ssjf.gateway.exchange import Exchange, Lane
    from ssjf.gateway.journal.store import Journal
    from ssjf.gateway.shadow import Estimate

_log = logging.getLogger(__name__)
_LOST, _REGAINED = 0.1, 0.5  # trust in predictions, from 0 to 1, at which the log says so; apart, lest it flutter
_SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300, 600)
_TOKENS = (1, 2, 5, 10, 20, 50, 100, 200, 500, 1000, 2000, 5000, 10_000)
_RATIOS = (0.1, 0.2, 0.33, 0.5, 0.67, 0.8, 0.9, 1.1, 1.25, 1.5, 2, 3, 5, 10)


class Telemetry:
    """Every metric of one gateway. Names are listed in docs/metrics.md."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self._waiting = Gauge("ssjf_requests_waiting", "Requests in the waiting queue.", registry=self.registry)
        self._running = Gauge("ssjf_requests_running", "Requests that the engine works on.", registry=self.registry)
        self._slots = Gauge("ssjf_slots", "Requests that may run at once.", registry=self.registry)
        self._outcomes = Counter(
            "ssjf_requests", "Accepted requests that ended, by outcome.", ["outcome"], registry=self.registry
        )
        self._rejected = Counter(
            "ssjf_requests_rejected",
            "Requests that were never accepted, by reason.",
            ["reason"],
            registry=self.registry,
        )
        self._wait = self._histogram("ssjf_queue_seconds", "Arrival to dispatch.", _SECONDS)
        self._ttft = self._histogram("ssjf_time_to_first_token_seconds", "Arrival to first token.", _SECONDS)
        self._jct = self._histogram("ssjf_request_duration_seconds", "Arrival to finish.", _SECONDS)
        self._predicted = self._histogram("ssjf_predicted_output_tokens", "Predicted length of answers.", _TOKENS)
        self._prompt = self._histogram("ssjf_prompt_tokens", "True length of prompts.", _TOKENS)
        self._actual = self._histogram("ssjf_output_tokens", "True length of answers.", _TOKENS)
        self._ratio = self._histogram("ssjf_prediction_ratio", "Predicted over true length.", _RATIOS)
        self._fallbacks = Counter(
            "ssjf_prediction_fallbacks", "Requests without a prediction, by reason.", ["reason"], registry=self.registry
        )
        self._restarts = Counter("ssjf_engine_restarts", "Restarts of the embedded engine.", registry=self.registry)
        self._shadow_own = Gauge(
            "ssjf_shadow_own_jct_seconds", "Estimated mean completion as served.", registry=self.registry
        )
        self._shadow_other = Gauge(
            "ssjf_shadow_other_jct_seconds",
            "Estimated mean completion under the shadow policy.",
            registry=self.registry,
        )
        self._shadow_gain = Gauge(
            "ssjf_shadow_gain_ratio", "Estimated gain of the shadow policy.", registry=self.registry
        )
        self._policy_state = Gauge(
            "ssjf_policy_state",
            "What an adaptive policy goes by, for each queue.",
            ["name", "backends"],
            registry=self.registry,
        )
        self._dropped = Gauge(
            "ssjf_log_dropped", "Requests that could not be written to the log.", registry=self.registry
        )
        self._retries = Counter(
            "ssjf_retries", "Requests that went to another backend after one had failed.", registry=self.registry
        )
        self._passed = Counter(
            "ssjf_requests_passed_through", "Requests that are not scheduled.", ["status"], registry=self.registry
        )
        self._by_tier = Counter(
            "ssjf_tier_requests", "Accepted requests that ended.", ["tier", "outcome"], registry=self.registry
        )
        self._by_backend = Counter(
            "ssjf_backend_requests",
            "Accepted requests that ended, by the backend that they ran on last.",
            ["backend", "outcome"],
            registry=self.registry,
        )
        self._backend = {
            name: Gauge(f"ssjf_backend_{name}", text, ["backend"], registry=self.registry)
            for name, text in (
                ("up", "Whether the backend is in order."),
                ("running", "Requests that were sent to the backend and have not ended."),
                ("slots", "Requests that may run there at once."),
                ("work_left_seconds", "Predicted service that its requests have yet to get, per slot."),
            )
        }
        for outcome in Outcome:
            self._outcomes.labels(outcome.value)
        self._trusted: dict[Lane, bool] = {}

    def watch(self, dispatcher: "Dispatcher") -> None:
        """Read the gauges whenever they are asked for."""
        self._waiting.set_function(lambda: sum(len(lane.scheduler.waiting) for lane in dispatcher.lanes))
        self._running.set_function(lambda: sum(len(lane.scheduler.running) for lane in dispatcher.lanes))

    def watch_lane(self, lane: "Lane") -> None:
        """A queue has come into use."""
        adaptive = lane.scheduler.adaptive
        if adaptive is None:
            return
        self._trusted[lane] = False
        backends = "+".join(server.name for server in lane.servers.servers)
        for name in adaptive.state():
            self._policy_state.labels(name, backends).set_function(partial(_state_of, adaptive, name))

    def watch_pool(self, pool: "Pool") -> None:
        """Likewise for each backend."""
        self._slots.set_function(lambda: sum(m.server.slots for m in pool.members if m.server.open))
        for member in pool.members:
            for name, read in _OF_BACKEND.items():
                self._backend[name].labels(member.name).set_function(partial(read, member))

    def watch_journal(self, journal: "Journal") -> None:
        """There is a request log."""
        self._dropped.set_function(lambda: journal.num_dropped)

    def retried(self) -> None:
        """A request goes to another backend."""
        self._retries.inc()

    def passed_through(self, status: int) -> None:
        """A request that is not scheduled was answered."""
        self._passed.labels(str(status)).inc()

    def rejected(self, reason: str) -> None:
        """A request was turned away before it was accepted."""
        self._rejected.labels(reason).inc()

    def fallback(self, reason: str) -> None:
        """A prediction came too late or not at all."""
        self._fallbacks.labels(reason).inc()

    def engine_restarted(self) -> None:
        """The embedded engine was started anew."""
        self._restarts.inc()

    def started(self, queued_s: float) -> None:
        """A request was dispatched."""
        self._wait.observe(queued_s)

    def ended(self, exchange: "Exchange", outcome: Outcome, now: float) -> None:
        """An accepted request has its outcome."""
        self._outcomes.labels(outcome.value).inc()
        self._by_tier.labels(str(exchange.job.request.tier), outcome.value).inc()
        if exchange.server is not None:
            self._by_backend.labels(exchange.server.name, outcome.value).inc()
        if outcome is not Outcome.COMPLETED:
            return
        if exchange.lane in self._trusted:
            self._tell_trust(exchange.lane)
        arrival = exchange.job.request.arrival_time
        self._jct.observe(now - arrival)
        if exchange.first_token_at is not None:
            self._ttft.observe(exchange.first_token_at - arrival)
        if exchange.num_prompt_tokens is not None:
            self._prompt.observe(exchange.num_prompt_tokens)
        if exchange.num_output_tokens is None:
            return
        self._actual.observe(exchange.num_output_tokens)
        prediction = exchange.job.prediction
        if prediction is not None and prediction.source != "fallback":
            self._predicted.observe(prediction.num_output_tokens)
            self._ratio.observe(prediction.num_output_tokens / max(1, exchange.num_output_tokens))

    def shadow(self, estimate: "Estimate") -> None:
        """The shadow policy has been compared anew."""
        self._shadow_own.set(estimate.own_jct_s)
        self._shadow_other.set(estimate.other_jct_s)
        self._shadow_gain.set(estimate.gain)

    def page(self) -> bytes:
        """Everything in the Prometheus text format."""
        return generate_latest(self.registry)

    def _tell_trust(self, lane: "Lane") -> None:
        """Policies that weigh predictions by how well they rank show a `trust` and a `concordance`."""
        assert lane.scheduler.adaptive is not None
        state = lane.scheduler.adaptive.state()
        trust = state.get("trust")
        if trust is None:
            return
        trusted, concordance = self._trusted[lane], state.get("concordance", math.nan)
        if trusted and trust <= _LOST:
            self._trusted[lane] = False
            _log.warning(
                "predictions have lost trust, the order goes back to that of arrival: trust %.2f, concordance %.2f",
                trust,
                concordance,
            )
        elif not trusted and trust >= _REGAINED:
            self._trusted[lane] = True
            _log.info(
                "predictions are trusted, short requests go first: trust %.2f, concordance %.2f", trust, concordance
            )

    def _histogram(self, name: str, text: str, buckets: tuple[float, ...]) -> Histogram:
        return Histogram(name, text, buckets=buckets, registry=self.registry)


def _state_of(policy: AdaptivePolicy, name: str) -> float:
    return policy.state()[name]


_OF_BACKEND: "dict[str, Callable[[Member], float]]" = {
    "up": lambda member: float(member.server.open),
    "running": lambda member: member.server.num_running,
    "slots": lambda member: member.server.slots,
    "work_left_seconds": lambda member: member.server.work_left_s(clock.now()),
}
