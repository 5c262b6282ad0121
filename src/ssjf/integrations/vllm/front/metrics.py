"""What the front door adds to vLLM's page /metrics: how good predictions are, and what they bring.

The gain is an estimate: the requests of the recent past, with the seconds that each was served, once more through the
core under first come, first served in as many slots as the engine has sequences. It errs on the low side: FCFS is taken
to have begun with an empty queue and to have had all slots, which an engine short of memory has not.
"""

import math
from collections import deque
from concurrent.futures import ThreadPoolExecutor
from functools import cache

from prometheus_client import Counter, Gauge, Histogram

from ssjf.core.observed.estimates import RankingQuality
from ssjf.core.places.capacity import Slots
from ssjf.core.policies import FCFS
from ssjf.core.replay import replay
from ssjf.core.scheduler import Scheduler
from ssjf.core.types import Job, Prediction, Request

_RATIOS = (0.1, 0.2, 0.33, 0.5, 0.67, 0.8, 0.9, 1.1, 1.25, 1.5, 2, 3, 5, 10)
_WINDOW = 2000  # finished requests that the estimate of the gain covers
_EVERY = 50  # finished requests between two estimates


class Metrics:
    """Counts what is told; one object for each process, in the registry that vLLM's page shows."""

    def __init__(self) -> None:
        self._ratio = Histogram("ssjf_prediction_ratio", "Predicted over true length.", buckets=_RATIOS)
        self._fallbacks = Counter("ssjf_prediction_fallbacks", "Requests without a prediction, by reason.", ["reason"])
        self._concordance = Gauge(
            "ssjf_prediction_concordance",
            "Share of pairs of recent requests that predictions put in the right order.",
            multiprocess_mode="mostrecent",
        )
        self._gain = Gauge(
            "ssjf_gain_ratio",
            "By what share the mean completion time is below that of first come, first served; an estimate.",
            multiprocess_mode="mostrecent",
        )
        self._quality = RankingQuality()
        self._served: deque[tuple[float, float, float]] = deque(maxlen=_WINDOW)  # arrival, service seconds, completion
        self._since = 0
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="ssjf-metrics")

    def fallback(self, reason: str) -> None:
        """There was nothing to predict from, or a prediction came too late or not at all."""
        self._fallbacks.labels(reason).inc()

    def finished(
        self,
        request: Request,
        prediction: Prediction,
        num_output_tokens: int,
        *,
        service_s: float,
        jct_s: float,
        num_slots: int | None,
    ) -> None:
        """A request is done.

        Args:
            request: what was asked.
            prediction: what it was placed by.
            num_output_tokens: its true length.
            service_s: seconds from its start to its last token.
            jct_s: seconds from its arrival to then.
            num_slots: how many the engine runs at once; None where others share it, so that no gain can be told.
        """
        if prediction.source != "fallback":
            self._ratio.observe(prediction.num_output_tokens / max(1, num_output_tokens))
            self._quality.arrived(prediction.num_output_tokens)  # whoever comes ends, too: soon enough for a gauge
            self._quality.add(prediction.num_output_tokens, num_output_tokens)
            self._concordance.set(self._quality.concordance)
        self._served.append((request.arrival_time, service_s, jct_s))
        self._since += 1
        if num_slots is not None and self._since >= _EVERY:
            self._since = 0
            self._thread.submit(self._estimate, list(self._served), num_slots)

    def _estimate(self, served: list[tuple[float, float, float]], num_slots: int) -> None:
        self._gain.set(gain(served, num_slots))


def gain(served: list[tuple[float, float, float]], num_slots: int) -> float:
    """One minus the mean completion time over that of first come, first served.

    Args:
        served: (arrival, service seconds, completion time) of each request, in any order.
        num_slots: how many run at once.
    """
    jobs = [
        (Job(Request(request_id=str(index), arrival_time=arrival)), service_s)
        for index, (arrival, service_s, _) in enumerate(sorted(served))
    ]
    replay(jobs, Scheduler(FCFS(), Slots(num_slots)))
    fcfs_s = math.fsum((job.finished_at or 0.0) - job.request.arrival_time for job, _ in jobs)
    return 1 - math.fsum(jct_s for _, _, jct_s in served) / fcfs_s if fcfs_s > 0 else 0.0


@cache
def metrics() -> Metrics:
    """Those of this process: their names can be registered once only."""
    return Metrics()
