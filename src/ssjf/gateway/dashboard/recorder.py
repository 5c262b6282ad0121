"""The recent past of a gateway, as the live page shows it.

It listens to the dispatcher and remembers; what it tells are plain numbers and names, no prompts and no keys. The
comparison with first come, first served is an estimate, made only while somebody looks: the recorded arrivals and the
seconds that each request kept its slot go through the deployed scheduling core in virtual time (`ssjf.gateway.shadow`).
"""

import asyncio
from collections import Counter, deque
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from statistics import fmean
from typing import Any

from ssjf.core.policies import FCFS
from ssjf.core.types import Outcome, Policy, Status
from ssjf.gateway import clock
from ssjf.gateway.backends.pool import Pool
from ssjf.gateway.dispatcher import Dispatcher
from ssjf.gateway.exchange import Exchange
from ssjf.gateway.shadow import Estimate, Served, completion_times, served
from ssjf.metrics.rank import kendall_tau_b

_PAST = 1000  # finished requests that are shown
_SHOWN = 60  # of those who wait, and of those who run
_POINTS = 300  # predicted against actual
_ESTIMATE_EVERY_S = 5.0
_MIN_FOR_ESTIMATE = 20
_EDGES = (0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0, 20.0, 50.0, 100.0, 200.0, 500.0)  # seconds, of the histograms
_QUANTILES = (0.5, 0.9, 0.99)


@dataclass(frozen=True, slots=True)
class _Past:
    jct_s: float
    ttft_s: float | None
    predicted: float | None
    actual: int | None


class Recorder:
    """Remembers what has ended, and tells how things stand.

    Args:
        dispatcher: is listened to.
        pool: the engines.
        policy: builds the policy in force.
        policy_name: for people.
        max_wait_s: the starvation bound in force.
    """

    def __init__(
        self,
        dispatcher: Dispatcher,
        pool: Pool,
        *,
        policy: Callable[[], Policy],
        policy_name: str,
        max_wait_s: float | None,
    ) -> None:
        self._dispatcher = dispatcher
        self._pool = pool
        self._policy = policy
        self._policy_name = policy_name
        self._max_wait_s = max_wait_s
        self._past: deque[_Past] = deque(maxlen=_PAST)
        self._served: deque[Served] = deque(maxlen=_PAST)
        self._outcomes: Counter[str] = Counter()
        self._fcfs: dict[str, Any] | None = None
        self._told = any(member.mode == "priority" for member in pool.members)
        self._estimated_at = float("-inf")
        self._task: asyncio.Task[None] | None = None
        self._shadow: Estimate | None = None
        dispatcher.listeners.append(self._ended)

    def shadow(self, estimate: Estimate) -> None:
        """Shadow mode has a new estimate."""
        self._shadow = estimate

    def state(self) -> dict[str, Any]:
        """All that the page shows, as JSON."""
        now = clock.now()
        enough = len(self._served) >= _MIN_FOR_ESTIMATE
        # where an engine orders, nobody knows how many it runs, nor how
        if enough and not self._told and now - self._estimated_at > _ESTIMATE_EVERY_S:
            self._estimated_at = now
            self._task = asyncio.get_running_loop().create_task(self._estimate())
        return {
            "policy": self._policy_name,
            "outcomes": {outcome.value: self._outcomes[outcome.value] for outcome in Outcome},
            "backends": [
                {
                    "name": member.name,
                    "kind": member.dialect.name,
                    "up": member.server.open,
                    "running": member.server.num_running,
                    "slots": member.server.slots if member.mode == "hold" else None,
                    "work_left_s": member.server.work_left_s(now),
                    "own_queued": None if member.load is None else member.load.num_queued,
                }
                for member in self._pool.members
            ],
            **self._live(now),
            "jct": _distribution([past.jct_s for past in self._past]),
            "ttft": _distribution([past.ttft_s for past in self._past if past.ttft_s is not None]),
            "predictions": self._predictions(),
            "adaptive": [
                {"backends": [server.name for server in lane.servers.servers], **lane.scheduler.adaptive.state()}
                for lane in self._dispatcher.lanes
                if lane.scheduler.adaptive is not None
            ],
            "fcfs_estimate": self._fcfs,
            "shadow_estimate": None
            if self._shadow is None
            else {"num_jobs": self._shadow.num_jobs, "gain": self._shadow.gain},
        }

    async def close(self) -> None:
        """Give up an estimate under way."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)

    def _ended(self, exchange: Exchange, outcome: Outcome, now: float) -> None:
        self._outcomes[outcome.value] += 1
        if outcome is not Outcome.COMPLETED:
            return
        arrival, prediction = exchange.job.request.arrival_time, exchange.job.prediction
        known = prediction is not None and prediction.source != "fallback"
        self._past.append(
            _Past(
                now - arrival,
                None if exchange.first_token_at is None else exchange.first_token_at - arrival,
                prediction.num_output_tokens if known and prediction is not None else None,
                exchange.num_output_tokens,
            )
        )
        if prediction is not None:
            self._served.append(served(exchange.job, now - exchange.dispatched_at))

    def _live(self, now: float) -> dict[str, Any]:
        queues = [lane.scheduler.waiting for lane in self._dispatcher.lanes]
        waiting = [job for queue in queues for job in queue.in_order(now, _SHOWN)]
        running = [exchange for exchange in self._dispatcher.live if exchange.job.status is Status.RUNNING]
        return {
            "num_waiting": sum(map(len, queues)),
            "num_running": len(running),
            "waiting": [
                {
                    "model": job.request.model,
                    "tenant": job.request.tenant,
                    "tier": job.request.tier,
                    "predicted_tokens": None if job.prediction is None else job.prediction.num_output_tokens,
                    "waited_s": now - job.request.arrival_time,
                }
                for job in waiting[:_SHOWN]
            ],
            "running": [
                {
                    "model": exchange.job.request.model,
                    "tenant": exchange.job.request.tenant,
                    "backend": None if exchange.server is None else exchange.server.name,
                    "predicted_tokens": None
                    if exchange.job.prediction is None
                    else exchange.job.prediction.num_output_tokens,
                    "for_s": now - exchange.dispatched_at,
                }
                for exchange in running[:_SHOWN]
            ],
        }

    def _predictions(self) -> dict[str, Any]:
        pairs = [(p.predicted, p.actual) for p in self._past if p.predicted is not None and p.actual is not None]
        tau = kendall_tau_b([said for said, _ in pairs], [true for _, true in pairs]) if len(pairs) > 1 else None
        return {"n": len(pairs), "tau_b": tau, "points": pairs[-_POINTS:]}

    async def _estimate(self) -> None:
        past, lanes = list(self._served), self._dispatcher.lanes
        slots = max(sum(member.server.slots for member in self._pool.members if member.server.open), 1)
        times = partial(completion_times, past=past, model=lanes[0].model, num_slots=slots, max_wait_s=self._max_wait_s)
        fcfs, own = await asyncio.to_thread(lambda: (times(FCFS()), times(self._policy())))
        self._fcfs = {
            "num_jobs": len(past),
            "mean_jct_s": fmean(fcfs),
            "own_mean_jct_s": fmean(own),
            "gain": 1 - fmean(own) / fmean(fcfs) if fmean(fcfs) else 0.0,
            "jct": _distribution(fcfs),
        }


def _distribution(values: list[float]) -> dict[str, Any]:
    """Count, mean, quantiles, and a histogram: how many lie below each edge and not below the one before."""
    ordered = sorted(values)
    counts = [0] * (len(_EDGES) + 1)
    place = 0
    for value in ordered:
        while place < len(_EDGES) and value >= _EDGES[place]:
            place += 1
        counts[place] += 1
    return {
        "n": len(ordered),
        "mean": fmean(ordered) if ordered else None,
        "quantiles": {str(level): ordered[min(int(level * len(ordered)), len(ordered) - 1)] for level in _QUANTILES}
        if ordered
        else {},
        "edges": _EDGES,
        "counts": counts,
    }
