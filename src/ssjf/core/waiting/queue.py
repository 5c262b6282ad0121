"""The waiting queue: which job is next?

Laws of this file:
1. Order is (tier, policy key, arrival time, sequence). Removed jobs are never served.
2. A heap entry is live only while its ticket equals its job's; every push bumps the ticket, every removal voids it.
   The ticket never takes part in the order.
3. An adaptive policy's wait limit puts the oldest job of the best waiting tier before the order.
4. With `max_wait_s`: once a job has waited that long, no later arrival leaves before it, whatever its tier or key.

The queue does not know about slots, running jobs or clocks.
"""

from heapq import heapify, heappop, heappush, nsmallest

from ssjf.core.types import AdaptivePolicy, Job, Policy, SizedPolicy
from ssjf.core.waiting.buckets import SizeBuckets

_COMPACT_MIN = 64  # below this many heap entries, stale ones are not worth clearing out


class WaitingQueue:
    """Jobs in policy order, with removal and a bound on starvation.

    Keys that stand still are kept in a heap (push and pop O(log n), removal O(1) amortised). Keys that move with time
    and hang on size and arrival alone (`SizedPolicy`) are searched by bounds; any others are all looked at for each
    pop (O(n)).

    Args:
        policy: the order.
        max_wait_s: serve the oldest first once it waited this long; None for no bound.
        tell_oldest: `oldest` is going to be asked for, though the policy itself does not need it.
    """

    def __init__(self, policy: Policy, *, max_wait_s: float | None = None, tell_oldest: bool = False) -> None:
        if max_wait_s is not None and not max_wait_s >= 0:
            raise ValueError(f"max_wait_s must be at least 0, not {max_wait_s}")
        self._policy = policy
        self._static = policy.static
        self._max_wait_s = max_wait_s
        self._adaptive = limiting(policy)
        self._tell_oldest = tell_oldest or self._adaptive is not None
        self._jobs: dict[str, Job] = {}
        self._heap: list[tuple[int, float, float, int, int, Job]] = []
        self._sized = policy if isinstance(policy, SizedPolicy) and not policy.static else None
        self._buckets: dict[int, SizeBuckets] = {}  # by tier
        # by arrival, and by tier and arrival; each kept only where somebody asks for it
        self._by_age: list[tuple[int, float, int, int, Job]] = []
        self._by_tier: list[tuple[int, float, int, int, Job]] = []
        in_use = ((self._by_age, max_wait_s is not None), (self._by_tier, self._tell_oldest))
        self._aged = [heap for heap, used in in_use if used]

    def __len__(self) -> int:
        return len(self._jobs)

    def __contains__(self, request_id: str) -> bool:
        return request_id in self._jobs

    def push(self, job: Job, now: float) -> None:
        """Let a job wait. Its request id must not be waiting already."""
        request = job.request
        assert request.request_id not in self._jobs, f"{request.request_id} waits already"
        self._jobs[request.request_id] = job
        job.ticket += 1
        if self._static:
            key = self._policy.key(job, now)
            heappush(
                self._heap,
                (request.tier, key, request.arrival_time, job.sequence, job.ticket, job),
            )
        elif self._sized is not None:
            if request.tier not in self._buckets:
                self._buckets[request.tier] = SizeBuckets(self._sized)
            self._buckets[request.tier].push(job)
        if self._max_wait_s is not None:
            heappush(self._by_age, (0, request.arrival_time, job.sequence, job.ticket, job))
        if self._tell_oldest:
            heappush(self._by_tier, (request.tier, request.arrival_time, job.sequence, job.ticket, job))

    def pop(self, now: float) -> Job:
        """Take out the job to serve next. The queue must not be empty."""
        job = self._next(now)
        self._forget(job)
        return job

    def peek(self, now: float) -> Job | None:
        """The job that `pop` would take, or None when nobody waits."""
        return self._next(now) if self._jobs else None

    def remove(self, request_id: str) -> Job | None:
        """Take out one job wherever it stands; None when it does not wait. O(1) amortised."""
        job = self._jobs.get(request_id)
        if job is not None:
            self._forget(job)
        return job

    def update(self, request_id: str, now: float) -> bool:
        """Put a waiting job where its changed value belongs; whether it waits."""
        job = self.remove(request_id)
        if job is None:
            return False
        self.push(job, now)
        return True

    def in_order(self, now: float, limit: int | None = None) -> list[Job]:
        """Waiting jobs in the order of their keys, all or the first few, for display. O(n log(limit))."""
        return nsmallest(limit or len(self), self._jobs.values(), key=lambda job: self.rank(job, now))

    def oldest(self) -> Job:
        """Who arrived first among those of the best tier, if that is kept. The queue must not be empty."""
        return _first(self._by_tier)

    def oldest_arrival(self) -> float:
        """Arrival time of whoever arrived first among the waiting. The queue must not be empty. O(n)."""
        return min(job.request.arrival_time for job in self._jobs.values())

    def rank(self, job: Job, now: float) -> tuple[int, float, float, int]:
        """The job's place in the order, for any job of this policy: lower is served first and thrown out last."""
        request = job.request
        return request.tier, self._policy.key(job, now), request.arrival_time, job.sequence

    def _next(self, now: float) -> Job:
        overdue = None
        if self._adaptive is not None:  # asked in any case: it keeps its books by that
            first = _first(self._by_tier)
            if now - first.request.arrival_time >= self._adaptive.wait_limit_s(first, now):
                overdue = first
        if self._max_wait_s is not None:
            oldest = _first(self._by_age)
            if now - oldest.request.arrival_time >= self._max_wait_s:
                return oldest
        if overdue is not None:
            return overdue
        if self._sized is not None:
            return self._buckets[min(self._buckets)].best(now)
        if not self._static:
            return min(self._jobs.values(), key=lambda job: self.rank(job, now))
        heap = self._heap
        while True:
            entry = heap[0]
            if entry[4] == entry[5].ticket:
                return entry[5]
            heappop(heap)

    def _forget(self, job: Job) -> None:
        del self._jobs[job.request.request_id]
        job.ticket += 1
        if self._sized is not None:
            buckets = self._buckets[job.request.tier]
            buckets.forget(job)
            if not buckets:
                del self._buckets[job.request.tier]
        num_live = len(self._jobs)
        if len(self._heap) > _COMPACT_MIN and len(self._heap) > 2 * num_live:
            self._heap = [entry for entry in self._heap if entry[4] == entry[5].ticket]
            heapify(self._heap)
        for heap in self._aged:
            if len(heap) > _COMPACT_MIN and len(heap) > 2 * num_live:
                heap[:] = [entry for entry in heap if entry[3] == entry[4].ticket]
                heapify(heap)


def limiting(policy: Policy) -> AdaptivePolicy | None:
    """The policy, if it says how long the oldest job may be kept waiting."""
    return policy if isinstance(policy, AdaptivePolicy) and getattr(policy, "limits_waits", True) else None


def _first(heap: list[tuple[int, float, int, int, Job]]) -> Job:
    """The first live job of a heap that has one."""
    while heap[0][3] != heap[0][4].ticket:
        heappop(heap)
    return heap[0][4]
