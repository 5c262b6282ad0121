"""From a request and its prediction to a priority, and from finished requests back to what the policy learns.

The queue is vLLM's; this is all of ours that stands beside it. The module knows neither vLLM nor where predictions come
from, and owns no clock: all instants are the host's, the same clock as the requests' arrival times.
"""

from dataclasses import replace

from ssjf.core.priority import PriorityMap
from ssjf.core.service import LinearServiceModel, MeasuredServiceModel
from ssjf.core.types import AdaptivePolicy, Job, Policy, Prediction, Request, Status
from ssjf.core.waiting.queue import WaitingQueue


class Placer:
    """Gives each request its priority when it arrives, and remembers it until it ends.

    Args:
        policy: in a form that an engine can sort by; nobody else may use the object, for it may learn.
        service: seconds that a request takes; None has them measured. Priorities are never changed, so those of
            requests that came while little had been measured may be off beside later ones.
        num_slots: how many requests the engine runs at once.
    """

    def __init__(self, policy: Policy, *, service: LinearServiceModel | None, num_slots: int) -> None:
        self._policy = policy
        self._priority = PriorityMap(policy).priority
        self._adaptive = policy if isinstance(policy, AdaptivePolicy) else None
        self._service = service
        self._measured = MeasuredServiceModel()
        self._num_slots = num_slots
        self._live: dict[str, Job] = {}
        self._next_sequence = 0

    def __contains__(self, request_id: str) -> bool:
        return request_id in self._live

    @property
    def limits_waits(self) -> bool:
        """Whether the policy wants a queue that asks it how long the oldest may wait, as `make_queue` makes."""
        return self._adaptive is not None and getattr(self._adaptive, "limits_waits", True)

    def make_queue(self) -> WaitingQueue:
        """An empty queue of the policy, for jobs that `job` gives."""
        return WaitingQueue(self._policy)

    def policy_state(self) -> dict[str, float]:
        """What a policy that learns goes by at present."""
        return {} if self._adaptive is None else self._adaptive.state()

    def job(self, request_id: str) -> Job:
        """What a queue knows of a live request."""
        return self._live[request_id]

    def place(self, request: Request, prediction: Prediction) -> int:
        """The priority of a request that has just arrived; lower is served first."""
        job = Job(request, prediction=_capped(prediction, request.max_tokens), sequence=self._next_sequence)
        self._next_sequence += 1
        (self._service or self._measured.model()).value(job)
        self._live[request.request_id] = job
        if self._adaptive is not None:
            self._adaptive.arrived(job)
        return self._priority(job, request.arrival_time)

    def started(self, request_id: str, now: float) -> None:
        """A request runs; only the first time counts, and unknown ones do not."""
        job = self._live.get(request_id)
        if job is None or job.started_at is not None:
            return
        job.started_at = now
        job.status = Status.RUNNING
        if self._adaptive is not None:
            self._adaptive.started(job, now, self._num_slots)

    def finished(self, request_id: str, now: float, *, num_output_tokens: int, prefill_s: float | None) -> Request:
        """A request that had started is done; learn from it.

        Args:
            request_id: of a live request.
            now: the instant.
            num_output_tokens: the true length.
            prefill_s: seconds from its start to its first token, if known.

        Returns:
            The request, for whoever else learns.
        """
        job = self._live.pop(request_id)
        assert job.started_at is not None
        job.finished_at = now
        job.status = Status.FINISHED
        service_s = now - job.started_at
        self._measured.observe(
            num_input_tokens=job.request.num_prompt_tokens,
            num_output_tokens=num_output_tokens,
            prefill_s=prefill_s,
            total_s=service_s,
        )
        if self._adaptive is not None:
            self._adaptive.finished(job, service_s)
        return job.request

    def forget(self, request_id: str, now: float | None = None) -> None:
        """A request was given up, or ended where its length cannot be learned. Idempotent.

        Args:
            request_id: of any request.
            now: when it ended; None where nobody knows. What an adaptive policy has been told to have started has to
                end for it too, or it would wait for that for ever.
        """
        job = self._live.pop(request_id, None)
        if job is None:
            return
        job.status = Status.ABORTED
        if job.started_at is None or now is None:
            return
        job.finished_at = now
        if self._adaptive is not None:
            self._adaptive.finished(job, now - job.started_at)


def _capped(prediction: Prediction, max_tokens: int) -> Prediction:
    """No answer is longer than its client's cap; 0 is no cap."""
    if not max_tokens:
        return prediction
    cap = float(max_tokens)
    return replace(
        prediction,
        num_output_tokens=min(prediction.num_output_tokens, cap),
        quantiles=tuple((level, min(tokens, cap)) for level, tokens in prediction.quantiles),
    )
