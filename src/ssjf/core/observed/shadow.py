"""What first come, first served would have given: a virtual server beside the real one.

Laws of this file:
1. Nothing here decides an order. It answers three questions: when would FCFS have started this job, how do completion
   times compare with what FCFS's would have been, and what would FCFS still give those who wait?
2. True service times are used as soon as they are known; until then a calibrated prediction stands in for them, and
   when a job runs longer than that, the time it has run already and a bit more.

On one slot with all service times known the answer is exact, because the jobs ahead of the oldest waiting one have
all left the queue; on several slots it is FCFS list scheduling of the same jobs.
"""

from heapq import heappop, heappush
from math import inf, nextafter

from ssjf.core.observed.estimates import RunningQuantile, RunningRatio
from ssjf.core.types import Job, Status

_OVERRUN = 1.2  # a running job is assumed to last at least so many times as long as it has run by now,
_LONGER = 1.5  # and if not, so many times
_MANY = 128  # jobs that are not worth clearing out
_LATELY = 4096  # jobs
_SAMPLE = 128  # waiting jobs, or up to twice as many, that stand for all


class ShadowFCFS:
    """A virtual FCFS server over the jobs of a real one, fed in order of arrival.

    Attributes:
        jcts: what the completion times of recent jobs would have been, in seconds.
        real_jcts: what those of the same jobs were.
    """

    def __init__(self) -> None:
        self._free_at = [-inf]  # when each virtual slot is free
        self._left: list[tuple[float, int, Job]] = []  # left the real queue, not yet served here
        self._place: dict[int, tuple[int, float, float]] = {}  # sequence -> (slot, assumed service, wait)
        self._service_s: dict[int, float] = {}  # sequence -> true service, until it is served here
        self._overruns: list[tuple[float, int, Job]] = []  # when a running job will have outlived its assumed service
        self._line: list[Job] = []  # as they came: all who have not been served here, and some who have
        self._num_gone = 0  # how many of the line have started since it was last cleared out
        self._long = _MANY  # the length from which the line is cleared out
        self._served_before = (-inf, 0)  # who came before that and does not wait has been served here
        self._next_start = 0.0  # of the oldest waiting job
        # of those served here: unlike those who have finished, they are not the ones that were predicted to be short
        self._scale = RunningRatio(2000)
        self.jcts = RunningQuantile()
        self.real_jcts = RunningQuantile()
        self._lately = RunningQuantile(_LATELY)

    def resize(self, num_slots: int) -> None:
        """Follow the real server's number of slots; new ones are free at once, the busiest go first."""
        missing = num_slots - len(self._free_at)
        if missing:
            self._free_at = sorted(self._free_at + [-inf] * missing)[:num_slots]

    def arrived(self, job: Job) -> None:
        """The real server lets the job wait."""
        if len(self._line) > self._long:
            self._clear_out()
        self._line.append(job)

    def started(self, job: Job) -> None:
        """The real server has taken the job out of its queue."""
        heappush(self._left, (job.request.arrival_time, job.sequence, job))
        self._num_gone += 1

    def finished(self, job: Job, service_s: float) -> None:
        """The job's true service time is known now; of one that was given up, how long it ran."""
        place = self._place.pop(job.sequence, None)
        if place is None:
            self._service_s[job.sequence] = service_s
            return
        slot, assumed_s, wait_s = place
        self._lengthen(slot, service_s - assumed_s)
        self._compare(job, wait_s, service_s)

    def wait_of(self, oldest: Job, now: float, scale: float) -> float:
        """How long FCFS would have let the oldest waiting job wait, in seconds.

        Args:
            oldest: nobody who arrived before it waits.
            now: the real server's time.
            scale: true over predicted service seconds, on average.
        """
        while self._overruns and self._overruns[0][0] <= now:
            self._overrun(heappop(self._overruns)[2], now)
        ahead = (oldest.request.arrival_time, oldest.sequence)
        while self._left and self._left[0][:2] < ahead:
            self._serve(heappop(self._left)[2], now, scale)
        self._served_before = max(self._served_before, ahead)
        self._next_start = max(min(self._free_at), ahead[0])
        return self._next_start - ahead[0]

    def seen_jct_at(self, level: float) -> float:
        """A quantile of FCFS's completion times, and at most the longest of late: a heavy hour is forgotten."""
        return min(self.jcts.at(level), self._lately.at(1.0))

    def coming_jct_at(self, level: float) -> float:
        """A quantile of FCFS's completion times, of recent jobs and of those who wait if nobody else comes.

        Of those who wait a sample is looked at; what the servers need for the work ahead of them is estimated.
        """
        known, (expected, weight) = self.jcts, self._expected()
        place = level * (len(known) + weight * len(expected) - 1)  # in increasing order of all
        longest = max(self._lately.at(1.0), expected[-1] if expected else 0.0)
        for jct_s in expected:
            if known.num_below(jct_s) + weight > place:  # it is this one, or one of those known that lie below
                return min(jct_s, known.ranked(int(place)))
            place -= weight
        return min(longest, known.ranked(int(place)))

    def _expected(self) -> tuple[list[float], float]:
        """What FCFS would still give some of those it has not served, in increasing order; how many each stands for."""
        if 4 * self._num_gone > len(self._line):
            self._clear_out()
        apart = max(1, len(self._line) // _SAMPLE)
        start, scale, slots = self._next_start, self._scale.value, len(self._free_at)
        found = []
        for job in self._line[::apart]:
            if self._is_past(job):
                continue
            arrival, service_s = job.request.arrival_time, scale * job.predicted_service_s
            start = max(start, arrival)
            found.append(start + service_s - arrival)
            start += apart * service_s / slots
        return sorted(found), float(apart)

    def _is_past(self, job: Job) -> bool:
        """Whether FCFS has served the job, or never will."""
        if job.status is Status.ABORTED:
            return True
        return job.status is not Status.WAITING and (job.request.arrival_time, job.sequence) < self._served_before

    def _clear_out(self) -> None:
        self._line = [job for job in self._line if not self._is_past(job)]
        self._long = _MANY + 2 * len(self._line)
        self._num_gone = 0

    def _serve(self, job: Job, now: float, scale: float) -> None:
        arrival, sequence = job.request.arrival_time, job.sequence
        free_at = min(self._free_at)
        slot = self._free_at.index(free_at)
        start = max(free_at, arrival)
        wait_s = start - arrival
        service_s = self._service_s.pop(sequence, None)
        if service_s is not None:
            self._compare(job, wait_s, service_s)
        else:
            assert job.started_at is not None
            service_s = max(scale * job.predicted_service_s, _OVERRUN * (now - job.started_at))
            self._place[sequence] = (slot, service_s, wait_s)
            self._watch(job, service_s, now)
        self._free_at[slot] = start + service_s

    def _overrun(self, job: Job, now: float) -> None:
        """Assume more of a job that still runs; what is assumed grows geometrically, so a job seldom comes here."""
        place = self._place.get(job.sequence)
        if place is None:
            return  # it has ended
        assert job.started_at is not None
        slot, assumed_s, wait_s = place
        service_s = max(assumed_s, _LONGER * (now - job.started_at))
        self._lengthen(slot, service_s - assumed_s)
        self._place[job.sequence] = (slot, service_s, wait_s)
        self._watch(job, service_s, now)

    def _watch(self, job: Job, assumed_s: float, now: float) -> None:
        assert job.started_at is not None
        heappush(self._overruns, (max(job.started_at + assumed_s / _OVERRUN, nextafter(now, inf)), job.sequence, job))

    def _lengthen(self, slot: int, by_s: float) -> None:
        if slot < len(self._free_at):  # the real server may have fewer slots by now
            self._free_at[slot] += by_s

    def _compare(self, job: Job, wait_s: float, service_s: float) -> None:
        if job.status is Status.ABORTED:
            return
        assert job.finished_at is not None
        self._scale.add(service_s, job.predicted_service_s)
        self.jcts.add(wait_s + service_s)
        self._lately.add(wait_s + service_s)
        self.real_jcts.add(job.finished_at - job.request.arrival_time)
