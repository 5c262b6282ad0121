"""Who enters and who leaves: waiting <-> running -> finished | aborted.

Laws of this file:
1. Time is an argument and never goes back. Nothing here waits, reads a clock, logs or does I/O.
2. Every job that `add` accepts leaves by exactly one `finish` or `abort`.
3. `admit` serves in the order of the waiting queue and never exceeds the capacity. With continuous batching and
   `admit` called after every other call, no slot is idle while somebody waits.

The scheduler does not know what runs a job, how long it will take, or where predictions come from.
"""

import copy
from collections.abc import Callable, Iterable, Mapping

from ssjf.core.places.batching import Batching, Continuous
from ssjf.core.places.capacity import Capacity
from ssjf.core.types import AdaptivePolicy, Job, Policy, Status
from ssjf.core.waiting.fairness import FairQueue, TenantCounters
from ssjf.core.waiting.queue import WaitingQueue
from ssjf.errors import QueueFull

_CONTINUOUS = Continuous()


class Scheduler:
    """The state machine that every host with a queue of its own drives.

    Args:
        policy: the order of service; of one that learns the scheduler keeps a copy of its own, `adaptive`. The one in
            use is `policy`.
        slots: the room for running jobs; the host may resize it at any time.
        batching: when waiting jobs may enter free slots.
        max_waiting: how many jobs may wait before `add` rejects; None for no limit.
        max_wait_s: the starvation bound, see `WaitingQueue`.
        tenant_weights: shares of tenants under weighted fairness, 1 for those not named; None treats all requests
            alike, whosever they are. Not for policies that preempt.
    """

    def __init__(
        self,
        policy: Policy,
        slots: Capacity,
        *,
        batching: Batching = _CONTINUOUS,
        max_waiting: int | None = None,
        max_wait_s: float | None = None,
        tenant_weights: Mapping[str, float] | None = None,
    ) -> None:
        self.slots = slots
        self.batching = batching
        self.adaptive = copy.deepcopy(policy) if isinstance(policy, AdaptivePolicy) else None
        self.policy: Policy = self.adaptive or policy
        self._counters = None if tenant_weights is None else TenantCounters(tenant_weights)
        if self._counters is not None and getattr(policy, "preemptive", False):
            raise ValueError("fairness over tenants and a policy that preempts would undo one another")
        if self._counters is not None and (shared := getattr(self.adaptive, "shared", None)) is not None:
            shared()
        self.waiting: WaitingQueue | FairQueue = (
            WaitingQueue(self.policy, max_wait_s=max_wait_s)
            if self._counters is None
            else FairQueue(self.policy, self._counters, max_wait_s=max_wait_s)
        )
        self.running: dict[str, Job] = {}
        self.preemptive: bool = getattr(policy, "preemptive", False)
        self.look_again_s: Callable[[Job], float] | None = getattr(policy, "look_again_s", None)
        self._max_wait_s = max_wait_s
        self._max_waiting = max_waiting
        self._next_sequence = 0

    def add(self, job: Job, now: float) -> None:
        """Accept a job and let it wait.

        Raises:
            QueueFull: as many jobs wait as may, and no slot is free for this one.
            ValueError: a live job has the same request id.
        """
        request_id = job.request.request_id
        if request_id in self.running or request_id in self.waiting:
            raise ValueError(f"request id {request_id!r} is live already")
        if (
            self._max_waiting is not None
            and len(self.waiting) >= self._max_waiting
            and not (self.slots.fits() and not self.waiting)
        ):
            raise QueueFull(f"{len(self.waiting)} requests wait already")
        job.sequence = self._next_sequence
        self._next_sequence += 1
        job.status = Status.WAITING
        if self.adaptive is not None:
            self.adaptive.arrived(job)
        self.waiting.push(job, now)

    def admit(self, now: float, limit: int | None = None) -> list[Job]:
        """Move jobs from waiting to running while they fit; returns them in the order of service.

        Args:
            now: the instant.
            limit: move at most so many, for hosts where slots are not all that a job needs.
        """
        admitted: list[Job] = []
        slots, waiting = self.slots, self.waiting
        room = min(len(waiting), self.batching.room(waiting, slots, now))
        for _ in range(room if limit is None else min(room, limit)):
            job = waiting.pop(now)
            slots.take(job, now)
            job.status = Status.RUNNING
            self.running[job.request.request_id] = job
            admitted.append(job)
            if self._counters is not None:
                self._counters.started(job)
            if job.started_at is None:
                job.started_at = now
                if self.adaptive is not None:
                    self.adaptive.started(job, now, slots.total)
        return admitted

    def finish(self, request_id: str, now: float) -> Job:
        """A running job is done; its slot is free.

        Raises:
            KeyError: no job of that id is running.
        """
        return self._leave(self.running[request_id], Status.FINISHED, now)

    def abort(self, request_id: str, now: float) -> Job | None:
        """Give a job up, waiting or running. Idempotent: None when there is no such live job."""
        job = self.waiting.remove(request_id)
        if job is None:
            job = self.running.get(request_id)
            if job is None:
                return None
            return self._leave(job, Status.ABORTED, now)
        job.status = Status.ABORTED
        job.finished_at = now
        return job

    def preempt(self, request_id: str, now: float) -> Job:
        """Send a running job back to wait; it keeps its sequence number.

        Raises:
            KeyError: no job of that id is running.
        """
        job = self.running.pop(request_id)
        self.slots.release(job)
        job.status = Status.WAITING
        if self._counters is not None:
            self._counters.returned(job)
        self.waiting.push(job, now)
        return job

    def victim(self, now: float) -> Job | None:
        """The running job that the same order would serve last; None when nobody may be thrown out.

        A job that has waited beyond the starvation bound is never thrown out.
        """
        return max(self._evictable(now), key=lambda job: self.waiting.rank(job, now), default=None)

    def victims(self, now: float) -> list[Job]:
        """All running jobs that may be thrown out, the `victim` first. O(n log n)."""
        return sorted(self._evictable(now), key=lambda job: self.waiting.rank(job, now), reverse=True)

    def forced_victim(self, now: float) -> Job:
        """Who leaves when somebody has to, because a resource that all share has run out. Somebody must be running.

        The `victim`; when all have waited beyond the starvation bound, the one that arrived last, for the same order
        serves the oldest first then.
        """
        victim = self.victim(now)
        if victim is None:
            victim = max(self.running.values(), key=lambda job: (job.request.arrival_time, job.sequence))
        return victim

    def make_way(self, now: float) -> list[Job]:
        """With a preemptive policy, preempt running jobs while better ones wait; call it before `admit`.

        Returns:
            The preempted jobs; they wait again.
        """
        preempted: list[Job] = []
        entering: list[Job] = []
        waiting, rank = self.waiting, self.waiting.rank
        while self.preemptive and waiting:
            head = waiting.pop(now)
            entering.append(head)
            if self.slots.total - self.slots.taken >= len(entering):
                continue  # a slot is free for it
            victim = self.victim(now)
            if victim is None or rank(victim, now) < rank(head, now):
                break
            preempted.append(self.preempt(victim.request.request_id, now))
        for job in entering:
            waiting.push(job, now)
        return preempted

    def reprioritize(self, request_id: str, now: float) -> bool:
        """Put a waiting job where its changed prediction belongs; it keeps its sequence number.

        Returns:
            Whether such a job waits.
        """
        return self.waiting.update(request_id, now)

    def wakeup(self) -> float | None:
        """The next time at which `admit` could differ without another call; None when only calls change it."""
        return self.batching.wakeup(self.waiting, self.slots)

    def _evictable(self, now: float) -> Iterable[Job]:
        if self._max_wait_s is None:
            return self.running.values()
        return [job for job in self.running.values() if now - job.request.arrival_time < self._max_wait_s]

    def _leave(self, job: Job, status: Status, now: float) -> Job:
        del self.running[job.request.request_id]
        self.slots.release(job)
        job.status = status
        job.finished_at = now
        assert job.started_at is not None
        if self.adaptive is not None:
            self.adaptive.finished(job, now - job.started_at)
        if self._counters is not None:
            self._counters.ended(job, now - job.started_at)
        return job
