"""Engines are recognised by what they show; nothing is expected of them."""

import pytest

from ssjf.gateway.backends.dialects import Load, count, recognise
from tests.gateway.backends.pages import serving

VLLM = """# HELP vllm:num_requests_running Number of requests in model execution batches.
# TYPE vllm:num_requests_running gauge
vllm:num_requests_running{engine="0",model_name="m"} 3.0
vllm:num_requests_running{engine="1",model_name="m"} 4.0
vllm:num_requests_waiting{engine="0",model_name="m"} 2.0
vllm:num_requests_waiting{engine="1",model_name="m"} NaN
"""
SGLANG = 'sglang:num_running_reqs{model_name="m"} 5.0\nsglang:num_queue_reqs{model_name="m"} 1.0\n'
LLAMA_CPP = "llamacpp:requests_processing 1\nllamacpp:requests_deferred 6\n"
TGI = "tgi_batch_current_size 8\ntgi_queue_size 9\n"
OURS = "ssjf_engine_num_requests_running 2\nssjf_engine_num_requests_waiting 0\nssjf_engine_max_num_seqs 6\n"


@pytest.mark.parametrize(
    ("pages", "name", "limit", "load", "priority", "any_model"),
    [
        ({"/metrics": VLLM}, "vLLM", None, Load(7, 2), "lower", False),
        ({"/metrics": SGLANG}, "SGLang", None, Load(5, 1), "higher", False),
        (
            {"/metrics": SGLANG, "/get_server_info": '{"max_running_requests": 48}'},
            "SGLang",
            48,
            Load(5, 1),
            "higher",
            False,
        ),
        ({"/get_server_info": '{"max_running_requests": 48}'}, "SGLang", 48, None, "higher", False),
        ({"/metrics": LLAMA_CPP, "/props": '{"total_slots": 4}'}, "llama.cpp", 4, Load(1, 6), None, True),
        ({"/props": '{"total_slots": 4}'}, "llama.cpp", 4, None, None, True),
        ({"/metrics": TGI}, "TGI", None, Load(8, 9), None, True),
        ({"/api/version": '{"version": "0.9"}'}, "Ollama", None, None, None, True),
        ({"/metrics": OURS}, "ssjf engine", 6, Load(2, 0), None, False),
        ({}, "unknown", None, None, None, True),
        ({"/metrics": "python_info 1\n", "/props": "[]"}, "unknown", None, None, None, True),
        ({"/props": '{"total_slots": 0}'}, "llama.cpp", None, None, None, True),
    ],
)
async def test_an_engine_is_known_by_what_it_shows(
    pages: dict[str, str], name: str, limit: int | None, load: Load | None, priority: str | None, any_model: bool
) -> None:
    async with serving(pages) as backend:
        dialect, told = await recognise(backend)
        assert (dialect.name, told, dialect.priority, dialect.any_model) == (name, limit, priority, any_model)
        assert await count(backend, dialect) == load


async def test_of_an_engine_that_is_gone_nothing_is_known() -> None:
    async with serving({"/metrics": VLLM}) as backend:
        dialect, _ = await recognise(backend)
        await backend.close()
        await backend.open()
    await backend.open()
    try:
        assert await count(backend, dialect) is None
        assert (await recognise(backend))[0].name == "unknown"
    finally:
        await backend.close()
