"""Weighted fairness over tenants, around any policy: the virtual token counter.

Source: Sheng et al. 2024, "Fairness in Serving Large Language Models" (OSDI). Each tenant has a counter of the service
that it was given, over its weight; of the tenants that wait in the best tier the one with the smallest counter is
served, and among its jobs the policy's order holds. Who comes back after a pause starts from the counters of those who
wait: a pause earns nothing.

Laws of this file:
1. A job is charged its predicted service when it starts, and the difference to the truth when it ends.
2. While two tenants both wait, what either is given over its weight exceeds what the other is given by at most twice
   the largest job over the smaller weight, where predictions are true; where they are not, by what the jobs that run
   are wrong by as well.
3. Work is never held back: whoever waits alone is served.

This module does not know how jobs of one tenant are ordered.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from heapq import heappop, heappush, nsmallest

from ssjf.core.types import AdaptivePolicy, Job, Policy
from ssjf.core.waiting.queue import WaitingQueue, limiting

_MANY = 4096  # tenants that are remembered while they pause


class TenantCounters:
    """Service given to each tenant, in seconds over its weight.

    Args:
        weights: of tenants that have one; the others' is 1.
    """

    def __init__(self, weights: Mapping[str, float]) -> None:
        for tenant, weight in weights.items():
            if not 0 < weight < float("inf"):
                raise ValueError(f"the weight of tenant {tenant!r} must be a positive number, not {weight}")
        self._weights = dict(weights)
        self._given: dict[str, float] = {}
        self._last = ""  # who was served most recently

    def of(self, tenant: str) -> float:
        """The tenant's counter."""
        return self._given.get(tenant, 0.0)

    def begin(self, tenant: str, waiting: Iterable[str]) -> None:
        """A tenant that did not wait begins to; `waiting` are the others that do."""
        level = min(map(self.of, waiting), default=self.of(self._last))
        self._given[tenant] = max(self.of(tenant), level)
        if len(self._given) > _MANY:  # who is below the level would be lifted to it anyway
            self._given = {name: given for name, given in self._given.items() if given >= level}

    def started(self, job: Job) -> None:
        """The job is served from now on."""
        self._last = job.request.tenant
        self._charge(job, job.predicted_service_s)

    def returned(self, job: Job) -> None:
        """The job lost its place and waits again: it is charged anew when it starts again."""
        self._charge(job, -job.predicted_service_s)

    def ended(self, job: Job, service_s: float) -> None:
        """The job has had so many seconds of service, and gets no more."""
        self._charge(job, service_s - job.predicted_service_s)

    def _charge(self, job: Job, service_s: float) -> None:
        tenant = job.request.tenant
        self._given[tenant] = self.of(tenant) + service_s / self._weights.get(tenant, 1.0)


@dataclass(frozen=True, slots=True)
class _KeyOf:
    """An adaptive policy's key without its wait limit, which is about one queue for all."""

    policy: Policy
    static = True

    def key(self, job: Job, now: float) -> float:
        return self.policy.key(job, now)


class FairQueue:
    """A `WaitingQueue` for each tier and tenant; of the best tier, the tenant who was given least goes first.

    `max_wait_s` stands above fairness, as it does above any order. An adaptive policy's wait limit stands below it: the
    policy is asked about the oldest job of all, and what it says holds among the jobs of the tenant whose turn it is.

    Args:
        policy: the order among one tenant's jobs; keys that stand still, or a `SizedPolicy`'s.
        counters: service given to each tenant.
        max_wait_s: serve the oldest first once it waited this long; None for no bound.
    """

    def __init__(self, policy: Policy, counters: TenantCounters, *, max_wait_s: float | None = None) -> None:
        self._order: Policy = _KeyOf(policy) if isinstance(policy, AdaptivePolicy) else policy
        self._adaptive = limiting(policy)
        self._counters = counters
        self._max_wait_s = max_wait_s
        self._tiers: dict[int, dict[str, WaitingQueue]] = {}
        self._jobs: dict[str, Job] = {}
        self._by_age: list[tuple[float, int, int, Job]] = []

    def __len__(self) -> int:
        return len(self._jobs)

    def __contains__(self, request_id: str) -> bool:
        return request_id in self._jobs

    def push(self, job: Job, now: float) -> None:
        """Let a job wait. Its request id must not be waiting already."""
        request = job.request
        if not any(request.tenant in tenants for tenants in self._tiers.values()):
            self._counters.begin(request.tenant, {name for tenants in self._tiers.values() for name in tenants})
        tenants = self._tiers.setdefault(request.tier, {})
        if request.tenant not in tenants:
            tenants[request.tenant] = WaitingQueue(self._order, tell_oldest=self._adaptive is not None)
        tenants[request.tenant].push(job, now)
        self._jobs[request.request_id] = job
        if self._max_wait_s is not None:
            heappush(self._by_age, (request.arrival_time, job.sequence, job.ticket, job))

    def pop(self, now: float) -> Job:
        """Take out the job to serve next. The queue must not be empty."""
        job = self.peek(now)
        assert job is not None
        self.remove(job.request.request_id)
        return job

    def peek(self, now: float) -> Job | None:
        """The job that `pop` would take, or None when nobody waits."""
        if not self._jobs:
            return None
        tenants = self._tiers[min(self._tiers)]
        queue = tenants[min(tenants, key=lambda name: (self._counters.of(name), name))]
        overdue = None
        if self._adaptive is not None:  # asked in any case: it keeps its books by that
            longest = queue.oldest()
            limit_s = self._adaptive.wait_limit_s(min((other.oldest() for other in tenants.values()), key=_age), now)
            if now - longest.request.arrival_time >= limit_s:
                overdue = longest
        if self._max_wait_s is not None:
            while self._by_age[0][2] != self._by_age[0][3].ticket:
                heappop(self._by_age)
            oldest = self._by_age[0][3]
            if now - oldest.request.arrival_time >= self._max_wait_s:
                return oldest
        if overdue is not None:
            return overdue
        return queue.peek(now)

    def remove(self, request_id: str) -> Job | None:
        """Take out one job wherever it stands; None when it does not wait."""
        job = self._jobs.pop(request_id, None)
        if job is not None:
            tier, tenant = job.request.tier, job.request.tenant
            tenants = self._tiers[tier]
            tenants[tenant].remove(request_id)
            if not tenants[tenant]:
                del tenants[tenant]
            if not tenants:
                del self._tiers[tier]
        return job

    def update(self, request_id: str, now: float) -> bool:
        """Put a waiting job where its changed value belongs; whether it waits. Its tenant's turn does not change."""
        job = self._jobs.get(request_id)
        if job is None:
            return False
        self._tiers[job.request.tier][job.request.tenant].update(request_id, now)
        if self._max_wait_s is not None:
            heappush(self._by_age, (job.request.arrival_time, job.sequence, job.ticket, job))
        return True

    def in_order(self, now: float, limit: int | None = None) -> list[Job]:
        """Waiting jobs by tier, tenant (who was given least first) and key, for display. O(n log(limit))."""
        return nsmallest(
            limit or len(self),
            self._jobs.values(),
            key=lambda job: (job.request.tier, self._counters.of(job.request.tenant), *self.rank(job, now)),
        )

    def oldest_arrival(self) -> float:
        """Arrival time of whoever arrived first among the waiting. The queue must not be empty. O(n)."""
        return min(job.request.arrival_time for job in self._jobs.values())

    def rank(self, job: Job, now: float) -> tuple[int, float, float, int]:
        """The job's place in the policy's order, whoever's it is: whom memory that runs out takes from."""
        request = job.request
        return request.tier, self._order.key(job, now), request.arrival_time, job.sequence


def _age(job: Job) -> tuple[float, int]:
    return job.request.arrival_time, job.sequence
