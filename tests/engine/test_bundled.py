"""The engine with a real model, over HTTP, as users meet it."""

import asyncio
import itertools
import subprocess
import sys
from pathlib import Path
from typing import Any

import aiohttp
import openai
import pytest

from ssjf.engine.bundled_model import BUNDLED_MODEL_NAME as MODEL
from ssjf.engine.bundled_model import BUNDLED_MODEL_PATH
from ssjf.engine.models import find_model, plan_cache
from ssjf.engine.params import SamplingParams
from ssjf.engine.pipeline import load
from tests.engine.conftest import environment

CONTEXT = find_model(str(BUNDLED_MODEL_PATH)).context_length
HI: list[Any] = [{"role": "user", "content": "Write a story about a fox."}]


def client(url: str) -> openai.AsyncOpenAI:
    return openai.AsyncOpenAI(base_url=url + "/v1", api_key="none", max_retries=0)


async def metrics(url: str) -> dict[str, float]:
    async with aiohttp.ClientSession(url) as http, http.get("/metrics") as response:
        lines = (line.rpartition(" ") for line in (await response.text()).splitlines() if not line.startswith("#"))
        return {name: float(value) for name, _, value in lines}


async def test_the_openai_client_gets_the_same_answer_streamed_and_whole(bundled: str) -> None:
    async with client(bundled) as api:
        assert [model.id async for model in await api.models.list()] == [MODEL]
        whole = await api.chat.completions.create(model=MODEL, messages=HI, temperature=0, max_tokens=60)
        stream = await api.chat.completions.create(
            model=MODEL, messages=HI, temperature=0, max_tokens=60, stream=True, stream_options={"include_usage": True}
        )
        chunks = [chunk async for chunk in stream]
    assert whole.choices[0].message.content == "".join(c.choices[0].delta.content or "" for c in chunks if c.choices)
    assert whole.usage == chunks[-1].usage
    assert chunks[-2].choices[0].finish_reason == whole.choices[0].finish_reason


async def test_a_completion_of_token_ids_is_the_completion_of_their_text(bundled: str) -> None:
    async with client(bundled) as api:
        answers = [
            await api.completions.create(model=MODEL, prompt=prompt, temperature=0, max_tokens=8, extra_body=extra)
            for prompt, extra in (("a b", {}), (["a b"], {"ignore_eos": True}))
        ]
    assert answers[0].usage is not None
    assert answers[1].usage is not None
    assert answers[0].usage.prompt_tokens == answers[1].usage.prompt_tokens
    assert answers[1].usage.completion_tokens == 8


async def test_min_tokens_and_ignore_eos_decide_the_length(bundled: str) -> None:
    async with client(bundled) as api:
        fixed = await api.chat.completions.create(
            model=MODEL, messages=HI, max_tokens=300, extra_body={"ignore_eos": True}
        )
        assert fixed.usage is not None
        assert fixed.usage.completion_tokens == 300
        assert fixed.choices[0].finish_reason == "length"
        short: list[Any] = [{"role": "user", "content": "Is fire hot?"}]
        natural = await api.chat.completions.create(model=MODEL, messages=short, temperature=0)
        longer = await api.chat.completions.create(
            model=MODEL, messages=short, temperature=0, extra_body={"min_tokens": 40}, max_tokens=60
        )
        assert natural.choices[0].finish_reason == "stop"
        assert natural.usage is not None
        assert longer.usage is not None
        assert natural.usage.completion_tokens < 40 < longer.usage.completion_tokens


async def test_a_seed_gives_the_same_answer_alone_and_in_a_crowd(bundled: str) -> None:
    async with client(bundled) as api:

        async def answer(seed: int | None) -> str | None:
            body = {"messages": HI, "temperature": 1.0, "max_tokens": 40, "seed": seed}
            return (await api.chat.completions.create(model=MODEL, **body)).choices[0].message.content

        alone = await answer(7)
        assert set(await asyncio.gather(*(answer(7) for _ in range(6)))) == {alone}
        assert len(set(await asyncio.gather(*(answer(None) for _ in range(6))))) > 1
        assert await answer(-1) == await answer(-1)


async def test_a_stop_string_is_never_sent(bundled: str) -> None:
    async with client(bundled) as api:
        whole = await api.chat.completions.create(model=MODEL, messages=HI, temperature=0, max_tokens=60)
        text = whole.choices[0].message.content
        assert text is not None
        stop = text[10:14]
        stream = await api.chat.completions.create(
            model=MODEL, messages=HI, temperature=0, max_tokens=60, stop=stop, stream=True
        )
        chunks = [chunk.choices[0] async for chunk in stream]
    assert "".join(chunk.delta.content or "" for chunk in chunks) == text[: text.index(stop)]
    assert chunks[-1].finish_reason == "stop"


async def test_a_prompt_is_refused_exactly_when_it_does_not_fit(bundled: str) -> None:
    async with client(bundled) as api:
        fits = await api.completions.create(model=MODEL, prompt=[5] * (CONTEXT - 1), temperature=0)
        assert fits.usage is not None
        assert fits.usage.total_tokens == CONTEXT
        for prompt in ([5] * CONTEXT, "word " * CONTEXT, "a" * 5_000_000):
            with pytest.raises(openai.BadRequestError) as refusal:
                await api.completions.create(model=MODEL, prompt=prompt)
            assert refusal.value.code == "context_length_exceeded"
        with pytest.raises(openai.BadRequestError, match="room for"):
            await api.completions.create(model=MODEL, prompt=[5] * (CONTEXT - 10), max_tokens=11)


async def test_an_aborted_stream_frees_its_slot(bundled: str) -> None:
    async with client(bundled) as api:
        stream = await api.chat.completions.create(
            model=MODEL, messages=HI, stream=True, extra_body={"ignore_eos": True}
        )
        await anext(aiter(stream))
        await stream.close()
        async with asyncio.timeout(60):
            while (await metrics(bundled))["ssjf_engine_num_requests_running"]:
                pass  # each look is a round trip
    assert (await metrics(bundled))['ssjf_engine_requests_total{outcome="cancelled"}'] >= 1


async def test_two_hundred_concurrent_streams_all_end_properly(bundled: str) -> None:
    before = (await metrics(bundled))["ssjf_engine_generation_tokens_total"]
    async with client(bundled) as api:

        async def answer(max_tokens: int) -> tuple[str | None, int]:
            stream = await api.chat.completions.create(
                model=MODEL, messages=HI, stream=True, max_tokens=max_tokens, stream_options={"include_usage": True},
                extra_body={"ignore_eos": True},
            )  # fmt: skip
            chunks = [chunk async for chunk in stream]
            assert chunks[-1].usage is not None
            return chunks[-2].choices[0].finish_reason, chunks[-1].usage.completion_tokens

        lengths = [1 + index % 40 for index in range(200)]
        assert await asyncio.gather(*map(answer, lengths)) == [("length", length) for length in lengths]
    after = await metrics(bundled)
    assert after["ssjf_engine_generation_tokens_total"] - before == sum(lengths)
    assert after["ssjf_engine_num_requests_running"] == after["ssjf_engine_num_requests_waiting"] == 0


def test_loading_the_library_leaves_no_trace_of_telemetry(tmp_path: Path) -> None:
    """Left alone, the import writes a client id to the user's home and reports itself."""
    code = (
        "import sys; from ssjf.engine.pipeline import _import_genai; _import_genai();"
        "assert 'openvino.tools.ovc' in sys.modules; assert sys.modules['openvino_telemetry'] is None"
    )
    home = environment() | {"HOME": str(tmp_path)}
    subprocess.run([sys.executable, "-c", code], env=home, check=True)
    assert list(tmp_path.iterdir()) == []


@pytest.fixture(scope="module")
def pipeline() -> Any:
    """The library itself with a cache of ten blocks, so that what it does without room can be seen."""
    files = find_model(str(BUNDLED_MODEL_PATH))
    plan = plan_cache(files, max_num_seqs=8, kv_cache_gib=10 * 32 * files.kv_bytes_per_token / 2**30)
    assert (plan.max_model_len, plan.num_kv_blocks) == (320, 10)
    return load(files, plan, max_num_seqs=8, num_threads=1)[0]


def generate(pipeline: Any, ids: list[int], num_prompt_tokens: int, max_tokens: int) -> list[list[int]]:
    params = SamplingParams(max_tokens=max_tokens, ignore_eos=True, temperature=0)
    answers: dict[int, list[int]] = {request_id: [] for request_id in ids}
    for request_id in ids:
        pipeline.add(request_id, [5] * num_prompt_tokens, params)
    while pipeline.has_unfinished():
        for request_id, output in pipeline.step().items():
            answers[request_id] += output.token_ids
            assert output.finish_reason in (None, "length")
    return list(answers.values())


def test_sequences_that_crowd_the_cache_are_preempted_and_lose_nothing(pipeline: Any) -> None:
    [alone] = generate(pipeline, [0], 30, 100)
    assert generate(pipeline, list(range(1, 9)), 30, 100) == [alone] * 8
    [full] = generate(pipeline, [9], 30, 290)
    assert len(full) == 290


def test_a_sequence_that_outgrows_the_cache_is_reported(pipeline: Any) -> None:
    pipeline.add(10, [5] * 30, SamplingParams(max_tokens=400, ignore_eos=True, temperature=0))
    reasons = []
    for _ in itertools.takewhile(lambda _: pipeline.has_unfinished(), range(1000)):
        reasons += [output.finish_reason for output in pipeline.step().values()]
    assert reasons[-1] == "ignored"


def test_a_cancelled_sequence_is_gone_after_one_step(pipeline: Any) -> None:
    pipeline.add(11, [5] * 30, SamplingParams(max_tokens=100, ignore_eos=True))
    pipeline.step()
    pipeline.cancel(11)
    assert pipeline.has_unfinished()
    assert pipeline.step() == {}
    assert not pipeline.has_unfinished()
