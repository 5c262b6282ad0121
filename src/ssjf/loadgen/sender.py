"""Sends planned requests, open-loop or closed-loop, and makes one record for each.

Open-loop means: each request is sent at its planned time, whatever becomes of the others. A client that waited for
answers before it sends the next would hide the very queue that is to be measured.
"""

import asyncio
import signal
import sys
from collections import Counter
from collections.abc import Callable, Coroutine, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeVar

import aiohttp

from ssjf.loadgen.client import COMPLETED, Answer, Endpoint, ask, open_session
from ssjf.loadgen.plan import PlannedRequest
from ssjf.metrics.records import JobRecord

T = TypeVar("T")


@dataclass(slots=True)
class Run:
    """What a run has come to so far; it is filled while requests end, so that an interrupted run keeps what it has.

    Attributes:
        policy: the label for the records.
        seed: which repetition.
        records: one for each request that was sent and has ended, in order of ending.
        lateness_s: for each request sent open-loop, how long after its planned time.
        errors: how many requests ended with which error.
        on_record: called with each record.
    """

    policy: str
    seed: int = 0
    records: list[JobRecord] = field(default_factory=list)
    lateness_s: list[float] = field(default_factory=list)
    errors: Counter[str] = field(default_factory=Counter)
    on_record: Callable[[JobRecord], None] = lambda _: None

    @property
    def failed(self) -> int:
        """How many requests were not answered in full."""
        return sum(record.status != COMPLETED for record in self.records)

    def add(self, request: PlannedRequest, answer: Answer, *, arrival_s: float, began_at: float) -> None:
        """Write down one ended request.

        Args:
            request: what was planned.
            answer: what came of it.
            arrival_s: when it arrived, in seconds after the run began.
            began_at: when the run began, on the event loop's clock.
        """

        def since_start(instant: float | None) -> float | None:
            return None if instant is None else instant - began_at

        started_at = None if answer.queue_s is None else answer.sent_at + answer.queue_s
        record = JobRecord(
            policy=self.policy,
            seed=self.seed,
            index=request.index,
            arrival_s=arrival_s,
            start_s=since_start(started_at),
            first_token_s=since_start(answer.first_token_at),
            finish_s=since_start(answer.finished_at),
            input_tokens=request.input_tokens if answer.input_tokens is None else answer.input_tokens,
            output_tokens=answer.output_tokens,
            predicted_tokens=answer.predicted_tokens,
            status=answer.status,
        )
        self.records.append(record)
        if answer.error:
            self.errors[answer.error] += 1
        self.on_record(record)


async def send_open_loop(endpoint: Endpoint, requests: Sequence[PlannedRequest], run: Run) -> None:
    """Send each request at its planned time and wait until all have ended.

    Times in the records count from the start of this call. A job arrives when it was planned to, even where the
    client was late: lateness is part of what its user waits, and is reported apart.

    Args:
        endpoint: where to.
        requests: in order of arrival.
        run: gets the records; cancelling this call writes those under way into it as ``cancelled``.
    """
    loop = asyncio.get_running_loop()
    async with open_session(endpoint) as session:
        began_at = loop.time()
        async with asyncio.TaskGroup() as group:
            for request in requests:
                arrival_at = began_at + request.arrival_s
                await asyncio.sleep(arrival_at - loop.time())
                run.lateness_s.append(max(0.0, loop.time() - arrival_at))
                sending = _send_one(session, endpoint, request, run, arrival_s=request.arrival_s, began_at=began_at)
                group.create_task(sending)


async def send_closed_loop(endpoint: Endpoint, requests: Sequence[PlannedRequest], run: Run, *, workers: int) -> None:
    """Keep `workers` requests under way until all have ended: how much a server can do when it never idles.

    A job arrives when it is sent; the planned times are not looked at.
    """
    loop = asyncio.get_running_loop()
    queue = iter(requests)
    async with open_session(endpoint) as session:
        began_at = loop.time()

        async def work(own: Iterator[PlannedRequest]) -> None:
            for request in own:  # all workers share one iterator
                now_s = loop.time() - began_at
                await _send_one(session, endpoint, request, run, arrival_s=now_s, began_at=began_at)

        async with asyncio.TaskGroup() as group:
            for _ in range(workers):
                group.create_task(work(queue))


async def _send_one(
    session: aiohttp.ClientSession,
    endpoint: Endpoint,
    request: PlannedRequest,
    run: Run,
    *,
    arrival_s: float,
    began_at: float,
) -> None:
    answer = Answer(sent_at=asyncio.get_running_loop().time())
    try:
        await ask(session, endpoint, request, answer)
    finally:
        run.add(request, answer, arrival_s=arrival_s, began_at=began_at)


def run_loop(main: Coroutine[Any, Any, T]) -> T:
    """`asyncio.run` on the event loop that costs the least per streamed chunk.

    The client shares its processor with the server it measures more often than not. SIGTERM cancels what runs, so that
    servers which were started for it end with it, and then the process.
    """
    if sys.platform == "win32":
        return asyncio.run(main)
    import uvloop  # noqa: PLC0415 - there is none for Windows

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        return runner.run(_until_terminated(main))


async def _until_terminated(main: Coroutine[Any, Any, T]) -> T:
    loop, task = asyncio.get_running_loop(), asyncio.current_task()
    assert task is not None
    told = False

    def end() -> None:
        nonlocal told
        told = True
        task.cancel()

    loop.add_signal_handler(signal.SIGTERM, end)
    try:
        return await main
    except asyncio.CancelledError:
        if told:
            raise SystemExit(128 + signal.SIGTERM) from None
        raise
    finally:
        loop.remove_signal_handler(signal.SIGTERM)
