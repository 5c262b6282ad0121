"""Prediction beside the event loop: batched, limited in time, and never a reason for a request to fail.

One thread owns the predictor, so predictors need no locks. Requests that come while it is busy form the next batch.
This module does not know what a prediction is used for.
"""

import asyncio
import logging
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

from ssjf.core.types import Prediction, Request
from ssjf.predict.base import Predictor

_log = logging.getLogger(__name__)
_MAX_BATCH = 64
_DEFAULT_TOKENS = 256.0  # before anything is known of a request that names no cap
_MEMORY = 500  # finished requests that the running mean remembers, roughly

Deliver = Callable[[Prediction], None]


class Forecaster:
    """Asks the predictor off the event loop.

    Args:
        predictor: any; it is only ever touched by one thread.
        budget_s: answers that take longer are not waited for; the request keeps its fallback.
        on_failure: called with ``error`` or ``late`` for each request that keeps its fallback.
    """

    def __init__(self, predictor: Predictor, *, budget_s: float, on_failure: Callable[[str], None]) -> None:
        self._predictor = predictor
        self._budget_s = budget_s
        self._on_failure = on_failure
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="ssjf-predictor")
        self._pending: list[tuple[float, Request, Deliver]] = []
        self._observed: list[tuple[Request, int]] = []
        self._worker: asyncio.Task[None] | None = None
        self._mean: float | None = None

    def fallback(self, request: Request) -> Prediction:
        """What to go by until, or instead of, a prediction: the mean of finished requests, then the client's cap."""
        tokens = self._mean if self._mean is not None else (request.max_tokens or _DEFAULT_TOKENS)
        return Prediction(min(tokens, request.max_tokens or tokens), source="fallback")

    def ask(self, request: Request, deliver: Deliver) -> None:
        """Have the request predicted; `deliver` is called on the event loop, or never."""
        self._pending.append((asyncio.get_running_loop().time() + self._budget_s, request, deliver))
        self._wake()

    def observe(self, request: Request, num_output_tokens: int) -> None:
        """Let the predictor learn a true length."""
        weight = 1 / _MEMORY if self._mean is not None else 1.0
        self._mean = (1 - weight) * (self._mean or 0.0) + weight * num_output_tokens
        self._observed.append((request, num_output_tokens))
        self._wake()

    async def close(self) -> None:
        """Drop what is pending and end the thread."""
        if self._worker is not None:
            self._worker.cancel()
            await asyncio.gather(self._worker, return_exceptions=True)
        self._thread.shutdown(wait=False, cancel_futures=True)

    def _wake(self) -> None:
        if self._worker is None or self._worker.done():
            self._worker = asyncio.get_running_loop().create_task(self._work())

    async def _work(self) -> None:
        loop = asyncio.get_running_loop()
        while self._pending or self._observed:
            batch, self._pending = self._pending[:_MAX_BATCH], self._pending[_MAX_BATCH:]
            observed, self._observed = self._observed, []
            answer = loop.run_in_executor(self._thread, self._run, [request for _, request, _ in batch], observed)
            waiting = {answer}
            if batch:
                await asyncio.wait(waiting, timeout=max(0.0, batch[-1][0] - loop.time()))
                if not answer.done():
                    for _ in batch:
                        self._on_failure("late")
                    batch = []
            predictions = await answer  # a hung predictor blocks further predictions, and nothing else
            if predictions is None:
                for _ in batch:
                    self._on_failure("error")
            elif batch:
                for (_, _, deliver), prediction in zip(batch, predictions, strict=True):
                    deliver(prediction)

    def _run(self, requests: list[Request], observed: list[tuple[Request, int]]) -> list[Prediction] | None:
        """In the predictor's thread; None when it failed."""
        try:
            for request, num_output_tokens in observed:
                self._predictor.observe(request, num_output_tokens)
            predictions = self._predictor.predict(requests) if requests else []
        except Exception:  # noqa: BLE001 - whatever a predictor raises, no request may fail for it
            _log.exception("the predictor failed; %d requests keep their fallback", len(requests))
            return None
        sane = all(0 <= p.num_output_tokens < float("inf") for p in predictions)
        if len(predictions) != len(requests) or not sane:
            _log.error("the predictor answered nonsense for %d requests; they keep their fallback", len(requests))
            return None
        return predictions
