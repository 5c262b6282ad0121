"""The scheduler class: vLLM's own, sorting by our key.

vLLM keeps its queue, its batches and its memory. Requests get their priority when they arrive, and with the policy
`priority` vLLM serves the lowest first, ties by arrival, and throws out the highest when memory runs out. Only for a
policy that limits waits is vLLM's queue replaced, by the core's.

The clock is the one of `request.arrival_time`, seconds since 1970: API servers stamp arrivals, the engine the rest.
"""

import logging
import math
import time
from typing import Any

from vllm.v1.core.sched.async_scheduler import AsyncScheduler
from vllm.v1.core.sched.request_queue import RequestQueue
from vllm.v1.request import Request as EngineRequest

from ssjf.core.observed.estimates import RankingQuality
from ssjf.core.types import Prediction, Request
from ssjf.integrations.vllm.compat import SCHEDULER_PROBES, Probe, check, check_names
from ssjf.integrations.vllm.placer import Placer
from ssjf.integrations.vllm.queue import LimitedQueue
from ssjf.integrations.vllm.settings import load_settings
from ssjf.integrations.vllm.tokens import TokenPredictor, as_words

HINT = "ssjf_output_tokens"
"""The name under `vllm_xargs` by which a client, or a proxy before vLLM, gives a request's output length."""

_log = logging.getLogger("vllm.ssjf")  # vLLM shows what is logged below its own name
_LESSONS_PER_STEP = 2
_TELL_EVERY = 500  # finished requests from one line in the log to the next
# by name, as older versions lack the last; what a stop string ends is aborted like what a client leaves
_ENDED_BY_ITSELF = ("FINISHED_STOPPED", "FINISHED_LENGTH_CAPPED", "FINISHED_REPETITION")


class SSJFScheduler(AsyncScheduler):  # type: ignore[misc]  # vLLM is not installed where types are checked
    """AsyncScheduler whose priorities are the keys of a policy.

    Raises:
        ConfigError: a setting is wrong, or this vLLM is not one that we know.
    """

    clock = staticmethod(time.time)

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        self._settings = settings = load_settings()
        check(SCHEDULER_PROBES, any_version=settings.any_version)
        config = (kwargs.get("vllm_config") or args[0]).scheduler_config
        policy = settings.make_policy(limits_waits=True)
        self._placer = Placer(policy, service=settings.service, num_slots=config.max_num_seqs)
        config.policy = "priority"
        super().__init__(*args, **kwargs)
        check_names(
            (
                Probe("Scheduler.finished_req_ids", lambda: isinstance(self.finished_req_ids, set)),
                Probe("Scheduler.waiting", lambda: isinstance(self.waiting, RequestQueue)),
            )
        )
        if self._placer.limits_waits:
            self.waiting = LimitedQueue(self._placer)
        self._predictor = TokenPredictor()
        self._quality = RankingQuality()
        self._num_finished = 0
        self._placed: dict[str, EngineRequest] = {}
        self._prefilling: dict[str, float] = {}  # request id -> when it started, until its first token
        self._prefill_s: dict[str, float] = {}

    def add_request(self, request: EngineRequest) -> None:
        """Give the request its place, once."""
        if request.request_id not in self.requests:  # else the next part of a streaming input
            request.priority = self._place(request)
            self._placed[request.request_id] = request
        super().add_request(request)

    def schedule(self, *args: Any, **kwargs: Any) -> Any:
        """One step, and note who starts with it."""
        self._settle()  # what was aborted since the last step; the step forgets their ids
        if isinstance(self.waiting, LimitedQueue):
            self.waiting.now = self.clock()
        output = super().schedule(*args, **kwargs)
        if isinstance(self.waiting, LimitedQueue):
            self.waiting.note_taken()
        for new in output.scheduled_new_reqs:  # for some model runners also those who were thrown out and come back
            if new.req_id in self._placer and not self._has_started(new.req_id):
                self._prefilling[new.req_id] = now = self.clock()
                self._placer.started(new.req_id, now)
        self._predictor.learn(_LESSONS_PER_STEP)
        return output

    def update_from_output(self, *args: Any, **kwargs: Any) -> Any:
        """What the step brought, and note who has its first token and who is done."""
        outputs = super().update_from_output(*args, **kwargs)
        for request_id in [name for name in self._prefilling if self._placed[name].num_output_tokens]:
            self._prefill_s[request_id] = self.clock() - self._prefilling.pop(request_id)
        self._settle()
        return outputs

    def _has_started(self, request_id: str) -> bool:
        return request_id in self._prefilling or request_id in self._prefill_s

    def _place(self, request: EngineRequest) -> int:
        settings = self._settings
        given = request.priority
        asked = Request(
            request_id=request.request_id,
            prompt=as_words(request.prompt_token_ids or ()),
            num_prompt_tokens=request.num_prompt_tokens,
            max_tokens=0 if settings.ignore_max_tokens else request.max_tokens,
            arrival_time=request.arrival_time,
            tier=given if settings.accept_tiers else 0,
        )
        tokens = self._hint(request)
        if tokens is None and settings.tokens_in_priority and given > 0:
            tokens = float(given)
        prediction = self._predictor.predict(asked) if tokens is None else Prediction(tokens, source="hint")
        self._quality.arrived(prediction.num_output_tokens)
        return self._placer.place(asked, prediction)

    def _hint(self, request: EngineRequest) -> float | None:
        params = request.sampling_params
        if not self._settings.accept_hints or params is None or not params.extra_args:
            return None
        hint = params.extra_args.get(HINT)
        return float(hint) if isinstance(hint, int | float) and 0 <= hint < math.inf else None

    def _settle(self) -> None:
        """Learn from those who are done, forget those who were given up."""
        ended = [name for name in self.finished_req_ids if name in self._placed]
        ended.sort(key=lambda name: self._placer.job(name).sequence)  # what is learned must not hang on a set's order
        for request_id in ended:
            request = self._placed.pop(request_id)
            self._prefilling.pop(request_id, None)
            prefill_s = self._prefill_s.pop(request_id, None)
            if request.status.name not in _ENDED_BY_ITSELF:
                self._placer.forget(request_id, self.clock())
                continue
            num_output_tokens = request.num_output_tokens
            prediction = self._placer.job(request_id).prediction
            asked = self._placer.finished(
                request_id, self.clock(), num_output_tokens=num_output_tokens, prefill_s=prefill_s
            )
            self._predictor.observe(asked, num_output_tokens)
            assert prediction is not None
            self._tell(prediction.num_output_tokens, num_output_tokens)

    def _tell(self, predicted: float, true: int) -> None:
        """Now and then, how good predictions are: the engine's process has no page of metrics."""
        self._quality.add(predicted, true)
        self._num_finished += 1
        if self._num_finished % _TELL_EVERY == 0:
            _log.info(
                "%d requests finished; of the recent ones predictions put %.0f %% of all pairs in the right order; "
                "true over predicted length %.2f; policy %s",
                self._num_finished,
                100 * self._quality.concordance,
                self._quality.scale,
                {name: round(value, 3) for name, value in self._placer.policy_state().items()},
            )
