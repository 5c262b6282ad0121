"""The step model once more: iteration by iteration, sequence by sequence, slow and plain.

It shares with the simulator the policy objects and the cost coefficients, and no code of scheduling.
"""

from dataclasses import dataclass

from ssjf.core.service import LinearServiceModel
from ssjf.core.types import Job, Policy
from ssjf.sim.steps.cost import EngineLimits, StepCostModel


@dataclass(eq=False)
class Seq:
    job: Job
    number: int
    prompt: int
    output: int
    generated: int = 0
    context: int = 0  # stored tokens
    to_store: int = 0  # stored tokens at which the prompt is complete; 0 while not running
    cached: int = 0
    started: float | None = None
    first: float | None = None
    finished: float | None = None
    preemptions: int = 0

    @property
    def prefilling(self) -> bool:
        return self.context < self.to_store

    @property
    def arrival(self) -> float:
        return self.job.request.arrival_time


@dataclass
class Outcome:
    seqs: list[Seq]
    iterations: int = 0
    recomputed: int = 0
    contended_iterations: int = 0
    contended_tokens: int = 0
    contended_s: float = 0.0
    largest_use: int = 0


def run_reference(  # noqa: PLR0912 - one plain loop to be read from top to bottom
    jobs: list[tuple[Job, int]],
    policy: Policy,
    *,
    max_num_seqs: int,
    max_wait_s: float | None,
    cost: StepCostModel,
    limits: EngineLimits,
    service: LinearServiceModel,
) -> Outcome:
    seqs = [
        Seq(job, number, max(job.request.num_prompt_tokens, 1), max(output, 1))
        for number, (job, output) in enumerate(jobs)
    ]
    out = Outcome(seqs)
    future, waiting, running = list(seqs), [], []  # running is in order of entry
    now = 0.0

    def rank(seq: Seq) -> tuple[float, ...]:
        return (seq.job.request.tier, policy.key(seq.job, now), seq.arrival, seq.number)

    def overdue(seq: Seq) -> bool:
        return max_wait_s is not None and now - seq.arrival >= max_wait_s

    def blocks(tokens: int) -> int:
        return -(-tokens // limits.block_size)

    def used() -> int:
        return sum(blocks(max(seq.context, seq.to_store)) for seq in running)

    def needed_to_decode() -> int:
        return sum(blocks(seq.context + 1) - blocks(seq.context) for seq in running if not seq.prefilling)

    def measure() -> None:
        for seq in running:
            before = seq.generated if seq.prefilling else 0
            prompt_done = (min(seq.context, seq.to_store) - seq.cached) if seq.prefilling else seq.prompt - seq.cached
            attained = service.per_input_token_s * (prompt_done - before) + service.per_output_token_s * seq.generated
            seq.job.attained_s = max(seq.job.attained_s, attained)

    def throw_out(seq: Seq) -> None:
        out.recomputed += seq.context - seq.cached
        seq.context = seq.to_store = seq.cached = 0
        seq.preemptions += 1
        running.remove(seq)
        waiting.append(seq)

    happened = True
    while future or waiting or running:
        while future and future[0].arrival <= now:
            waiting.append(future.pop(0))
            happened = True
        if not waiting and not running:
            now = future[0].arrival
            continue

        ran_out = False
        entering = 0
        while used() + needed_to_decode() > limits.num_kv_blocks:
            measure()
            candidates = [seq for seq in running if not overdue(seq)]
            if candidates:
                throw_out(max(candidates, key=rank))
            else:
                throw_out(max(running, key=lambda seq: (seq.arrival, seq.number)))
            ran_out = happened = True
        while happened and waiting and not ran_out:
            unfilled = sum(seq.to_store - seq.context for seq in running if seq.prefilling)
            if unfilled + sum(not seq.prefilling for seq in running) >= limits.max_num_batched_tokens:
                break
            oldest = min(waiting, key=lambda seq: (seq.arrival, seq.number))
            head = oldest if overdue(oldest) else min(waiting, key=rank)
            need = blocks(head.prompt + head.generated)

            def fits(leaving: list[Seq], need: int = need) -> bool:
                for seq in leaving:
                    running.remove(seq)
                fit = len(running) < max_num_seqs and used() + needed_to_decode() + need <= limits.num_kv_blocks
                running.extend(leaving)
                return fit

            if not fits([]):
                if not getattr(policy, "preemptive", False):
                    break
                measure()
                order = running[:]
                worse = sorted((s for s in running if not overdue(s) and rank(s) > rank(head)), key=rank, reverse=True)
                enough = next((n for n in range(len(worse) + 1) if fits(worse[:n])), None)
                running[:] = order
                if enough is None:
                    break
                for seq in worse[:enough]:
                    throw_out(seq)
            waiting.remove(head)
            running.append(head)
            entering += 1
            if head.started is None:
                head.started = now
            head.to_store = head.prompt + head.generated
            if now - head.arrival <= limits.prefix_lifetime_s:
                head.cached = min(int(limits.prefix_hit_fraction * head.prompt), head.prompt - 1)
            head.context = head.cached

        decoding = [seq for seq in running if not seq.prefilling]
        budget = limits.max_num_batched_tokens - len(decoding)
        prefilled, completed = 0, []
        for seq in [seq for seq in running if seq.prefilling]:
            chunk = min(budget - prefilled, seq.to_store - seq.context)
            seq.context += chunk
            prefilled += chunk
            if not seq.prefilling:
                completed.append(seq)
        for seq in decoding:
            seq.context += 1
        out.largest_use = max(out.largest_use, used())
        assert used() <= limits.num_kv_blocks
        seconds = (
            cost.base_s
            + cost.per_request_s * entering
            + cost.per_prefill_token_s * prefilled
            + cost.per_decode_token_s * len(decoding)
            + cost.per_kv_token_s * sum(seq.context for seq in running)
        )
        now += seconds
        out.iterations += 1
        if waiting:
            out.contended_iterations += 1
            out.contended_tokens += len(decoding) + len(completed)
            out.contended_s += seconds
        happened = bool(prefilled or ran_out)
        for seq in decoding + completed:
            seq.generated += 1
            if seq.first is None:
                seq.first = now
            if seq.generated == seq.output:
                seq.finished = now
                running.remove(seq)
                happened = True
    return out
