"""A real engine in this process gives the same tokens with us as without us, in the steps of the scheduler alone."""

import random
from pathlib import Path
from typing import Any

import pytest

from ssjf.integrations.vllm import SSJFScheduler
from tests.vllm.bench import Ask, make_scheduler, serve
from tests.vllm.whole_engine import make_engine, serve_whole
from vllm import SamplingParams


def _requests() -> tuple[list[dict[str, list[int]]], list[SamplingParams]]:
    rng = random.Random(0)
    shared = [rng.randrange(2, 280) for _ in range(70)]
    prompts, params = [], []
    for index in range(24):
        head = shared if index % 3 else []
        tokens = head + [rng.randrange(2, 280) for _ in range(rng.randint(3, 60))]
        prompts.append({"prompt_token_ids": tokens})
        length = rng.randint(1, 40)
        params.append(
            SamplingParams(
                max_tokens=length, ignore_eos=True, temperature=0.0, extra_args={"ssjf_output_tokens": length}
            )
        )
    return prompts, params


def _generate(model: Path, **options: Any) -> list[list[int]]:
    engine = make_engine(model, **options)
    prompts, params = _requests()
    try:
        return [list(output.outputs[0].token_ids) for output in engine.generate(prompts, params, use_tqdm=False)]
    finally:
        engine.llm_engine.engine_core.shutdown()


@pytest.mark.parametrize(
    "chunks",
    [{"enable_chunked_prefill": False}, {"enable_chunked_prefill": True, "max_num_batched_tokens": 64}],
    ids=["whole", "chunked"],
)
@pytest.mark.parametrize("prefix_caching", [False, True], ids=["uncached", "cached"])
def test_output_tokens_are_those_of_vllm_without_us(
    tiny_model: Path, monkeypatch: pytest.MonkeyPatch, prefix_caching: bool, chunks: dict[str, Any]
) -> None:
    options = {"enable_prefix_caching": prefix_caching, **chunks}
    monkeypatch.setenv("SSJF_VLLM_POLICY", "ssjf")
    monkeypatch.setenv("SSJF_VLLM_ACCEPT_HINTS", "true")
    plain = _generate(tiny_model, **options)
    assert len({tuple(tokens) for tokens in plain}) > 12, "all answers alike: the test shows nothing"
    assert _generate(tiny_model, **options, scheduler_cls=SSJFScheduler) == plain
    monkeypatch.setenv("SSJF_VLLM_POLICY", "auto")
    assert _generate(tiny_model, **options, scheduler_cls="ssjf.integrations.vllm.SSJFScheduler") == plain


@pytest.mark.parametrize("policy", [None, "ssjf", "auto"])
def test_an_engine_with_weights_takes_the_steps_that_the_scheduler_alone_takes(
    tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, policy: str | None
) -> None:
    rng = random.Random(1)
    arrival, asks = 0.0, []
    for _ in range(60):
        arrival += rng.expovariate(1 / 12)
        tokens = rng.randint(2, 60)
        asks.append(Ask(arrival, rng.randint(1, 60), tokens, tokens * rng.lognormvariate(0, 0.4)))
    settings = {"POLICY": policy or "", "ACCEPT_HINTS": "true", "IGNORE_MAX_TOKENS": "true"}
    settings |= {"SECONDS_PER_TOKEN": "1", "SECONDS_PER_INPUT_TOKEN": "0"}
    for name, value in settings.items():
        monkeypatch.setenv(f"SSJF_VLLM_{name}", value)
    ours = {} if policy is None else {"scheduler_cls": SSJFScheduler}
    engine = make_engine(tiny_model, enable_prefix_caching=False, **ours)
    try:
        whole = serve_whole(engine, asks)
    finally:
        engine.llm_engine.engine_core.shutdown()
    alone = serve(make_scheduler(tmp_path, **({"kind": SSJFScheduler} if ours else {}), max_num_seqs=3), asks)
    assert (whole.first_token, whole.finish, whole.num_steps) == (alone.first_token, alone.finish, alone.num_steps)
