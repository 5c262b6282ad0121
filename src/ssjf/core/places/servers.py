"""Several servers behind one queue: which of them gets the job that the queue lets go?

The one with the least predicted work left for each of its places, among those that have a place free: a count of jobs
would take a server with eight long answers for as busy as one with eight short ones.

This module does not know what a server is, nor which job comes next.
"""

from collections.abc import Collection, Iterable, Sequence

from ssjf.core.types import Job


class Server:
    """One server and what runs on it.

    Args:
        name: for people.
        slots: how many jobs it runs at once; the host may change it at any time.

    Attributes:
        open: it takes jobs; the host closes it while it is out of order.
    """

    def __init__(self, name: str, slots: int) -> None:
        self.name = name
        self.slots = slots
        self.open = True
        self._running: dict[str, tuple[Job, float]] = {}  # with the time at which each began here

    @property
    def num_running(self) -> int:
        """How many jobs have a place here."""
        return len(self._running)

    @property
    def request_ids(self) -> Iterable[str]:
        """Whose jobs have a place here, in the order in which they got it."""
        return self._running.keys()

    def holds(self, job: Job) -> bool:
        """Whether the job has its place here."""
        return job.request.request_id in self._running

    def work_left_s(self, now: float) -> float:
        """Predicted service seconds that its jobs have yet to get, over its places. O(jobs)."""
        left = sum(max(job.predicted_service_s - (now - since), 0.0) for job, since in self._running.values())
        return left / max(self.slots, 1)

    def _take(self, job: Job, now: float) -> None:
        self._running[job.request.request_id] = (job, now)

    def _release(self, job: Job) -> None:
        del self._running[job.request.request_id]


class Servers:
    """The capacity of several servers together; a server may be one of several such groups.

    Args:
        servers: at least one.
    """

    def __init__(self, servers: Sequence[Server]) -> None:
        self.servers = tuple(servers)

    @property
    def total(self) -> int:
        """Places of the servers that are open."""
        return sum(server.slots for server in self.servers if server.open)

    @property
    def taken(self) -> int:
        """Places in use on the servers that are open, as far as they count: none counts more than it has."""
        return sum(min(server.num_running, server.slots) for server in self.servers if server.open)

    def fits(self) -> bool:
        """Whether an open server has a place free."""
        return any(server.open and server.num_running < server.slots for server in self.servers)

    def take(self, job: Job, now: float) -> None:
        """Place the job where the least predicted work is left, on a server that `fits` promised."""
        free = [server for server in self.servers if server.open and server.num_running < server.slots]
        _least_loaded(free, now)._take(job, now)  # noqa: SLF001 - one module, one concern

    def release(self, job: Job) -> None:
        """The job gives its place back, wherever it has it."""
        self.server_of(job)._release(job)  # noqa: SLF001

    def server_of(self, job: Job) -> Server:
        """Where the job runs. It must run."""
        return next(server for server in self.servers if server.holds(job))

    def move(self, job: Job, now: float, *, tried: Collection[Server]) -> Server | None:
        """Let a running job go on at another open server that it has not tried; None when there is none.

        It had a place already, so it need not wait for one again: for a while that server may run more jobs than it
        has places.
        """
        others = [server for server in self.servers if server.open and server not in tried]
        if not others:
            return None
        self.release(job)
        server = _least_loaded(others, now)
        server._take(job, now)  # noqa: SLF001
        return server


def _least_loaded(servers: Sequence[Server], now: float) -> Server:
    return min(servers, key=lambda server: server.work_left_s(now))
