from ssjf.core.places.capacity import Slots
from ssjf.core.policies import SSJF, Auto
from ssjf.core.scheduler import Scheduler
from ssjf.core.types import Job
from tests.conftest import MakeJob


def test_no_more_are_admitted_than_asked_for(make_job: MakeJob) -> None:
    scheduler = Scheduler(SSJF(), Slots(3))
    for name in "abc":
        scheduler.add(make_job(name), now=0.0)
    assert [job.request.request_id for job in scheduler.admit(0.0, limit=1)] == ["a"]
    assert [job.request.request_id for job in scheduler.admit(0.0)] == ["b", "c"]


def test_victims_come_in_the_reverse_of_the_order_of_service(make_job: MakeJob) -> None:
    scheduler = Scheduler(SSJF(), Slots(3))
    for name, service in [("b", 2.0), ("c", 3.0), ("a", 1.0)]:
        scheduler.add(make_job(name, service=service), now=0.0)
    scheduler.admit(0.0)
    assert [job.request.request_id for job in scheduler.victims(1.0)] == ["c", "b", "a"]


def test_who_waited_too_long_is_no_victim_unless_somebody_has_to_go(make_job: MakeJob) -> None:
    scheduler = Scheduler(SSJF(), Slots(3), max_wait_s=10.0)
    for name, arrival, service in [("old", 0.0, 9.0), ("new", 5.0, 1.0)]:
        scheduler.add(make_job(name, arrival=arrival, service=service), now=arrival)
    scheduler.admit(5.0)
    assert [job.request.request_id for job in scheduler.victims(12.0)] == ["new"]
    assert scheduler.forced_victim(12.0).request.request_id == "new"
    assert scheduler.victims(20.0) == []
    assert scheduler.forced_victim(20.0).request.request_id == "new"


class Listening(Auto):
    """Adaptive, and remembers of which jobs it was told that they started."""

    def __init__(self) -> None:
        super().__init__()
        self.heard: list[str] = []

    def started(self, job: Job, now: float, num_slots: int) -> None:
        self.heard.append(job.request.request_id)


def test_an_adaptive_policy_hears_once_of_a_job_that_enters_twice(make_job: MakeJob) -> None:
    scheduler = Scheduler(Listening(), Slots(2))
    for name in "ab":
        scheduler.add(make_job(name), now=0.0)
    scheduler.admit(0.0)
    scheduler.preempt("b", 1.0)
    assert [job.request.request_id for job in scheduler.admit(2.0)] == ["b"]
    assert isinstance(scheduler.adaptive, Listening)
    assert scheduler.adaptive.heard == ["a", "b"]
