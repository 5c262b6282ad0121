"""Continuous batching as real engines do it, iteration by iteration, in virtual time.

A virtual engine in the manner of vLLM's v1 scheduler, in the state of which nothing but `ssjf.core` decides who is
served: who enters next is the head of the scheduler's waiting queue, who is thrown out is the scheduler's victim.

Laws of this file:
1. Decisions are made at the boundaries between iterations. At one boundary: first arrivals up to this instant, each
   added at its own time; then memory for what runs; then, unless memory ran out just now, who may enter.
2. An iteration computes one token for each decoding sequence. What is left of `max_num_batched_tokens` goes to the
   prompts of those that entered, in order of entry, in chunks where need be. The iteration that completes a prompt
   yields its first output token; each further one takes an iteration. The last one's key and value are never stored.
3. A sequence enters when a slot is free, tokens of the iteration are left and blocks for its whole prompt are free.
   The head of the queue is never passed by one behind it that would fit.
4. When decoding sequences need more blocks than are free, victims are thrown out until it is enough. They lose their
   memory, and when they enter again, prompt and output so far are prefilled like a prompt.
5. With a preemptive policy, a head that does not fit throws out whomever the same order serves after it, if that makes
   it fit. Attained service is that of the tokens computed; what is computed again counts once.
6. Between boundaries at which something happens (an arrival, a token that is the first or last, a chunk of another
   size, memory running out) iterations are summed in closed form; what they cost does not depend on their number.
   A policy's order is looked at when something happens, not in between.

This module knows neither predictions nor where costs come from. Tokens of a prefix that several prompts share are held
by each of them.
"""

import math
from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass, field
from heapq import heapify, heappop, heappush

from ssjf.core.places.capacity import KVBlocks
from ssjf.core.scheduler import Scheduler
from ssjf.core.service import LinearServiceModel
from ssjf.core.types import Job
from ssjf.errors import DataError
from ssjf.sim.steps.cost import EngineLimits, StepCostModel


@dataclass(slots=True)
class ServedJob:
    """One finished job; when it started and finished is in the job itself.

    Attributes:
        job: as the scheduler left it.
        first_token_at: end of the iteration that completed its prompt for the first time.
        num_preemptions: how often it was thrown out.
    """

    job: Job
    first_token_at: float
    num_preemptions: int


@dataclass(slots=True)
class StepRun:
    """What a run came to. *Contended* is an iteration during which somebody waits since its beginning.

    Attributes:
        served: all jobs, in order of finishing.
        num_iterations: of the engine.
        num_recomputed_tokens: computed keys and values that preemptions threw away.
        contended_iterations, contended_output_tokens, contended_s: iterations, output tokens and seconds of them.
    """

    served: list[ServedJob] = field(default_factory=list)
    num_iterations: int = 0
    num_recomputed_tokens: int = 0
    contended_iterations: int = 0
    contended_output_tokens: int = 0
    contended_s: float = 0.0


def serve_steps(
    jobs: Iterable[tuple[Job, int]],
    scheduler: Scheduler,
    *,
    cost: StepCostModel,
    limits: EngineLimits,
    service: LinearServiceModel,
) -> StepRun:
    """Serve (job, true number of output tokens) pairs until none is left.

    Prompt lengths are the requests'. An engine computes at least one prompt token and samples at least one output
    token, so lengths of 0 count as 1. Jobs get their `started_at`, `finished_at` and `attained_s`.

    Args:
        jobs: in order of arrival; equal arrivals keep the order given.
        scheduler: an idle one with continuous batching; its slots are the engine's `max_num_seqs`.
        cost: of the iterations.
        limits: of the engine.
        service: by which predicted service seconds were computed; for attained service, hence for preemptive policies.

    Raises:
        ValueError: an arrival lies before its predecessor's, or an iteration has not a token for each slot.
        DataError: a request can never fit into the KV cache.

    Cost: O(log n) per job and O(1) per event, O(slots) per preemption; with preemptive policies also per arrival.
    """
    if scheduler.batching.ends_together:
        raise ValueError("the step model batches continuously; jobs of a static batch have no iterations of their own")
    if scheduler.slots.total > limits.max_num_batched_tokens:
        raise ValueError(
            f"max_num_batched_tokens = {limits.max_num_batched_tokens} must be at least max_num_seqs = "
            f"{scheduler.slots.total}: each running sequence decodes a token per iteration"
        )
    engine = _Engine(list(jobs), scheduler, cost, limits, service)
    engine.serve()
    return engine.run


@dataclass(slots=True, eq=False)
class _Sequence:
    """A job's tokens, from its arrival to its last token.

    A *stint* is the time from entering to finishing or being thrown out: first it prefills, then it decodes.

    Attributes:
        job: whose tokens they are.
        num_prompt_tokens, num_output_tokens: at least 1.
        num_generated: output tokens there were when its stint began.
        num_cached: tokens of its prompt that this stint found in the prefix cache.
        prefill_left: tokens still to be prefilled in this stint; 0 while it decodes.
        finish_step: number of the iteration that yields its last token; known while it decodes.
        first_token_at: None before it.
        num_preemptions: so far.
    """

    job: Job
    num_prompt_tokens: int
    num_output_tokens: int
    num_generated: int = 0
    num_cached: int = 0
    prefill_left: int = 0
    finish_step: int = 0
    first_token_at: float | None = None
    num_preemptions: int = 0

    def generated(self, step: int) -> int:
        """Output tokens after iteration `step`, for a running sequence."""
        return self.num_generated if self.prefill_left else self.num_output_tokens - (self.finish_step - step)


class _Engine:
    """The state of one run; every number in it is kept up to date by differences."""

    def __init__(
        self,
        timeline: list[tuple[Job, int]],
        scheduler: Scheduler,
        cost: StepCostModel,
        limits: EngineLimits,
        service: LinearServiceModel,
    ) -> None:
        self.run = StepRun()
        self._timeline = timeline
        self._scheduler = scheduler
        self._cost = cost
        self._limits = limits
        self._service = service
        self._kv = KVBlocks(limits.num_kv_blocks, limits.block_size)
        self._now = -math.inf
        self._step = 0  # iterations so far
        self._coming = 0  # index of the next arrival
        self._last_arrival = -math.inf
        self._live: dict[str, _Sequence] = {}  # waiting and running
        self._prefilling: deque[_Sequence] = deque()  # in order of entry
        self._prefill_left = 0  # tokens, of all that prefill
        self._decoding: list[tuple[int, int, _Sequence]] = []  # heap of (finish step, sequence number, ...)
        self._resident = 0  # tokens whose keys and values running sequences hold
        self._entering = 0  # sequences that enter with the next iteration

    def serve(self) -> None:
        """Let iterations follow one another until no job is left."""
        scheduler, kv, timeline = self._scheduler, self._kv, self._timeline
        while True:
            self._take_arrivals(self._now)
            if not self._live:
                if self._coming == len(timeline):
                    return
                self._now = timeline[self._coming][0].request.arrival_time
                continue
            ran_out = False
            while not kv.fits(kv.due):
                self._measure_attained()
                self._throw_out(self._live[scheduler.forced_victim(self._now).request.request_id])
                ran_out = True
            if scheduler.waiting and not ran_out:
                self._let_in()
            self._advance(at_most=1 if ran_out else None)

    def _take_arrivals(self, now: float) -> None:
        timeline = self._timeline
        while self._coming < len(timeline):
            job, num_output_tokens = timeline[self._coming]
            arrival_time = job.request.arrival_time
            if arrival_time > now:
                break
            if arrival_time < self._last_arrival:
                raise ValueError(f"jobs must come in order of arrival: {arrival_time} after {self._last_arrival}")
            self._last_arrival = arrival_time
            sequence = _Sequence(job, max(job.request.num_prompt_tokens, 1), max(num_output_tokens, 1))
            needed = self._kv.blocks(sequence.num_prompt_tokens + sequence.num_output_tokens - 1)
            if needed > self._kv.total:
                raise DataError(
                    f"request {job.request.request_id} has {sequence.num_prompt_tokens} prompt and "
                    f"{sequence.num_output_tokens} output tokens: they need {needed} KV blocks, and the engine has "
                    f"{self._kv.total}"
                )
            self._scheduler.add(job, arrival_time)
            self._live[job.request.request_id] = sequence
            self._coming += 1

    # -- who runs ------------------------------------------------------------------------------------------------------

    def _let_in(self) -> None:
        """Admit from the head of the queue while slots, tokens of this iteration and blocks allow."""
        scheduler, kv, limits, now = self._scheduler, self._kv, self._limits, self._now
        waiting, slots = scheduler.waiting, scheduler.slots
        while waiting and self._prefill_left + len(self._decoding) < limits.max_num_batched_tokens:
            if not slots.fits() and not scheduler.preemptive:
                return
            head = waiting.peek(now)
            assert head is not None
            sequence = self._live[head.request.request_id]
            num_tokens = sequence.num_prompt_tokens + sequence.num_generated
            num_blocks = kv.blocks(num_tokens)
            if not (slots.fits() and kv.fits(num_blocks + kv.due)) and not (
                scheduler.preemptive and self._make_way(head, num_blocks)
            ):
                return
            scheduler.admit(now, 1)
            kv.take(num_blocks)
            is_cached = now - head.request.arrival_time <= limits.prefix_lifetime_s
            sequence.num_cached = limits.cached_tokens(sequence.num_prompt_tokens) if is_cached else 0
            sequence.prefill_left = num_tokens - sequence.num_cached
            self._prefill_left += sequence.prefill_left
            self._resident += sequence.num_cached
            self._prefilling.append(sequence)
            self._entering += 1

    def _make_way(self, head: Job, num_blocks: int) -> bool:
        """Throw out whom the policy serves after the head, until it fits; nobody when it would not fit even so."""
        kv, scheduler, now = self._kv, self._scheduler, self._now
        missing_slots = scheduler.slots.taken + 1 - scheduler.slots.total
        missing_blocks = kv.taken + kv.due + num_blocks - kv.total
        self._measure_attained()
        rank = scheduler.waiting.rank
        head_rank = rank(head, now)
        leaving: list[_Sequence] = []
        for job in scheduler.victims(now):
            if (missing_slots <= 0 and missing_blocks <= 0) or rank(job, now) < head_rank:
                break
            victim = self._live[job.request.request_id]
            leaving.append(victim)
            missing_slots -= 1
            # what it holds, and what it would take in the next iteration
            missing_blocks -= kv.blocks(victim.num_prompt_tokens + victim.generated(self._step))
        if missing_slots > 0 or missing_blocks > 0:
            return False
        for victim in leaving:
            self._throw_out(victim)
        return True

    def _measure_attained(self) -> None:
        """Bring the attained service of running jobs up to date, before they are compared with others."""
        service = self._service
        for job in self._scheduler.running.values():
            sequence = self._live[job.request.request_id]
            # tokens generated before this stint are prefilled in it, which is no progress
            prefilled = sequence.num_prompt_tokens - sequence.num_cached - sequence.prefill_left
            generated = sequence.generated(self._step)
            attained_s = service.per_input_token_s * prefilled + service.per_output_token_s * generated
            job.attained_s = max(job.attained_s, attained_s)

    def _throw_out(self, sequence: _Sequence) -> None:
        """Preempt by recomputation."""
        reserved = sequence.num_prompt_tokens + sequence.generated(self._step)  # tokens for which it holds blocks
        if sequence.prefill_left:
            self._prefilling.remove(sequence)
            self._prefill_left -= sequence.prefill_left
        else:
            reserved -= 1  # the last token is not stored before the next iteration
            sequence.num_generated = sequence.generated(self._step)
            self._decoding.remove((sequence.finish_step, sequence.job.sequence, sequence))
            heapify(self._decoding)
            self._kv.stop_growing(reserved)
        self._kv.release(self._kv.blocks(reserved))
        stored = reserved - sequence.prefill_left
        self._resident -= stored
        self.run.num_recomputed_tokens += stored - sequence.num_cached
        sequence.prefill_left = 0
        sequence.num_preemptions += 1
        self._scheduler.preempt(sequence.job.request.request_id, self._now)

    # -- iterations ----------------------------------------------------------------------------------------------------

    def _advance(self, at_most: int | None) -> None:
        """Do iterations of one kind, as many as pass before anything happens."""
        cost, run, num_decoding = self._cost, self.run, len(self._decoding)
        budget = self._limits.max_num_batched_tokens - num_decoding
        chunk = min(budget, self._prefill_left)
        steps = self._decoding[0][0] - self._step if num_decoding else math.inf
        if chunk:
            # the first prompt in whole chunks; with anything less, an iteration is of a kind of its own
            steps = min(steps, max(1, self._prefilling[0].prefill_left // budget))
        count = int(steps if at_most is None else min(steps, at_most))
        if num_decoding:
            count = self._kv.steps_left(count)
        growth = num_decoding + chunk
        first_s = cost.iteration_s(prefill_tokens=chunk, decode_tokens=num_decoding, kv_tokens=self._resident + growth)
        more_s = cost.per_kv_token_s * growth  # by which each iteration is longer than the one before
        entering_s = cost.per_request_s * self._entering
        self._entering = 0
        count = self._until_arrival(count, self._now + entering_s, first_s, more_s)
        seconds = entering_s + _sum_s(count, first_s, more_s)
        last_began = self._now + entering_s + _sum_s(count - 1, first_s, more_s)
        self._now += seconds
        self._step += count
        self._resident += count * growth
        self._kv.grow(count)
        completed = self._prefill(chunk, count) if chunk else ()
        run.num_iterations += count
        if self._scheduler.waiting:
            run.contended_iterations += count
            run.contended_output_tokens += count * num_decoding + len(completed)
            run.contended_s += seconds
        if count > 1:
            self._take_arrivals(last_began)  # a policy that learns hears of them before those who finish with it
        while self._decoding and self._decoding[0][0] == self._step:
            sequence = heappop(self._decoding)[2]
            self._kv.stop_growing(sequence.num_prompt_tokens + sequence.num_output_tokens - 1)
            self._finish(sequence)
        for sequence in completed:
            self._begin_decoding(sequence)

    def _until_arrival(self, count: int, now: float, first_s: float, more_s: float) -> int:
        """Of `count` iterations from `now`, those up to the first boundary at which an arrival may change who runs."""
        if self._coming == len(self._timeline):
            return count
        scheduler = self._scheduler
        if scheduler.waiting and not scheduler.slots.fits() and not scheduler.preemptive:
            return count
        arrives_at = self._timeline[self._coming][0].request.arrival_time
        if arrives_at <= now:
            return 1
        if now + _sum_s(count, first_s, more_s) <= arrives_at:
            return count
        # just below the root of the quadratic that the sum is, in the form that does not cancel; then up, to the bit
        half = first_s - more_s / 2
        left_s = arrives_at - now
        count = max(1, int(2 * left_s / (half + math.sqrt(half * half + 2 * more_s * left_s))) - 1)
        while now + _sum_s(count, first_s, more_s) < arrives_at:
            count += 1
        return count

    def _prefill(self, chunk: int, count: int) -> list[_Sequence]:
        """Give `count` iterations of `chunk` prompt tokens to those that prefill; returns who has completed."""
        tokens = chunk * count
        self._prefill_left -= tokens
        completed = []
        while tokens:
            sequence = self._prefilling[0]
            if sequence.prefill_left > tokens:
                sequence.prefill_left -= tokens
                break
            tokens -= sequence.prefill_left
            sequence.prefill_left = 0
            completed.append(self._prefilling.popleft())
        return completed

    def _begin_decoding(self, sequence: _Sequence) -> None:
        """The prompt is complete, and with it came a token."""
        if sequence.first_token_at is None:
            sequence.first_token_at = self._now
        left = sequence.num_output_tokens - sequence.num_generated - 1
        if left == 0:
            self._finish(sequence)
            return
        sequence.finish_step = self._step + left
        heappush(self._decoding, (sequence.finish_step, sequence.job.sequence, sequence))
        self._kv.start_growing(sequence.num_prompt_tokens + sequence.num_generated)

    def _finish(self, sequence: _Sequence) -> None:
        num_tokens = sequence.num_prompt_tokens + sequence.num_output_tokens - 1
        self._kv.release(self._kv.blocks(num_tokens))
        self._resident -= num_tokens
        request_id = sequence.job.request.request_id
        del self._live[request_id]
        job = self._scheduler.finish(request_id, self._now)
        assert sequence.first_token_at is not None
        self.run.served.append(ServedJob(job, sequence.first_token_at, sequence.num_preemptions))


def _sum_s(count: int, first_s: float, more_s: float) -> float:
    """Seconds of iterations of which each takes `more_s` longer than the one before."""
    return count * first_s + more_s * (count * (count - 1) // 2)
