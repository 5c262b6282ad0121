"""What another policy would have given for the requests that were really served.

An estimate, and marked as one wherever it is shown. It replays the recent past through the deployed scheduling core in
virtual time, once under the policy in force and once under the other, with the arrivals, the predictions and the
seconds that were measured. It assumes that a request keeps its slot for as long whatever the order, and that nobody
was waiting when the recorded past began; requests that did not complete are left out. Nothing real is reordered.
"""

import asyncio
import logging
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from statistics import fmean

from ssjf.core.places.capacity import Slots
from ssjf.core.replay import replay
from ssjf.core.scheduler import Scheduler
from ssjf.core.service import LinearServiceModel
from ssjf.core.types import Job, Policy, Prediction, Request

_log = logging.getLogger(__name__)
_WINDOW = 2000  # finished requests that an estimate covers
_EVERY = 50  # finished requests between two estimates


@dataclass(frozen=True, slots=True)
class Estimate:
    """Mean job completion times over the same recent requests, in virtual time.

    Attributes:
        num_jobs: how many requests it covers.
        own_jct_s: under the policy in force.
        other_jct_s: under the shadow policy.
    """

    num_jobs: int
    own_jct_s: float
    other_jct_s: float

    @property
    def gain(self) -> float:
        """By what share the other policy's mean is lower."""
        return 1 - self.other_jct_s / self.own_jct_s if self.own_jct_s else 0.0


@dataclass(frozen=True, slots=True)
class Served:
    """A finished request, as far as a replay needs it.

    Attributes:
        request: without its prompt.
        prediction: what it was valued by.
        service_s: for how long it kept its slot.
    """

    request: Request
    prediction: Prediction
    service_s: float


def served(job: Job, service_s: float) -> Served:
    """What to remember of a finished job that had a prediction."""
    assert job.prediction is not None
    # without the prompt: thousands of them would be a lot of memory, and nobody reads them
    return Served(replace(job.request, prompt=""), job.prediction, service_s)


def completion_times(
    policy: Policy, past: Sequence[Served], model: LinearServiceModel, *, num_slots: int, max_wait_s: float | None
) -> list[float]:
    """Job completion times that a policy would have given, in the order of arrival."""
    in_order = sorted(past, key=lambda one: one.request.arrival_time)
    jobs = [(Job(one.request, prediction=one.prediction), one.service_s) for one in in_order]
    for job, _ in jobs:
        model.value(job)
    replay(jobs, Scheduler(policy, Slots(num_slots), max_wait_s=max_wait_s))
    return [(job.finished_at or 0.0) - job.request.arrival_time for job, _ in jobs]


class Shadow:
    """Keeps the recent past and replays it now and then, in a thread of its own.

    Args:
        own: builds the policy in force.
        other: builds the policy to compare it with.
        num_slots: tells how many requests run at once.
        max_wait_s: the starvation bound in force.
        report: called on the event loop with each new estimate.
    """

    def __init__(
        self,
        own: Callable[[], Policy],
        other: Callable[[], Policy],
        *,
        num_slots: Callable[[], int],
        max_wait_s: float | None,
        report: Callable[[Estimate], object],
    ) -> None:
        self._own, self._other = own, other
        self._num_slots = num_slots
        self._max_wait_s = max_wait_s
        self._report = report
        self._served: deque[Served] = deque(maxlen=_WINDOW)
        self._since = 0
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="ssjf-shadow")
        self._task: asyncio.Task[None] | None = None

    def add(self, job: Job, service_s: float, model: LinearServiceModel) -> None:
        """Remember a finished job that had a prediction.

        Args:
            job: what was served.
            service_s: for how long it kept its slot.
            model: what values predictions now; the whole past is valued by the latest.
        """
        self._served.append(served(job, service_s))
        self._since += 1
        if self._since >= _EVERY and (self._task is None or self._task.done()):
            self._since = 0
            self._task = asyncio.get_running_loop().create_task(self._estimate(list(self._served), model))

    async def close(self) -> None:
        """Give up an estimate under way."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
        self._thread.shutdown(wait=False, cancel_futures=True)

    async def _estimate(self, past: Sequence[Served], model: LinearServiceModel) -> None:
        estimate = await asyncio.get_running_loop().run_in_executor(self._thread, self._replay, past, model)
        _log.info(
            "shadow estimate over %d requests: mean completion %.3f s as served, %.3f s under the other (%+.1f %%)",
            estimate.num_jobs,
            estimate.own_jct_s,
            estimate.other_jct_s,
            -100 * estimate.gain,
        )
        self._report(estimate)

    def _replay(self, past: Sequence[Served], model: LinearServiceModel) -> Estimate:
        """Under both policies."""
        slots = self._num_slots()
        own, other = (
            fmean(completion_times(policy, past, model, num_slots=slots, max_wait_s=self._max_wait_s))
            for policy in (self._own(), self._other())
        )
        return Estimate(len(past), own, other)
