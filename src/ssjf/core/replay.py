"""Known service times through the scheduler in virtual time: the linear event loop.

The simulator builds on it, and the gateway's shadow mode asks it what another policy would have given for requests
that have already been served. It knows neither where service times come from nor what a token is.

Event order at one instant: completions, then arrivals, then dispatch. Times are exact float64: a job starts at the
time of the event that let it in and finishes at ``start + service_s``; no time slices, no rounding. Where a batch
ends together, that is the service time of its longest job. With a preemptive policy, a job that was thrown out
resumes where it stopped, at no cost; who runs is looked at again at each event, and when the policy says so.
"""

from collections.abc import Iterable
from heapq import heapify, heappop, heappush
from math import inf, nextafter

from ssjf.core.scheduler import Scheduler
from ssjf.core.types import Job


def replay(jobs: Iterable[tuple[Job, float]], scheduler: Scheduler) -> list[Job]:
    """Serve (job, service seconds) pairs, sorted by arrival, until none is left.

    Jobs get their `started_at` and `finished_at`; predictions and hence the order are the caller's.

    Args:
        jobs: in order of arrival; equal arrivals keep the order given.
        scheduler: an idle one; it brings policy, slots and wait bound.

    Returns:
        The jobs in the order of service.

    Raises:
        ValueError: an arrival lies before its predecessor's.

    Cost: O(n log n).
    """
    timeline = list(jobs)
    seconds = {job.request.request_id: service_s for job, service_s in timeline}
    ends_together = scheduler.batching.ends_together
    completions: list[tuple[float, int, str]] = []
    stints = _Stints(scheduler) if scheduler.preemptive else None
    served: list[Job] = []
    now, coming, total = -inf, 0, len(timeline)
    while coming < total or completions or scheduler.waiting:
        done_at = completions[0][0] if completions else inf
        arrives_at = timeline[coming][0].request.arrival_time if coming < total else inf
        if arrives_at < now:
            raise ValueError(f"jobs must come in order of arrival: {arrives_at} after {now}")
        wakeup = scheduler.wakeup()
        look_at = inf if stints is None else stints.look_again_at(now)
        now = min(done_at, arrives_at, look_at, inf if wakeup is None else wakeup)
        while completions and completions[0][0] == now:
            scheduler.finish(heappop(completions)[2], now)
        while coming < total and timeline[coming][0].request.arrival_time == now:
            scheduler.add(timeline[coming][0], now)
            coming += 1
        if stints is not None and stints.make_way(now):
            completions = [entry for entry in completions if entry[2] in scheduler.running]
            heapify(completions)
        batch = scheduler.admit(now)
        if batch and ends_together:
            longest = max(seconds[job.request.request_id] for job in batch)
            seconds.update((job.request.request_id, longest) for job in batch)
        for job in batch:
            request_id = job.request.request_id
            heappush(completions, (now + (seconds[request_id] - job.attained_s), job.sequence, request_id))
        served += batch if stints is None else stints.begin(batch, now)
    return served


class _Stints:
    """Keeps each running job's attained service when jobs may be thrown out and come back."""

    def __init__(self, scheduler: Scheduler) -> None:
        self._scheduler = scheduler
        self._began: dict[str, tuple[float, float]] = {}  # request id -> (instant, attained until then)

    def make_way(self, now: float) -> list[Job]:
        """Bring attained service up to date, then preempt whoever the policy would."""
        for request_id, job in self._scheduler.running.items():
            began, attained_s = self._began[request_id]
            job.attained_s = attained_s + (now - began)
        return self._scheduler.make_way(now)

    def look_again_at(self, now: float) -> float:
        """When the policy says so for a running job, if somebody waits for its place. O(running)."""
        scheduler = self._scheduler
        if scheduler.look_again_s is None or not scheduler.waiting:
            return inf
        soonest_s = min(map(scheduler.look_again_s, scheduler.running.values()), default=inf)
        return max(now + soonest_s, nextafter(now, inf))  # time moves, however late it is

    def begin(self, batch: list[Job], now: float) -> list[Job]:
        """Note who runs from now on; returns those who do for the first time."""
        newcomers = [job for job in batch if job.request.request_id not in self._began]
        for job in batch:
            self._began[job.request.request_id] = (now, job.attained_s)
        return newcomers
