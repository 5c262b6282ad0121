"""Prediction beside the event loop: batched, limited in time, and never a reason for a request to fail.

One thread owns the predictor, so predictors need no locks. Requests that come while it is busy form the next batch.
It is a daemon thread: a predictor that hangs keeps neither requests nor the end of the process waiting.

This module does not know what a prediction is used for.
"""

import asyncio
import contextlib
import logging
import math
import queue
import threading
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from itertools import pairwise
from typing import TypeVar

from ssjf.core.types import Prediction, Request
from ssjf.predict.base import Predictor

_log = logging.getLogger(__name__)
_MAX_BATCH = 64
_MAX_LESSONS = 16  # learned between two batches of predictions, so that those who wait do not wait for lessons
_MAX_PENDING = 1000  # a predictor that hangs must not collect prompts without end
_DEFAULT_TOKENS = 256.0  # before anything is known of a request that names no cap
_MEMORY = 500  # finished requests that the running mean remembers, roughly

Deliver = Callable[[Prediction], None]
T = TypeVar("T")


@dataclass(slots=True, eq=False)
class _Question:
    request: Request
    deliver: Deliver
    answered: bool = False
    late: bool = False


class Forecaster:
    """Asks the predictor off the event loop.

    Args:
        predictor: any; it is only ever touched by one thread.
        budget_s: an answer that takes longer counts as a failure. It is delivered all the same: whoever still waits
            gains by it.
        on_failure: called with ``error`` or ``late``, once for each request without an answer in time.
    """

    def __init__(self, predictor: Predictor, *, budget_s: float, on_failure: Callable[[str], None]) -> None:
        self._predictor = predictor
        self.budget_s = budget_s
        self._on_failure = on_failure
        self._questions: deque[_Question] = deque()
        self._lessons: deque[tuple[Request, int]] = deque(maxlen=_MAX_PENDING)
        self._thread = _Thread()
        self._worker: asyncio.Task[None] | None = None
        self._mean = 0.0
        self._num_observed = 0
        self._complained = False
        self._num_learned = 0

    def fallback(self, request: Request) -> Prediction:
        """What to go by until, or instead of, a prediction: the mean of finished requests, then the client's cap."""
        cap = request.max_tokens or math.inf
        tokens = self._mean if self._num_observed else (request.max_tokens or _DEFAULT_TOKENS)
        return Prediction(min(tokens, cap), source="fallback")

    def ask(self, request: Request, deliver: Deliver) -> None:
        """Have the request predicted; `deliver` is called on the event loop, or never."""
        if len(self._questions) >= _MAX_PENDING:
            self._on_failure("late")
            return
        question = _Question(request, deliver)
        asyncio.get_running_loop().call_later(self.budget_s, self._look_at_the_clock, question)
        self._questions.append(question)
        self._wake()

    def observe(self, request: Request, num_output_tokens: int) -> None:
        """Let the predictor learn a true length."""
        self._num_observed += 1
        self._mean += (num_output_tokens - self._mean) / min(self._num_observed, _MEMORY)
        self._lessons.append((request, num_output_tokens))
        self._wake()

    async def with_predictor(self, function: Callable[[Predictor], T]) -> T:
        """What the function makes of the predictor, in the predictor's own thread; it must not raise."""
        return await self._thread.run(partial(function, self._predictor))

    @property
    def num_learned(self) -> int:
        """How many lessons the predictor has had."""
        return self._num_learned

    async def close(self) -> None:
        """Drop what is pending and end the thread, if it can be ended."""
        if self._worker is not None:
            self._worker.cancel()
            await asyncio.gather(self._worker, return_exceptions=True)
        self._thread.end()

    def _look_at_the_clock(self, question: _Question) -> None:
        if not question.answered:
            question.late = True
            self._on_failure("late")

    def _wake(self) -> None:
        if self._worker is None or self._worker.done():
            self._worker = asyncio.get_running_loop().create_task(self._work())

    async def _work(self) -> None:
        while self._questions or self._lessons:
            if self._questions:
                batch = _take(self._questions, _MAX_BATCH)
                answers = await self._thread.run(partial(self._predict, [question.request for question in batch]))
                for question, prediction in zip(batch, answers, strict=True):
                    question.answered = True
                    if prediction is not None:
                        question.deliver(prediction)
                    elif not question.late:
                        self._on_failure("error")
            if self._lessons:
                await self._thread.run(partial(self._learn, _take(self._lessons, _MAX_LESSONS)))

    def _predict(self, requests: list[Request]) -> list[Prediction | None]:
        """In the predictor's thread; None for a request that it fails on."""
        try:
            predictions = list(self._predictor.predict(requests))
            if len(predictions) != len(requests):
                raise ValueError(f"{len(predictions)} predictions for {len(requests)} requests")
            return [p if _is_sane(p) else None for p in predictions]
        except Exception:  # noqa: BLE001 - whatever a predictor raises, no request may fail for it
            if len(requests) > 1:  # one prompt that it chokes on is not to cost the others their predictions
                return [answer for request in requests for answer in self._predict([request])]
            self._complain()
            return [None]

    def _learn(self, lessons: list[tuple[Request, int]]) -> None:
        """In the predictor's thread."""
        self._num_learned += len(lessons)
        for request, num_output_tokens in lessons:
            try:
                self._predictor.observe(request, num_output_tokens)
            except Exception:  # noqa: BLE001 - a predictor that cannot learn may still predict
                self._complain()

    def _complain(self) -> None:
        if not self._complained:
            self._complained = True
            _log.exception("the predictor failed; /metrics counts such failures from here on")


def _is_sane(prediction: Prediction) -> bool:
    """Whether keys can be computed from it."""
    levels = [0.0, *(level for level, _ in prediction.quantiles)]
    tokens = [0.0, *(tokens for _, tokens in prediction.quantiles)]
    return (
        0 <= prediction.num_output_tokens < math.inf
        and levels[-1] <= 1
        and tokens[-1] < math.inf
        and all(low < high for low, high in pairwise(levels))
        and all(low <= high for low, high in pairwise(tokens))
    )


class _Thread:
    """Runs one function after the other, in a daemon thread that begins with the first."""

    def __init__(self) -> None:
        self._inbox: queue.SimpleQueue[Callable[[], None] | None] = queue.SimpleQueue()
        self._thread: threading.Thread | None = None

    def run(self, function: Callable[[], T]) -> "asyncio.Future[T]":
        """What the function returns; it must not raise."""
        if self._thread is None:
            self._thread = threading.Thread(target=self._serve, name="ssjf-predictor", daemon=True)
            self._thread.start()
        loop = asyncio.get_running_loop()
        future: asyncio.Future[T] = loop.create_future()

        def deliver(result: T) -> None:
            if not future.done():
                future.set_result(result)

        def work() -> None:
            result = function()
            with contextlib.suppress(RuntimeError):  # the event loop has ended meanwhile
                loop.call_soon_threadsafe(deliver, result)

        self._inbox.put(work)
        return future

    def end(self) -> None:
        self._inbox.put(None)

    def _serve(self) -> None:
        while (work := self._inbox.get()) is not None:
            work()


def _take(items: deque[T], limit: int) -> list[T]:
    """Up to `limit` items from the left, removed."""
    return [items.popleft() for _ in range(min(limit, len(items)))]
