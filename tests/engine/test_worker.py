"""First come first served, so many at a time; who leaves frees a slot; a fault reaches everybody."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest

from ssjf.engine.params import SamplingParams
from ssjf.engine.worker import Engine, Generation
from ssjf.errors import BackendError
from tests.engine.engine_fakes import FakePipeline


@asynccontextmanager
async def running(pipeline: FakePipeline, *, max_num_seqs: int = 2) -> AsyncIterator[tuple[Engine, list[str]]]:
    faults: list[str] = []
    engine = Engine(pipeline, max_num_seqs=max_num_seqs, on_fault=lambda: faults.append("fault"))
    try:
        yield engine, faults
    finally:
        pipeline.free_running = True
        pipeline.allow(1000)
        await engine.close()


def submit(engine: Engine, prompt: bytes, **params: Any) -> Generation:
    return engine.submit(list(prompt), SamplingParams(**{"max_tokens": 4, **params}))


async def answer(generation: Generation) -> tuple[str, str, int]:
    text = ""
    async with asyncio.timeout(60):
        while (delta := await generation.read()) is not None:
            text += delta.text
            if delta.finish_reason is not None:
                return text, delta.finish_reason, delta.num_output_tokens
    return text, "cancelled", 0


async def test_everybody_is_served_in_order_and_never_too_many_at_once() -> None:
    pipeline = FakePipeline()
    async with running(pipeline, max_num_seqs=3) as (engine, _):
        generations = [submit(engine, b"%d" % index) for index in range(20)]
        assert [await answer(generation) for generation in generations] == [("xxxx", "length", 4)] * 20
    assert pipeline.started == [b"%d" % index for index in range(20)]
    assert pipeline.most_at_once == 3
    assert (engine.num_prompt_tokens, engine.num_generation_tokens) == (30, 80)


async def test_a_cancelled_sequence_makes_room_for_the_next() -> None:
    pipeline = FakePipeline(free_running=False)
    async with running(pipeline, max_num_seqs=1) as (engine, _):
        first, second, third = (submit(engine, prompt, max_tokens=50) for prompt in (b"1", b"2", b"3"))
        pipeline.allow(1)
        delta = await first.read()
        assert delta is not None
        assert delta.text == "x"
        engine.cancel(first)  # runs
        engine.cancel(second)  # waits
        engine.cancel(second)  # twice does no harm
        assert await first.read() is None
        assert await second.read() is None
        pipeline.allow(100)
        assert await answer(third) == ("x" * 50, "length", 50)
        await engine.drained()
        assert (engine.num_running, engine.num_waiting) == (0, 0)
    assert pipeline.started == [b"1", b"3"]


async def test_the_token_that_ends_an_answer_counts_and_is_not_shown() -> None:
    async with running(FakePipeline(lambda _: b"hello\0")) as (engine, _):
        assert await answer(submit(engine, b"p", max_tokens=50)) == ("hello", "stop", 6)
        assert await answer(submit(engine, b"p", max_tokens=50, stop_token_ids=frozenset(b"l"))) == ("he", "stop", 3)
        ignoring = {"ignore_eos": True, "stop_token_ids": frozenset(b"x")}
        assert await answer(submit(engine, b"p", max_tokens=50, **ignoring)) == ("hello", "stop", 7)


async def test_a_stop_string_ends_an_answer_wherever_its_tokens_fall() -> None:
    async with running(FakePipeline(lambda _: b"one\n\ntwo\0")) as (engine, _):
        assert await answer(submit(engine, b"p", max_tokens=50, stop=("\n\n",))) == ("one", "stop", 5)
        assert await answer(submit(engine, b"p", max_tokens=50, stop=("o\0", "wo!"))) == ("one\n\ntwo", "stop", 9)
        assert await answer(submit(engine, b"p", max_tokens=4, stop=("\n\n",))) == ("one\n", "length", 4)


async def test_min_tokens_keeps_an_answer_from_stopping_early() -> None:
    async with running(FakePipeline(lambda _: b"aXbXcXd")) as (engine, _):
        assert await answer(submit(engine, b"p", max_tokens=9, min_tokens=3, stop=("X",))) == ("aXb", "stop", 4)
        stop = frozenset(b"X")
        assert await answer(submit(engine, b"p", max_tokens=9, min_tokens=4, stop_token_ids=stop)) == (
            "aXbXc",
            "stop",
            6,
        )


async def test_a_request_that_the_library_refuses_fails_alone() -> None:
    async with running(FakePipeline()) as (engine, faults):
        with pytest.raises(BackendError, match="not this one"):
            await submit(engine, b"refuse").read()
        assert await answer(submit(engine, b"fine")) == ("xxxx", "length", 4)
        assert not faults


async def test_a_request_that_the_library_gives_up_fails_alone() -> None:
    pipeline = FakePipeline()
    pipeline.ignore = {b"large"}
    async with running(pipeline, max_num_seqs=1) as (engine, faults):
        large, fine = submit(engine, b"large"), submit(engine, b"fine")
        with pytest.raises(BackendError, match="KV cache is too small"):
            await large.read()
        assert await answer(fine) == ("xxxx", "length", 4)
        assert not faults


async def test_a_fault_fails_everybody_and_nothing_more_is_taken() -> None:
    pipeline = FakePipeline(free_running=False)
    pipeline.fault_at_step = 2
    async with running(pipeline, max_num_seqs=1) as (engine, faults):
        runs, waits = submit(engine, b"1"), submit(engine, b"2")
        pipeline.allow(1)
        await runs.read()
        pipeline.allow(1)
        for generation in (runs, waits):
            with pytest.raises(BackendError, match="injected fault"):
                await generation.read()
        assert faults == ["fault"]
        with pytest.raises(BackendError, match="injected fault"):
            submit(engine, b"3")
        await engine.drained()


async def test_closing_fails_what_is_live() -> None:
    pipeline = FakePipeline(free_running=False)
    async with running(pipeline) as (engine, _):
        generation = submit(engine, b"1")
        pipeline.allow(1)
        await generation.read()
        closing = asyncio.create_task(engine.close())
        with pytest.raises(BackendError, match="shutting down"):
            await answer(generation)
        pipeline.allow(1)  # the step under way ends
        await closing
