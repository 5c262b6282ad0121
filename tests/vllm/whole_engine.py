"""A real engine in this process, stepped by hand, on a clock of its own."""

import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tests.vllm.bench import Ask, Run
from vllm import LLM, SamplingParams


def make_engine(model: Path, **options: Any) -> LLM:
    """An engine of a tiny model."""
    limits = {"max_model_len": 512, "max_num_seqs": 3} | options
    return LLM(model=str(model), enforce_eager=True, dtype="float32", disable_log_stats=True, **limits)


def serve_whole(llm: LLM, asks: Sequence[Ask], *, processor_time: bool = False, at_once: int | None = None) -> Run:
    """What `serve` tells of a scheduler alone, of a whole engine; it may have served before.

    Args:
        llm: an engine with nothing to do.
        asks: what is asked, in order of arrival.
        processor_time: a step takes the seconds that it really needs of a processor, which other work on the machine
            hardly changes; otherwise one second, as on the bench.
        at_once: keep so many under way, whatever their arrivals; `Run.start` is then when they were sent.
    """
    engine, run, now, coming = llm.llm_engine, Run(), 0.0, 0
    scheduler = engine.engine_core.engine_core.scheduler
    update_from_output = type(scheduler).update_from_output
    began = 0.0

    def pass_time() -> None:
        nonlocal now, began
        if processor_time:
            now, began = now + time.process_time() - began, time.process_time()

    def update(*args: Any, **kwargs: Any) -> Any:
        nonlocal now
        pass_time()
        if not processor_time:
            now += 1.0
        run.num_steps += 1
        return update_from_output(scheduler, *args, **kwargs)

    scheduler.clock, scheduler.update_from_output = lambda: now, update
    live = 0
    while coming < len(asks) or live:
        if not live and at_once is None:
            now = max(now, asks[coming].arrival)
        while coming < len(asks) and (live < at_once if at_once is not None else asks[coming].arrival <= now):
            ask = asks[coming]
            run.start[coming] = now
            hint = {"ssjf_output_tokens": ask.hint}
            params = SamplingParams(
                max_tokens=ask.num_output_tokens, ignore_eos=True, extra_args=hint, detokenize=False
            )
            prompt = {"prompt_token_ids": [5 + ask.token] * ask.num_prompt_tokens}
            arrival = ask.arrival if at_once is None else now
            engine.add_request(f"{coming:06d}", prompt, params, arrival_time=arrival)
            coming += 1
            live += 1
        began = time.process_time()
        outputs = engine.step()
        pass_time()
        for output in outputs:
            index = int(output.request_id)
            run.first_token.setdefault(index, now)
            if output.finished:
                run.finish[index] = now
                live -= 1
    return run
