"""Who is next where keys move with time, without looking at everybody.

For policies whose key is a function of a job's size, its arrival and the time, and never falls when size or arrival
grow: then the first arrival and the smallest size of a group of jobs bound the keys of all of them from below. Jobs are
grouped by size, a twelfth of an octave each, in order of arrival; a group is looked at only while its bound is not
above the best key found, and only as far as that holds. The order is exactly that of a scan.

This module does not know what the key is.
"""

from bisect import insort
from math import floor, log2

from ssjf.core.types import Job, SizedPolicy

_PER_OCTAVE = 12
_COMPACT_MIN = 16  # stale entries that are not worth clearing out

_Entry = tuple[float, int, int, Job]  # arrival, sequence, ticket, job


class _Bucket:
    """Jobs of about one size in order of arrival; entries with another ticket than their job's are stale."""

    __slots__ = ("entries", "num_live", "smallest")

    def __init__(self) -> None:
        self.entries: list[_Entry] = []
        self.num_live = 0
        self.smallest = float("inf")


class SizeBuckets:
    """The waiting jobs of one tier.

    Args:
        policy: what to order by.
    """

    def __init__(self, policy: SizedPolicy) -> None:
        self._policy = policy
        self._buckets: dict[int, _Bucket] = {}

    def __bool__(self) -> bool:
        return bool(self._buckets)

    def push(self, job: Job) -> None:
        """Take a job in; its ticket is that of this stay."""
        size = self._policy.size(job)
        bucket = self._buckets.setdefault(self._number(size), _Bucket())
        insort(bucket.entries, (job.request.arrival_time, job.sequence, job.ticket, job))
        bucket.num_live += 1
        bucket.smallest = min(bucket.smallest, size)

    def forget(self, job: Job) -> None:
        """A job has left; its ticket is another already."""
        number = self._number(self._policy.size(job))
        bucket = self._buckets[number]
        bucket.num_live -= 1
        if not bucket.num_live:
            del self._buckets[number]
        elif len(bucket.entries) > _COMPACT_MIN + 2 * bucket.num_live:
            bucket.entries = [entry for entry in bucket.entries if entry[2] == entry[3].ticket]

    def best(self, now: float) -> Job:
        """The job with the smallest (key, arrival, sequence). Somebody must be there."""
        key_of = self._policy.key_of
        bounds = []
        for bucket in self._buckets.values():
            entries = bucket.entries
            stale = 0
            while entries[stale][2] != entries[stale][3].ticket:
                stale += 1
            del entries[:stale]
            bounds.append((key_of(bucket.smallest, entries[0][0], now), entries[0][:2], bucket))
        bounds.sort(key=lambda bound: bound[:2])
        found: tuple[float, float, int, Job] | None = None
        for bound, _, bucket in bounds:
            if found is not None and bound > found[0]:
                break
            for arrival, sequence, ticket, job in bucket.entries:
                if found is not None and key_of(bucket.smallest, arrival, now) > found[0]:
                    break
                if ticket == job.ticket:
                    rank = (self._policy.key(job, now), arrival, sequence)
                    if found is None or rank < found[:3]:
                        found = (*rank, job)
        assert found is not None
        return found[3]

    def _number(self, size: float) -> int:
        return floor(_PER_OCTAVE * log2(size))
