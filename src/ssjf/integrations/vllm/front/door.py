"""Who comes in gets a priority: the front door's decisions, without HTTP.

A request's text is here and nowhere deeper in vLLM. Several API servers each have a front door of their own, which
learns from its own requests; their keys agree in what they measure time by, seconds since 1970.
"""

import asyncio
import logging
import time
import weakref
from collections.abc import Callable
from dataclasses import dataclass, replace

from ssjf.core.types import Prediction, Request
from ssjf.forecast import Forecaster
from ssjf.integrations.vllm.front.bodies import Body
from ssjf.integrations.vllm.front.metrics import metrics
from ssjf.integrations.vllm.placer import Placer
from ssjf.integrations.vllm.settings import VLLMSettings
from ssjf.predict.base import Predictor

_log = logging.getLogger(__name__)
_LATE = 1000  # responses that end before the first of them is forgotten: vLLM's books may come after the last byte
_KEPT = 32_768  # characters from the head and as many from the tail of a longer prompt, to learn from at its end
_ONE_SLOT = 1  # how many the engine runs at once is not known here; policies that an engine can sort by do not ask


@dataclass(frozen=True, slots=True)
class Finished:
    """A request that vLLM has done.

    Attributes:
        request_id: vLLM's, for example ``chatcmpl-ID``, where ID came with the request.
        num_output_tokens: the true length.
        prefill_s: seconds from its start to its first token.
        service_s: seconds from its start to its last token.
        num_slots: how many the engine runs at once; None where this process does not see all of its requests.
    """

    request_id: str
    num_output_tokens: int
    prefill_s: float
    service_s: float
    num_slots: int | None = None


class FrontDoor:
    """Predicts, gives priorities, and learns from what `tell` is told.

    Args:
        settings: all of them.
        predictor: guesses lengths from text.
        clock: the one clock of all processes, seconds since 1970.
    """

    def __init__(self, settings: VLLMSettings, predictor: Predictor, *, clock: Callable[[], float] = time.time) -> None:
        self._settings = settings
        self._budget_s = settings.predict_budget_ms / 1000
        self._forecaster = Forecaster(predictor, budget_s=self._budget_s, on_failure=self._failed)
        self._placer = Placer(settings.make_policy(limits_waits=False), service=settings.service, num_slots=_ONE_SLOT)
        self._clock = clock
        self._departed: dict[str, None] = {}  # in the order of their ends; vLLM may still tell of them
        self._complained = False
        _doors.add(self)

    async def priority(
        self,
        request_id: str,
        body: Body | None,
        *,
        hint: float | None = None,
        tier: int | None = None,
        unread: str = "text",
    ) -> int:
        """The priority of a request that has just come, for vLLM to sort by; lower is served first.

        Args:
            request_id: unique among live requests; until `left` is called with it.
            body: what is asked; None where it is not known, for which the fallback stands in.
            hint: the output length that the client gave in a header.
            tier: the priority that it gave in a header.
            unread: why there is nothing to predict from, if so; for the page of metrics.
        """
        settings, known = self._settings, body or Body()
        tier = known.priority if tier is None else tier
        request = Request(
            request_id=request_id,
            prompt=known.prompt,
            num_prompt_tokens=known.num_prompt_tokens,
            max_tokens=0 if settings.ignore_max_tokens else known.max_tokens,
            arrival_time=self._clock(),
            model=known.model,
            tier=tier if settings.accept_tiers and tier is not None else 0,
        )
        if settings.accept_hints and hint is not None:
            prediction = Prediction(hint, source="hint")
        elif known.prompt:
            prediction = await self._predict(request)
        else:
            metrics().fallback(unread)
            prediction = self._forecaster.fallback(request)
        priority = self._placer.place(replace(request, prompt=_excerpt(request.prompt)), prediction)
        if not settings.tokens_in_priority:
            return priority
        # for the scheduler class, which makes the order, the prediction itself; 0 is none, and then it makes its own
        return 0 if prediction.source == "fallback" else max(1, round(prediction.num_output_tokens))

    def __contains__(self, request_id: str) -> bool:
        return request_id in self._placer

    def finished(self, done: Finished) -> None:
        """A request is done; learn from it if it came through this door."""
        now = self._clock()
        if done.request_id not in self._placer:
            return
        self._departed.pop(done.request_id, None)
        self._placer.started(done.request_id, now - done.service_s)
        prediction = self._placer.job(done.request_id).prediction
        request = self._placer.finished(
            done.request_id, now, num_output_tokens=done.num_output_tokens, prefill_s=done.prefill_s or None
        )
        self._forecaster.observe(request, done.num_output_tokens)
        assert prediction is not None
        metrics().finished(
            request,
            prediction,
            done.num_output_tokens,
            service_s=done.service_s,
            jct_s=now - request.arrival_time,
            num_slots=done.num_slots,
        )

    def left(self, request_id: str, *, complete: bool) -> None:
        """The response is over.

        Args:
            request_id: of a request that has its priority.
            complete: it was an answer to its end, under the id that vLLM knows: that it finished may still be told for
                a while. Of any other nothing will be told, and nothing is kept.
        """
        if request_id not in self._placer:
            return
        if not complete:
            self._placer.forget(request_id)
            return
        self._departed[request_id] = None
        if len(self._departed) > _LATE:
            oldest = next(iter(self._departed))
            del self._departed[oldest]
            self._placer.forget(oldest)

    async def _predict(self, request: Request) -> Prediction:
        answer: asyncio.Future[Prediction] = asyncio.get_running_loop().create_future()

        def deliver(prediction: Prediction) -> None:
            if not answer.done():
                answer.set_result(prediction)

        self._forecaster.ask(request, deliver)
        try:
            return await asyncio.wait_for(answer, self._budget_s)
        except TimeoutError:
            return self._forecaster.fallback(request)

    def _failed(self, kind: str) -> None:
        metrics().fallback(kind)
        if not self._complained:
            self._complained = True
            _log.warning("a prediction came too late or not at all (%s); requests go on without", kind)


def _excerpt(prompt: str) -> str:
    """The prompt, or head and tail of a very long one: many are kept, and clients decide how long they are."""
    return prompt if len(prompt) <= 2 * _KEPT else f"{prompt[:_KEPT]}\n{prompt[-_KEPT:]}"


_doors: "weakref.WeakSet[FrontDoor]" = weakref.WeakSet()


def tell(done: Finished) -> None:
    """Let the front doors of this process know of a finished request. Never raises: vLLM would stop with it."""
    for door in _doors:
        try:
            door.finished(done)
        except Exception:  # noqa: BLE001 - see above
            _log.exception("could not learn from a finished request")
