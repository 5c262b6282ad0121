import pytest

from ssjf.core.places.batching import Batching, Continuous, Dynamic, Static
from ssjf.core.places.capacity import Slots
from ssjf.core.policies import SSJF
from ssjf.core.replay import replay
from ssjf.core.scheduler import Scheduler
from tests.conftest import MakeJob

# arrival and service seconds of each job
WORKLOAD = {"a": (0.0, 4.0), "b": (1.0, 9.0), "c": (2.0, 1.0), "d": (3.0, 2.0)}


def served(make_job: MakeJob, batching: Batching, slots: int) -> dict[str, tuple[float | None, float | None]]:
    jobs = [(make_job(name, arrival=a, service=s), s) for name, (a, s) in WORKLOAD.items()]
    done = replay(jobs, Scheduler(SSJF(), Slots(slots), batching=batching))
    return {job.request.request_id: (job.started_at, job.finished_at) for job in done}


def test_continuous_batching_refills_a_slot_as_soon_as_it_is_free(make_job: MakeJob) -> None:
    assert served(make_job, Continuous(), 2) == {"a": (0, 4), "b": (1, 10), "c": (4, 5), "d": (5, 7)}


def test_a_static_batch_starts_on_an_idle_server_and_ends_with_its_longest_job(make_job: MakeJob) -> None:
    # "a" finds an idle server and runs alone; then the two shortest of three; then the rest
    assert served(make_job, Static(), 2) == {"a": (0, 4), "c": (4, 6), "d": (4, 6), "b": (6, 15)}


def test_a_dynamic_batch_starts_when_it_is_full(make_job: MakeJob) -> None:
    assert served(make_job, Dynamic(batch_wait_s=100), 2) == {"a": (1, 10), "b": (1, 10), "c": (10, 12), "d": (10, 12)}


def test_a_dynamic_batch_starts_when_its_oldest_job_has_waited_long_enough(make_job: MakeJob) -> None:
    expected = {"a": (0.5, 4.5), "c": (4.5, 13.5), "d": (4.5, 13.5), "b": (4.5, 13.5)}
    assert served(make_job, Dynamic(batch_wait_s=0.5), 3) == expected


def test_the_last_jobs_of_a_dynamic_batch_do_not_wait_for_ever(make_job: MakeJob) -> None:
    assert served(make_job, Dynamic(batch_wait_s=50), 5)["a"] == (50, 59)


def test_a_scheduler_says_when_a_batch_will_start_by_itself(make_job: MakeJob) -> None:
    scheduler = Scheduler(SSJF(), Slots(2), batching=Dynamic(batch_wait_s=10))
    assert scheduler.wakeup() is None
    scheduler.add(make_job("a", arrival=3), now=3)
    assert scheduler.wakeup() == 13
    assert scheduler.admit(now=12.999) == []
    assert len(scheduler.admit(now=13)) == 1
    scheduler.add(make_job("b", arrival=14), now=14)
    assert scheduler.wakeup() is None


@pytest.mark.parametrize("wait", [-1, float("inf"), float("nan")])
def test_a_time_out_that_never_comes_is_refused(wait: float) -> None:
    with pytest.raises(ValueError, match="batch_wait_s"):
        Dynamic(batch_wait_s=wait)
