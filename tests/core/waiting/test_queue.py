from ssjf.core.policies import SSJF
from ssjf.core.waiting.queue import WaitingQueue
from tests.conftest import MakeJob


def test_a_removed_job_is_never_served_even_from_the_head(make_job: MakeJob) -> None:
    queue = WaitingQueue(SSJF(), max_wait_s=5)
    queue.push(make_job("head", service=1), 0)
    queue.push(make_job("next", arrival=1, service=2), 1)
    queue.remove("head")
    assert queue.pop(1).request.request_id == "next"


def test_a_job_that_left_and_came_back_is_served_once_by_its_new_key(make_job: MakeJob) -> None:
    queue = WaitingQueue(SSJF())
    job = make_job("moves", service=1)
    queue.push(job, 0)
    queue.push(make_job("stays", service=2), 0)
    queue.remove("moves")
    job.predicted_service_s = 3
    queue.push(job, 0)
    assert [queue.pop(0).request.request_id for _ in range(len(queue))] == ["stays", "moves"]


def test_overdue_jobs_go_first_and_those_that_left_meanwhile_do_not_count(make_job: MakeJob) -> None:
    queue = WaitingQueue(SSJF(), max_wait_s=5)
    for name, arrival, service in [("oldest", 0.0, 9), ("older", 1.0, 8), ("new", 6.0, 1)]:
        queue.push(make_job(name, arrival=arrival, service=service), arrival)
    queue.remove("oldest")
    assert queue.pop(6).request.request_id == "older"
    assert queue.pop(6).request.request_id == "new"
