import random

import pytest

from ssjf.core.service import LinearServiceModel
from ssjf.sim.steps.cost import EngineLimits, StepCostModel
from ssjf.sim.steps.load import saturated_requests_per_s

COST = StepCostModel(
    base_s=0.008, per_prefill_token_s=6e-5, per_decode_token_s=6e-5, per_kv_token_s=1.5e-7, per_request_s=0.003
)


def test_an_iteration_takes_the_sum_of_its_parts() -> None:
    cost = StepCostModel(base_s=1.0, per_prefill_token_s=0.1, per_decode_token_s=0.01, per_kv_token_s=0.001)
    assert cost.iteration_s(prefill_tokens=2, decode_tokens=3, kv_tokens=4) == pytest.approx(1.234)


def test_service_seconds_are_slot_seconds_so_that_both_definitions_of_load_agree() -> None:
    rng = random.Random(0)
    lengths = [(1 + int(rng.expovariate(1 / 500)), 1 + int(rng.expovariate(1 / 177))) for _ in range(4000)]
    slots = 32
    # a running sequence has its prompt, and half its output on average; long ones run longer
    context = sum((p + n / 2) * n for p, n in lengths) / sum(n for _, n in lengths)
    service = COST.service_model(num_seqs=slots, context_tokens=context)
    mean_service_s = sum(service.seconds(p, n) for p, n in lengths) / len(lengths)
    throughput = saturated_requests_per_s(
        lengths, max_num_seqs=slots, cost=COST, limits=EngineLimits(num_kv_blocks=10**6)
    )
    assert mean_service_s / slots == pytest.approx(1 / throughput, rel=0.02)


def test_a_prompt_holds_up_all_slots_and_an_output_token_its_own() -> None:
    cost = StepCostModel(
        base_s=1.0, per_prefill_token_s=0.1, per_decode_token_s=0.01, per_kv_token_s=0.001, per_request_s=3.0
    )
    expected = LinearServiceModel(base_s=6.0, per_input_token_s=0.2, per_output_token_s=1.0 + 2 * (0.01 + 0.1))
    assert cost.service_model(num_seqs=2, context_tokens=100) == expected


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"num_kv_blocks": 0}, "at least 1"),
        ({"num_kv_blocks": 1, "block_size": 0}, "at least 1"),
        ({"num_kv_blocks": 1, "max_num_batched_tokens": 0}, "at least 1"),
        ({"num_kv_blocks": 1, "prefix_hit_fraction": 1.5}, "from 0 to 1"),
        ({"num_kv_blocks": 1, "prefix_lifetime_s": float("nan")}, "at least 0"),
    ],
)
def test_an_engine_that_could_do_nothing_is_refused(given: dict[str, float], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        EngineLimits(**given)  # type: ignore[arg-type]


def test_the_last_prompt_token_is_always_computed() -> None:
    limits = EngineLimits(num_kv_blocks=1, prefix_hit_fraction=1.0)
    assert [limits.cached_tokens(num_prompt_tokens) for num_prompt_tokens in (1, 10)] == [0, 9]
