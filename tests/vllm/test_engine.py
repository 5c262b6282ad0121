"""A real engine in this process gives the same tokens with us as without us, and fewer steps to most of them."""

import random
from pathlib import Path
from typing import Any

import pytest

from ssjf.integrations.vllm import SSJFScheduler
from vllm import LLM, SamplingParams


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
    engine = LLM(
        model=str(model),
        enforce_eager=True,
        dtype="float32",
        max_model_len=512,
        max_num_seqs=3,
        disable_log_stats=True,
        **options,
    )
    prompts, params = _requests()
    try:
        return [list(output.outputs[0].token_ids) for output in engine.generate(prompts, params, use_tqdm=False)]
    finally:
        engine.llm_engine.engine_core.shutdown()


@pytest.mark.parametrize(
    "options",
    [
        {"enable_prefix_caching": False, "enable_chunked_prefill": False},
        {"enable_prefix_caching": True, "enable_chunked_prefill": True, "max_num_batched_tokens": 64},
    ],
    ids=["plain", "cached and chunked"],
)
def test_output_tokens_are_those_of_vllm_without_us(
    tiny_model: Path, monkeypatch: pytest.MonkeyPatch, options: dict[str, Any]
) -> None:
    monkeypatch.setenv("SSJF_VLLM_POLICY", "ssjf")
    monkeypatch.setenv("SSJF_VLLM_ACCEPT_HINTS", "true")
    plain = _generate(tiny_model, **options)
    assert len({tuple(tokens) for tokens in plain}) > 12, "all answers alike: the test shows nothing"
    assert _generate(tiny_model, **options, scheduler_cls=SSJFScheduler) == plain
    monkeypatch.setenv("SSJF_VLLM_POLICY", "auto")
    assert _generate(tiny_model, **options, scheduler_cls="ssjf.integrations.vllm.SSJFScheduler") == plain
