"""When may waiting jobs enter a host's free slots?

Four settings of one idea, as in the SSJF paper: `none` (continuous with one slot), `static`, `dynamic` and
`continuous`. None of them knows which job enters: that is the waiting queue's order.
"""

from dataclasses import dataclass
from typing import Protocol

from ssjf.core.places.capacity import Capacity


class Waiting(Protocol):
    """What batching asks of a queue."""

    def __len__(self) -> int:
        """How many wait."""
        ...

    def oldest_arrival(self) -> float:
        """Arrival time of whoever arrived first; somebody must wait."""
        ...


class Batching(Protocol):
    """How many may enter now, and when to ask again.

    Attributes:
        ends_together: the jobs of a batch hold their slots until the longest of them ends.
    """

    ends_together: bool

    def room(self, waiting: Waiting, slots: Capacity, now: float) -> int:
        """How many waiting jobs may enter now; may be more than wait."""
        ...

    def wakeup(self, waiting: Waiting, slots: Capacity) -> float | None:
        """When `room` changes by the passing of time alone; None when it does not."""
        ...


@dataclass(frozen=True, slots=True)
class Continuous:
    """A freed slot is refilled at once, as continuous batching in today's engines does."""

    ends_together = False

    def room(self, waiting: Waiting, slots: Capacity, now: float) -> int:
        """Every free slot."""
        return slots.total - slots.taken

    def wakeup(self, waiting: Waiting, slots: Capacity) -> float | None:
        """Never: only arrivals and completions matter."""
        return None


@dataclass(frozen=True, slots=True)
class Static:
    """An idle server takes up to as many jobs as it has slots; the next batch waits until all have ended."""

    ends_together = True

    def room(self, waiting: Waiting, slots: Capacity, now: float) -> int:
        """All slots of an idle server, none of a busy one."""
        return 0 if slots.taken else slots.total

    def wakeup(self, waiting: Waiting, slots: Capacity) -> float | None:
        """Never: only arrivals and completions matter."""
        return None


@dataclass(frozen=True, slots=True)
class Dynamic:
    """As static, but a batch starts only when it is full or its oldest job has waited long enough.

    Attributes:
        batch_wait_s: how long the oldest waiting job may wait, since its arrival, for a batch to fill.
    """

    batch_wait_s: float
    ends_together = True

    def __post_init__(self) -> None:
        """Reject a time-out that never comes."""
        if not 0 <= self.batch_wait_s < float("inf"):
            raise ValueError(f"batch_wait_s must be a finite number of at least 0, not {self.batch_wait_s}")

    def room(self, waiting: Waiting, slots: Capacity, now: float) -> int:
        """All slots of an idle server once enough jobs wait, or the oldest has waited its time."""
        starts_at = self.wakeup(waiting, slots)
        if slots.taken or not waiting or (starts_at is not None and now < starts_at):
            return 0
        return slots.total

    def wakeup(self, waiting: Waiting, slots: Capacity) -> float | None:
        """When the time-out of a batch that is not full runs out."""
        if slots.taken or not 0 < len(waiting) < slots.total:
            return None
        return waiting.oldest_arrival() + self.batch_wait_s
