import pytest

from ssjf.core.places.capacity import Slots
from ssjf.core.policies import FCFS, PSJF, SRPT, SSJF
from ssjf.core.replay import replay
from ssjf.core.scheduler import Scheduler
from ssjf.core.types import Job, Status
from ssjf.errors import QueueFull
from tests.conftest import MakeJob


def ids(jobs: list[Job]) -> list[str]:
    return [job.request.request_id for job in jobs]


def test_jobs_enter_in_policy_order_and_only_while_slots_are_free(make_job: MakeJob) -> None:
    scheduler = Scheduler(SSJF(), Slots(2))
    for name, service in [("long", 9), ("short", 1), ("middle", 5)]:
        scheduler.add(make_job(name, service=service), now=0)
    assert ids(scheduler.admit(now=0)) == ["short", "middle"]
    assert scheduler.admit(now=1) == []
    finished = scheduler.finish("middle", now=3)
    assert (finished.status, finished.started_at, finished.finished_at) == (Status.FINISHED, 0, 3)
    assert ids(scheduler.admit(now=3)) == ["long"]


def test_equal_keys_go_by_arrival_then_by_the_order_of_adding(make_job: MakeJob) -> None:
    scheduler = Scheduler(SSJF(), Slots(9))
    for name, arrival in [("b", 1.0), ("c", 1.0), ("a", 0.5)]:
        scheduler.add(make_job(name, arrival=arrival), now=1.0)
    assert ids(scheduler.admit(now=1.0)) == ["a", "b", "c"]


def test_a_better_tier_goes_first_whatever_the_key(make_job: MakeJob) -> None:
    scheduler = Scheduler(SSJF(), Slots(9))
    scheduler.add(make_job("free", service=1, tier=1), now=0)
    scheduler.add(make_job("paid", service=100, tier=0), now=0)
    assert ids(scheduler.admit(now=0)) == ["paid", "free"]


def test_an_aborted_waiting_job_is_never_served(make_job: MakeJob) -> None:
    scheduler = Scheduler(FCFS(), Slots(9))
    scheduler.add(make_job("gone"), now=0)
    scheduler.add(make_job("stays", arrival=1), now=1)
    aborted = scheduler.abort("gone", now=2)
    assert aborted is not None
    assert (aborted.status, aborted.started_at, aborted.finished_at) == (Status.ABORTED, None, 2)
    assert ids(scheduler.admit(now=2)) == ["stays"]


def test_aborting_a_running_job_frees_its_slot(make_job: MakeJob) -> None:
    scheduler = Scheduler(FCFS(), Slots(1))
    scheduler.add(make_job("first"), now=0)
    scheduler.add(make_job("second", arrival=1), now=1)
    scheduler.admit(now=1)
    aborted = scheduler.abort("first", now=2)
    assert aborted is not None
    assert aborted.status is Status.ABORTED
    assert ids(scheduler.admit(now=2)) == ["second"]


def test_aborting_is_idempotent(make_job: MakeJob) -> None:
    scheduler = Scheduler(FCFS(), Slots(1))
    scheduler.add(make_job("a"), now=0)
    assert scheduler.abort("a", now=1) is not None
    assert scheduler.abort("a", now=1) is None
    assert scheduler.abort("never heard of", now=1) is None


def test_a_full_queue_rejects_but_not_while_a_slot_is_free_and_nobody_waits(make_job: MakeJob) -> None:
    scheduler = Scheduler(FCFS(), Slots(1), max_waiting=0)
    scheduler.add(make_job("a"), now=0)
    scheduler.admit(now=0)
    with pytest.raises(QueueFull):
        scheduler.add(make_job("b"), now=1)
    assert scheduler.abort("b", now=1) is None


def test_a_live_request_id_is_not_accepted_twice(make_job: MakeJob) -> None:
    scheduler = Scheduler(FCFS(), Slots(1))
    scheduler.add(make_job("a"), now=0)
    with pytest.raises(ValueError, match="live already"):
        scheduler.add(make_job("a"), now=0)
    scheduler.admit(now=0)
    with pytest.raises(ValueError, match="live already"):
        scheduler.add(make_job("a"), now=0)


def test_a_changed_prediction_moves_a_waiting_job_and_nothing_else(make_job: MakeJob) -> None:
    scheduler = Scheduler(SSJF(), Slots(1))
    late, early = make_job("late", service=9), make_job("early", service=5)
    scheduler.add(late, now=0)
    scheduler.add(early, now=0)
    late.predicted_service_s = 5
    assert scheduler.reprioritize("late", now=0)
    # the tie goes to the smaller sequence number, which a re-push keeps
    assert ids(scheduler.admit(now=0)) == ["late"]
    assert not scheduler.reprioritize("late", now=1)
    scheduler.finish("late", now=2)
    assert ids(scheduler.admit(now=2)) == ["early"]


def test_finishing_a_job_that_does_not_run_is_an_error(make_job: MakeJob) -> None:
    scheduler = Scheduler(FCFS(), Slots(1))
    scheduler.add(make_job("a"), now=0)
    with pytest.raises(KeyError):
        scheduler.finish("a", now=0)


def test_replay_serves_completions_then_arrivals_then_dispatches(make_job: MakeJob) -> None:
    # at t = 2 "a" ends and "short" arrives: the slot goes to "short" although "long" has waited
    jobs = [
        (make_job("a", arrival=0, service=2), 2.0),
        (make_job("long", arrival=1, service=5), 5.0),
        (make_job("short", arrival=2, service=1), 1.0),
    ]
    served = replay(jobs, Scheduler(SSJF(), Slots(1)))
    assert [(j.request.request_id, j.started_at, j.finished_at) for j in served] == [
        ("a", 0, 2),
        ("short", 2, 3),
        ("long", 3, 8),
    ]


def test_replay_refuses_arrivals_out_of_order(make_job: MakeJob) -> None:
    jobs = [(make_job("a", arrival=5), 1.0), (make_job("b", arrival=1), 1.0)]
    with pytest.raises(ValueError, match="in order of arrival"):
        replay(jobs, Scheduler(FCFS(), Slots(1)))


def test_the_starvation_bound_serves_the_oldest_once_it_waited_long_enough(make_job: MakeJob) -> None:
    scheduler = Scheduler(SSJF(), Slots(1), max_wait_s=10)
    scheduler.add(make_job("long", arrival=0, service=99, tier=3), now=0)
    scheduler.add(make_job("short", arrival=5, service=1), now=5)
    scheduler.add(make_job("shorter", arrival=5, service=0.5), now=5)
    assert ids(scheduler.admit(now=9.999)) == ["shorter"]
    scheduler.finish("shorter", now=10)
    assert ids(scheduler.admit(now=10)) == ["long"]


@pytest.mark.parametrize("bound", [-1.0, float("nan")])
def test_a_meaningless_starvation_bound_is_refused(bound: float) -> None:
    with pytest.raises(ValueError, match="max_wait_s"):
        Scheduler(FCFS(), Slots(1), max_wait_s=bound)


def test_a_preempted_job_waits_again_where_its_sequence_number_puts_it(make_job: MakeJob) -> None:
    scheduler = Scheduler(SSJF(), Slots(1))
    scheduler.add(make_job("first"), now=0)
    scheduler.admit(now=0)
    scheduler.add(make_job("second"), now=0)
    assert scheduler.preempt("first", now=1).status is Status.WAITING
    assert ids(scheduler.admit(now=1)) == ["first"]


def test_a_shorter_arrival_takes_the_slot_of_the_running_job_that_the_policy_would_serve_last(
    make_job: MakeJob,
) -> None:
    scheduler = Scheduler(PSJF(), Slots(2))
    for name, service in [("long", 9), ("longer", 10), ("longest", 11)]:
        scheduler.add(make_job(name, service=service), now=0)
    scheduler.admit(now=0)
    scheduler.add(make_job("short", service=1), now=1)
    assert ids(scheduler.make_way(now=1)) == ["longer"]
    assert ids(scheduler.admit(now=1)) == ["short"]
    assert scheduler.make_way(now=1) == []
    assert len(scheduler.waiting) == 2


def test_free_slots_are_used_before_anybody_is_thrown_out(make_job: MakeJob) -> None:
    scheduler = Scheduler(PSJF(), Slots(2))
    scheduler.add(make_job("long", service=9), now=0)
    scheduler.admit(now=0)
    scheduler.add(make_job("short", service=1), now=1)
    assert scheduler.make_way(now=1) == []
    assert ids(scheduler.admit(now=1)) == ["short"]


def test_without_a_preemptive_policy_nobody_makes_way(make_job: MakeJob) -> None:
    scheduler = Scheduler(SSJF(), Slots(1))
    scheduler.add(make_job("long", service=9), now=0)
    scheduler.admit(now=0)
    scheduler.add(make_job("short", service=1), now=1)
    assert scheduler.make_way(now=1) == []


def test_who_waited_beyond_the_bound_is_not_thrown_out(make_job: MakeJob) -> None:
    scheduler = Scheduler(PSJF(), Slots(1), max_wait_s=5)
    scheduler.add(make_job("long", arrival=0, service=9), now=0)
    scheduler.admit(now=0)
    scheduler.add(make_job("short", arrival=6, service=1), now=6)
    assert scheduler.victim(now=6) is None
    assert scheduler.make_way(now=6) == []


def test_srpt_resumes_a_preempted_job_where_it_stopped(make_job: MakeJob) -> None:
    # at t = 4 "long" has 6 s left against 3 s of "short"; at t = 5 "late" (2.5) does not beat the 2 s left of "short"
    jobs = [
        (make_job("long", arrival=0, service=10), 10.0),
        (make_job("short", arrival=4, service=3), 3.0),
        (make_job("late", arrival=5, service=2.5), 2.5),
    ]
    served = replay(jobs, Scheduler(SRPT(), Slots(1)))
    assert [(j.request.request_id, j.started_at, j.finished_at) for j in served] == [
        ("long", 0, 15.5),
        ("short", 4, 7),
        ("late", 7, 9.5),
    ]
