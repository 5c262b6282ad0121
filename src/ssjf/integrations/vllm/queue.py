"""The engine's waiting queue for a policy that may put the oldest request first: the core's queue under vLLM's names.

vLLM asks its queue who is next and then takes him, one after the other within a step. Between two such questions the
policy must know who has been let in by the first; vLLM says so by the request's status alone, so that is looked at
before each answer. All answers of a step are given for one instant.
"""

from collections.abc import Iterable, Iterator

from vllm.v1.core.sched.request_queue import RequestQueue
from vllm.v1.request import Request as EngineRequest
from vllm.v1.request import RequestStatus

from ssjf.integrations.vllm.placer import Placer


class LimitedQueue(RequestQueue):  # type: ignore[misc]  # vLLM is not installed where types are checked
    """Requests in the order of a policy and within its limit on waits.

    Attributes:
        now: the instant of the step that asks; the scheduler sets it.

    Args:
        placer: knows each request's job, and has placed every request that comes here.
    """

    def __init__(self, placer: Placer) -> None:
        self.now = 0.0
        self._placer = placer
        self._waiting = placer.make_queue()
        self._requests: dict[str, EngineRequest] = {}
        self._taken: list[EngineRequest] = []

    def add_request(self, request: EngineRequest) -> None:
        """Let a request wait."""
        self._requests[request.request_id] = request
        self._waiting.push(self._placer.job(request.request_id), self.now)

    def peek_request(self) -> EngineRequest:
        """Who is next; raises IndexError when nobody waits."""
        self.note_taken()
        job = self._waiting.peek(self.now)
        if job is None:
            raise IndexError("peek from an empty queue")
        return self._requests[job.request.request_id]

    def pop_request(self) -> EngineRequest:
        """Take out who is next; raises IndexError when nobody waits."""
        request = self.peek_request()
        self.remove_request(request)
        self._taken.append(request)
        return request

    def prepend_request(self, request: EngineRequest) -> None:
        """Let a request wait again, where its key puts it."""
        self.add_request(request)

    def prepend_requests(self, requests: Iterable[EngineRequest]) -> None:
        """Let requests wait again."""
        for request in requests:
            self.add_request(request)

    def remove_request(self, request: EngineRequest) -> None:
        """Take out one request; nothing happens when it does not wait."""
        if self._requests.pop(request.request_id, None) is not None:
            self._waiting.remove(request.request_id)

    def remove_requests(self, requests: Iterable[EngineRequest]) -> None:
        """Take out requests, as far as they wait."""
        for request in requests:
            self.remove_request(request)

    def __bool__(self) -> bool:
        return bool(self._requests)

    def __len__(self) -> int:
        return len(self._requests)

    def __iter__(self) -> Iterator[EngineRequest]:
        return iter([self._requests[job.request.request_id] for job in self._waiting.in_order(self.now)])

    def note_taken(self) -> None:
        """Tell the policy who of those taken out runs; others were only passed over and come back. Idempotent."""
        for request in self._taken:
            if request.status is RequestStatus.RUNNING:
                self._placer.started(request.request_id, self.now)
        self._taken.clear()
