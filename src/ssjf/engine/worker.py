"""The thread that generates: first come first served, at most `max_num_seqs` sequences at once.

Laws of this file:
1. The pipeline is touched by one thread only, the worker's. The event loop sends it orders through a queue, and gets
   back, per step, one batch of what is new: a step takes about a millisecond and holds the interpreter lock, so waking
   the loop per token would cost more than the tokens.
2. A sequence enters when a slot is free, in order of submission; it leaves when it finishes or is cancelled, and its
   slot is taken again before the next step.
3. An exception from a step ends everything: every live request fails, the thread ends, and `on_fault` is called. The
   state of the pipeline is unknown then; whoever owns the process has to replace it.

This module knows neither HTTP nor the library behind the pipeline.
"""

import asyncio
import functools
import itertools
import queue
import threading
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

from ssjf.engine.params import SamplingParams
from ssjf.engine.pipeline import Pipeline, SequenceOutput
from ssjf.engine.text import Detokenizer, StopStrings
from ssjf.errors import BackendError

# A step holds the interpreter lock, and takes it again at once unless the worker waits for the event loop: without
# that, the loop got its turn every 5 ms only, and tokens left in lumps.
_MAX_TURN_S = 0.01
_JOIN_S = 10.0  # a step takes milliseconds, or seconds with a large model and long prompts

FinishReason = Literal["stop", "length"]


@dataclass(frozen=True, slots=True)
class Delta:
    """What is new of an answer.

    Attributes:
        text: to append; may be empty.
        num_output_tokens: of the answer so far; the token that ended it counts.
        finish_reason: why it ended; None while it goes on.
    """

    text: str
    num_output_tokens: int
    finish_reason: FinishReason | None


class Generation:
    """One answer in the making, as the event loop sees it. Made by `Engine.submit`; read by one task."""

    def __init__(self, request_id: int, prompt_token_ids: Sequence[int], params: SamplingParams) -> None:
        self.request_id = request_id
        self.prompt_token_ids = prompt_token_ids
        self.params = params
        self._news: list[Delta] = []
        self._error: BackendError | None = None
        self._cancelled = False
        self._awake = asyncio.Event()

    async def read(self) -> Delta | None:
        """Wait for something new, and return all of it at once; None when the request was cancelled.

        Raises:
            BackendError: the engine failed; nothing more will come.
        """
        await self._awake.wait()
        self._awake.clear()
        if self._cancelled:
            return None
        if self._error is not None:
            raise self._error
        news, self._news = self._news, []
        return Delta("".join(delta.text for delta in news), news[-1].num_output_tokens, news[-1].finish_reason)

    def push(self, delta: Delta) -> None:
        """Something new; on the event loop."""
        self._news.append(delta)
        self._awake.set()

    def fail(self, error: BackendError) -> None:
        """The engine cannot go on with it; on the event loop."""
        self._error = error
        self._awake.set()

    def cancel(self) -> None:
        """Nobody wants it any more; on the event loop."""
        self._cancelled = True
        self._awake.set()


class Engine:
    """Serves requests with a pipeline, in a thread of its own.

    Args:
        pipeline: what generates.
        max_num_seqs: sequences that run at once.
        on_fault: called once, on the event loop, when the engine has failed; nothing is served any more.

    Attributes:
        max_num_seqs: as given.
        fault: why the engine has failed; None while it works.
        num_steps: steps of the pipeline so far.
        num_prompt_tokens: prompt tokens of all sequences started so far.
        num_generation_tokens: tokens generated so far.
    """

    def __init__(self, pipeline: Pipeline, *, max_num_seqs: int, on_fault: Callable[[], None]) -> None:
        self.max_num_seqs = max_num_seqs
        self.fault: BackendError | None = None
        self.num_steps = 0
        self.num_prompt_tokens = 0
        self.num_generation_tokens = 0
        self._pipeline = pipeline
        self._on_fault = on_fault
        self._ids = itertools.count()  # the library fails in its next step when a live id comes again
        self._live: set[Generation] = set()
        self._idle = asyncio.Event()
        self._idle.set()
        self._loop = asyncio.get_running_loop()
        # The worker's own; orders are what the event loop wants it to do, None to end.
        self._orders: queue.SimpleQueue[Callable[[], None] | None] = queue.SimpleQueue()
        self._waiting: deque[Generation] = deque()
        self._running: dict[int, _Sequence] = {}
        self._turn_over = threading.Event()
        self._thread = threading.Thread(target=self._work, name="ssjf-engine", daemon=True)
        self._thread.start()

    @property
    def num_running(self) -> int:
        """Sequences that hold a slot."""
        return len(self._running)

    @property
    def num_waiting(self) -> int:
        """Requests that wait for a slot."""
        return max(0, len(self._live) - len(self._running))

    def submit(self, prompt_token_ids: Sequence[int], params: SamplingParams) -> Generation:
        """Let a request wait for its turn.

        Raises:
            BackendError: the engine has failed.
        """
        if self.fault is not None:
            raise self.fault
        generation = Generation(next(self._ids), prompt_token_ids, params)
        self._live.add(generation)
        self._idle.clear()
        self._orders.put(functools.partial(self._waiting.append, generation))
        return generation

    def cancel(self, generation: Generation) -> None:
        """Give a request up, wherever it is. Does nothing when it is done already."""
        if generation in self._live:
            self._leave(generation)
            generation.cancel()
            self._orders.put(functools.partial(self._drop, generation))

    async def drained(self) -> None:
        """Wait until no request is live."""
        await self._idle.wait()

    async def close(self) -> None:
        """End the thread, after the step that it is in; what is live fails."""
        for generation in list(self._live):
            self._leave(generation)
            generation.fail(BackendError("the engine is shutting down"))
        self._orders.put(None)
        await asyncio.to_thread(self._thread.join, _JOIN_S)

    # -- on the event loop ---------------------------------------------------------------------------------------------

    def _leave(self, generation: Generation) -> None:
        self._live.discard(generation)
        if not self._live:
            self._idle.set()

    def _deliver(self, news: list[tuple[Generation, Delta | BackendError]]) -> None:
        for generation, item in news:
            if generation not in self._live:
                continue  # cancelled while this was on its way
            if isinstance(item, BackendError):
                self._leave(generation)
                generation.fail(item)
            else:
                if item.finish_reason is not None:
                    self._leave(generation)
                generation.push(item)
        # The tasks that read run in the loop's next round; the worker may go on when they have sent what they got.
        self._loop.call_soon(self._loop.call_soon, self._turn_over.set)

    def _break_down(self, error: Exception) -> None:
        self.fault = BackendError(f"the engine has failed and is being restarted: {error}")
        self._deliver([(generation, self.fault) for generation in self._live.copy()])
        self._on_fault()

    # -- in the worker's thread ----------------------------------------------------------------------------------------

    def _work(self) -> None:
        try:
            while self._obey():
                news = self._admit()
                if self._pipeline.has_unfinished():
                    news += self._step()
                if news:
                    self._turn_over.clear()
                    self._loop.call_soon_threadsafe(self._deliver, news)
                    self._turn_over.wait(_MAX_TURN_S)
        except Exception as error:  # noqa: BLE001 - whatever it is, the requests must not hang
            self._loop.call_soon_threadsafe(self._break_down, error)

    def _obey(self) -> bool:
        """Carry out the orders that are there; with nothing to do, wait for one. False: end."""
        idle = not self._waiting and not self._pipeline.has_unfinished()
        while idle or not self._orders.empty():
            order = self._orders.get()
            if order is None:
                return False
            order()
            idle = False
        return True

    def _drop(self, generation: Generation) -> None:
        if self._running.pop(generation.request_id, None) is not None:
            self._pipeline.cancel(generation.request_id)
        elif generation in self._waiting:
            self._waiting.remove(generation)

    def _admit(self) -> list[tuple[Generation, Delta | BackendError]]:
        refused: list[tuple[Generation, Delta | BackendError]] = []
        while self._waiting and len(self._running) < self.max_num_seqs:
            generation = self._waiting.popleft()
            try:
                self._pipeline.add(generation.request_id, generation.prompt_token_ids, generation.params)
            except Exception as error:  # noqa: BLE001 - the library refused this one; it is fit to serve others
                refused.append((generation, BackendError(f"the engine refused the request: {error}")))
                continue
            self._running[generation.request_id] = _Sequence(generation, self._pipeline)
            self.num_prompt_tokens += len(generation.prompt_token_ids)
        return refused

    def _step(self) -> list[tuple[Generation, Delta | BackendError]]:
        outputs = self._pipeline.step()
        self.num_steps += 1
        sequences = [self._running[request_id] for request_id in outputs]
        windows = [sequence.take(output) for sequence, output in zip(sequences, outputs.values(), strict=True)]
        news: list[tuple[Generation, Delta | BackendError]] = []
        for sequence, text in zip(sequences, self._pipeline.decode(windows) if windows else [], strict=True):
            generation, output = sequence.generation, outputs[sequence.generation.request_id]
            delta = sequence.release(text)
            self.num_generation_tokens += len(output.token_ids)
            if delta.finish_reason is not None or output.finish_reason is not None:
                del self._running[generation.request_id]
                if output.finish_reason is None:  # we ended it, the pipeline would go on
                    self._pipeline.cancel(generation.request_id)
            if output.finish_reason == "ignored":
                news.append((generation, BackendError("the engine gave the request up: its KV cache is too small")))
            else:  # also without text, as vLLM does: whoever measures sees that a token was made
                news.append((generation, delta))
        return news


class _Sequence:
    """A running request in the worker: counts its tokens, makes its text, and decides when it ends."""

    def __init__(self, generation: Generation, pipeline: Pipeline) -> None:
        self.generation = generation
        self._params = generation.params
        self._detokenizer = Detokenizer(lambda token_ids: pipeline.decode([token_ids])[0])
        self._stop_strings = StopStrings(self._params.stop)
        self._num_output_tokens = 0
        self._finish_reason: FinishReason | None = None

    def take(self, output: SequenceOutput) -> list[int]:
        """Count a step's tokens; returns the window of tokens whose text `release` needs."""
        token_ids = output.token_ids
        if output.finish_reason != "ignored":
            self._finish_reason = output.finish_reason
        # The library lets `ignore_eos` override every stop token, vLLM only the end of sequence.
        for index, token_id in enumerate(token_ids):
            if token_id in self._params.stop_token_ids and self._may_stop(index + 1):
                token_ids, self._finish_reason = token_ids[: index + 1], "stop"
                break
        self._num_output_tokens += len(token_ids)
        return self._detokenizer.extend(token_ids[:-1] if self._finish_reason == "stop" else token_ids)

    def release(self, window_text: str) -> Delta:
        """The step's news, given the text of the window that `take` returned."""
        text = self._detokenizer.release(window_text, final=self._finish_reason is not None)
        if self._may_stop(0):
            text, stopped = self._stop_strings.feed(text)
            if stopped:
                self._finish_reason = "stop"
            elif self._finish_reason is not None:
                text += self._stop_strings.flush()
        return Delta(text, self._num_output_tokens, self._finish_reason)

    def _may_stop(self, num_more_tokens: int) -> bool:
        return self._num_output_tokens + num_more_tokens > self._params.min_tokens
