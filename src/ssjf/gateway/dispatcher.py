"""Who waits, who runs: the scheduling core under a real clock.

Law of this file: `pump` is synchronous. Nothing is awaited between a decision and the change of state that it asks
for, so there are no locks, and every accepted exchange ends in exactly one outcome.

The dispatcher does not know HTTP, bodies or backends.
"""

import asyncio
import time
from collections.abc import Callable
from dataclasses import dataclass

from ssjf.core.scheduler import Scheduler
from ssjf.core.service import LinearServiceModel, MeasuredServiceModel
from ssjf.core.types import Job, Outcome, Prediction, Status
from ssjf.gateway.forecast import Forecaster
from ssjf.gateway.incoming import Incoming
from ssjf.gateway.shadow import Shadow
from ssjf.gateway.telemetry import Telemetry

_DRIFT = 1.1  # when measured seconds per token have changed by this factor, those who wait are valued anew


@dataclass(slots=True, eq=False)
class Exchange:
    """One accepted request, from acceptance to its outcome.

    Attributes:
        incoming: what was asked.
        job: its place in the scheduler.
        admitted: done when its slot is free.
        decided_by: the prediction that its place in the queue came from; None where it never had to wait.
        first_token_at: when the first token came, on the monotonic clock.
        num_prompt_tokens, num_output_tokens: the true lengths, as soon as they are known.
    """

    incoming: Incoming
    job: Job
    admitted: asyncio.Future[None]
    decided_by: Prediction | None = None
    first_token_at: float | None = None
    num_prompt_tokens: int | None = None
    num_output_tokens: int | None = None
    ended: bool = False

    @property
    def queued_s(self) -> float:
        """Seconds from arrival to dispatch, which there must have been."""
        assert self.job.started_at is not None
        return self.job.started_at - self.job.request.arrival_time


class Dispatcher:
    """Drives the scheduler: requests come in, slots free up, predictions arrive late.

    Args:
        scheduler: waiting and running jobs.
        forecaster: predicts those who must wait, and scores the others.
        telemetry: counts everything.
        shadow: hears of each finished request, to tell what another policy would have given.
        clock: monotonic seconds, the same clock as the requests' arrival times.
    """

    def __init__(
        self,
        scheduler: Scheduler,
        forecaster: Forecaster,
        telemetry: Telemetry,
        shadow: Shadow | None = None,
        *,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._scheduler = scheduler
        self._forecaster = forecaster
        self._telemetry = telemetry
        self._shadow = shadow
        self._clock = clock
        self._speed = MeasuredServiceModel()
        self._model = self._speed.model()  # of everybody who waits: values of different models must not be compared
        self._held = False
        self._live: dict[str, Exchange] = {}
        self._idle = asyncio.Event()
        self._idle.set()
        telemetry.watch(scheduler)

    def submit(self, incoming: Incoming) -> Exchange:
        """Accept a request.

        An idle slot is given at once, without a prediction: it matters only to those who must wait. Who waits has a
        place from the first instant, by the hint or else by the fallback, and moves when the prediction comes. A slot
        that frees up before then is not kept waiting for it.

        Raises:
            QueueFull: too many wait already.
        """
        request = incoming.request
        if incoming.hint is not None:
            prediction = Prediction(incoming.hint, source="hint")
        else:
            prediction = self._forecaster.fallback(request)
        job = Job(request, prediction=prediction)
        self._model.value(job)
        self._scheduler.add(job, self._clock())
        exchange = Exchange(incoming, job, asyncio.get_running_loop().create_future())
        self._live[request.request_id] = exchange
        self._idle.clear()
        self.pump()
        if job.status is Status.WAITING:
            exchange.decided_by = prediction
        if incoming.hint is None:
            self._forecaster.ask(request, lambda answer: self._predicted(exchange, answer))
        return exchange

    def hold(self) -> None:
        """Let nobody in until `resume`: there is no engine to serve them."""
        self._held = True

    def resume(self) -> None:
        """Let in again whom the scheduler lets in."""
        self._held = False
        self.pump()

    def put_back(self, exchange: Exchange) -> None:
        """An admitted exchange that nothing was sent of waits again, where it stood."""
        job = exchange.job
        self._scheduler.preempt(job.request.request_id, self._clock())
        job.started_at = None
        exchange.admitted = asyncio.get_running_loop().create_future()
        self.pump()

    def pump(self) -> None:
        """Let in whom the scheduler lets in."""
        if self._held:
            return
        for job in self._scheduler.admit(self._clock()):
            exchange = self._live[job.request.request_id]
            self._telemetry.started(exchange.queued_s)
            if not exchange.admitted.done():  # cancelled when its client has just left
                exchange.admitted.set_result(None)

    def end(self, exchange: Exchange, outcome: Outcome) -> None:
        """The exchange is over; its slot or its place in the queue is free. Later calls change nothing."""
        if exchange.ended:
            return
        exchange.ended = True
        now = self._clock()
        job = exchange.job
        request_id = job.request.request_id
        if request_id in self._scheduler.running and outcome is Outcome.COMPLETED:
            self._scheduler.finish(request_id, now)
        else:
            self._scheduler.abort(request_id, now)
        del self._live[request_id]
        self._telemetry.ended(exchange, outcome, now)
        if outcome is Outcome.COMPLETED:
            self._learn(exchange, now)
        self.pump()
        if not self._live:
            self._idle.set()

    async def wait_until_idle(self) -> None:
        """Return when nobody waits or runs."""
        await self._idle.wait()

    @property
    def num_live(self) -> int:
        """Accepted requests that have not ended."""
        return len(self._live)

    def _predicted(self, exchange: Exchange, prediction: Prediction) -> None:
        prediction = _capped(prediction, exchange.job.request.max_tokens)
        exchange.job.prediction = prediction
        if exchange.job.status is not Status.WAITING:
            return  # scored when it ends
        exchange.decided_by = prediction
        self._value(exchange)

    def _value(self, exchange: Exchange) -> None:
        """Give a waiting exchange the place that its prediction has under the service model in force."""
        self._model.value(exchange.job)
        self._scheduler.reprioritize(exchange.job.request.request_id, self._clock())

    def _learn(self, exchange: Exchange, now: float) -> None:
        job, output = exchange.job, exchange.num_output_tokens
        if output is None or job.started_at is None or not exchange.incoming.single:
            return
        self._speed.observe(
            # the estimate, as in every prediction: where it is off by a factor, the measured speed makes up for it
            num_input_tokens=job.request.num_prompt_tokens,
            num_output_tokens=output,
            prefill_s=None if exchange.first_token_at is None else exchange.first_token_at - job.started_at,
            total_s=now - job.started_at,
        )
        model = self._speed.model()
        if _has_drifted(self._model, model):
            self._model = model
            for waiting in [other for other in self._live.values() if other.job.status is Status.WAITING]:
                self._value(waiting)
        self._forecaster.observe(job.request, output)
        if self._shadow is not None:
            self._shadow.add(job, now - job.started_at, self._model)


def _capped(prediction: Prediction, max_tokens: int) -> Prediction:
    """No answer is longer than its client's cap; 0 is no cap."""
    cap = float(max_tokens)
    below = tuple((level, tokens) for level, tokens in prediction.quantiles if tokens < cap)
    if not cap or (prediction.num_output_tokens <= cap and len(below) == len(prediction.quantiles)):
        return prediction
    quantiles = below if len(below) == len(prediction.quantiles) else (*below, (1.0, cap))
    return Prediction(min(prediction.num_output_tokens, cap), quantiles, prediction.source)


def _has_drifted(old: LinearServiceModel, new: LinearServiceModel) -> bool:
    pairs = [
        (old.per_input_token_s, new.per_input_token_s),
        (old.per_output_token_s, new.per_output_token_s),
    ]
    return any(max(before, after) > _DRIFT * min(before, after) for before, after in pairs)
