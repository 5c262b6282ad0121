"""vLLM's scheduler on a test bench: no executor, no weights; every step takes one second and invents its tokens."""

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from vllm.config import CacheConfig, DeviceConfig, ModelConfig, SchedulerConfig, VllmConfig
from vllm.sampling_params import SamplingParams
from vllm.utils.hashing import sha256
from vllm.v1.core.kv_cache_utils import get_request_block_hasher, init_none_hash
from vllm.v1.core.sched.async_scheduler import AsyncScheduler
from vllm.v1.core.sched.scheduler import Scheduler
from vllm.v1.kv_cache_interface import FullAttentionSpec, KVCacheConfig, KVCacheGroupSpec
from vllm.v1.outputs import ModelRunnerOutput
from vllm.v1.request import Request, RequestStatus
from vllm.v1.structured_output import StructuredOutputManager

BLOCK_SIZE = 16


@dataclass(frozen=True, slots=True)
class Ask:
    """One request.

    Attributes:
        arrival: instant in seconds.
        num_prompt_tokens, num_output_tokens: true lengths.
        hint: the output length that its client gives.
        token: what its prompt is made of; equal ones share prefixes.
        priority: that its client gives.
    """

    arrival: float
    num_prompt_tokens: int
    num_output_tokens: int
    hint: float | None = None
    token: int = 0
    priority: int = 0


@dataclass(slots=True)
class Run:
    """What happened.

    Attributes:
        started: indices of requests in the order in which they were first scheduled.
        start, first_token, finish: when the step began that scheduled it first, and ended that did the rest, by index.
        preemptions: for each step that threw somebody out, who had been running and who of them was thrown out.
        num_steps: altogether.
        contended_steps, contended_tokens: steps during which somebody waited, and the output tokens of these.
    """

    started: list[int] = field(default_factory=list)
    start: dict[int, float] = field(default_factory=dict)
    first_token: dict[int, float] = field(default_factory=dict)
    finish: dict[int, float] = field(default_factory=dict)
    preemptions: list[tuple[set[int], set[int]]] = field(default_factory=list)
    num_steps: int = 0
    contended_steps: int = 0
    contended_tokens: int = 0


def make_scheduler(
    folder: Path,
    kind: type[Scheduler] = AsyncScheduler,
    *,
    max_num_seqs: int,
    num_blocks: int = 10_000,
    prefix_caching: bool = False,
    max_num_batched_tokens: int = 8192,
    chunked_prefill: bool = True,
    max_model_len: int = 4096,
) -> Any:
    """A scheduler of a tiny model that is never run."""
    config = {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "hidden_size": 64,
        "intermediate_size": 128,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
        "num_key_value_heads": 2,
        "vocab_size": 1000,
        "max_position_embeddings": max_model_len,
        "torch_dtype": "float32",
    }
    (folder / "config.json").write_text(json.dumps(config))
    model = ModelConfig(
        model=str(folder), skip_tokenizer_init=True, dtype="float32", seed=0, max_model_len=max_model_len
    )
    scheduler = SchedulerConfig(
        max_num_seqs=max_num_seqs,
        max_num_batched_tokens=max_num_batched_tokens,
        max_model_len=max_model_len,
        enable_chunked_prefill=chunked_prefill,
        is_encoder_decoder=False,
        async_scheduling=False,
        watermark=0.0,
    )
    cache = CacheConfig(block_size=BLOCK_SIZE, enable_prefix_caching=prefix_caching)
    cache.num_gpu_blocks = num_blocks
    whole = VllmConfig(
        model_config=model, scheduler_config=scheduler, cache_config=cache, device_config=DeviceConfig("cpu")
    )
    spec = FullAttentionSpec(block_size=BLOCK_SIZE, num_kv_heads=2, head_size=32, dtype=torch.float32)
    kv = KVCacheConfig(num_blocks=num_blocks, kv_cache_tensors=[], kv_cache_groups=[KVCacheGroupSpec(["layer"], spec)])
    init_none_hash(sha256)
    return kind(
        vllm_config=whole,
        kv_cache_config=kv,
        structured_output_manager=StructuredOutputManager(whole),
        block_size=BLOCK_SIZE,
        log_stats=False,
    )


def serve(scheduler: Any, asks: Sequence[Ask], *, ends: Sequence[tuple[float, int, RequestStatus]] = ()) -> Run:
    """Let the scheduler serve requests, which must be in order of arrival, until none is left.

    Args:
        scheduler: a new one.
        asks: what is asked.
        ends: (instant, index, status) of requests that end before their time, while somebody is there.
    """
    run, now, coming = Run(), 0.0, 0
    scheduler.clock = lambda: now
    hasher = get_request_block_hasher(BLOCK_SIZE, sha256)
    live: dict[str, Request] = {}
    while coming < len(asks) or live:
        if not live:
            now = max(now, asks[coming].arrival)
        while coming < len(asks) and asks[coming].arrival <= now:
            live[_name(coming)] = request = _request(coming, asks[coming], hasher)
            scheduler.add_request(request)
            coming += 1
        for _, index, status in [end for end in ends if end[0] == now]:
            scheduler.finish_requests(_name(index), status)
            live.pop(_name(index))
        output = _scheduled(scheduler, run)
        for new in output.scheduled_new_reqs:
            run.started.append(int(new.req_id))
            run.start[int(new.req_id)] = now
        names = list(output.num_scheduled_tokens)
        tokens = [[1] if _yields_token(live[name]) else [] for name in names]
        waits = bool(scheduler.waiting)
        now += 1.0
        if names:
            scheduler.update_from_output(
                output,
                ModelRunnerOutput(
                    req_ids=names,
                    req_id_to_index={name: place for place, name in enumerate(names)},
                    sampled_token_ids=tokens,
                ),
            )
            run.num_steps += 1
            run.contended_steps += waits
            run.contended_tokens += waits * sum(map(len, tokens))
        for name, token in zip(names, tokens, strict=True):
            if token:
                run.first_token.setdefault(int(name), now)
            if live[name].is_finished():
                run.finish[int(name)] = now
                del live[name]
    return run


def _scheduled(scheduler: Any, run: Run) -> Any:
    """The scheduler's decision for one step, with a note of whom it threw out."""
    before = {request: request.num_preemptions for request in scheduler.running}
    output = scheduler.schedule()
    victims = {int(request.request_id) for request, times in before.items() if request.num_preemptions > times}
    if victims:
        run.preemptions.append(({int(request.request_id) for request in before}, victims))
    return output


def _request(index: int, ask: Ask, hasher: Any) -> Request:
    params = SamplingParams(
        max_tokens=ask.num_output_tokens,
        ignore_eos=True,
        extra_args=None if ask.hint is None else {"ssjf_output_tokens": ask.hint},
    )
    params.update_from_generation_config({}, 2)
    return Request(
        request_id=_name(index),
        prompt_token_ids=[ask.token] * ask.num_prompt_tokens,
        sampling_params=params,
        pooling_params=None,
        arrival_time=ask.arrival,
        priority=ask.priority,
        block_hasher=hasher,
    )


def _name(index: int) -> str:
    return f"{index:06d}"  # in order of arrival also as text, by which vLLM breaks ties


def _yields_token(request: Request) -> bool:
    """Whether the step just scheduled reaches the end of what is known of the request."""
    return request.num_computed_tokens >= request.num_tokens
