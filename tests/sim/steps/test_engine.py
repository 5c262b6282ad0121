import copy
import random
from dataclasses import replace
from typing import Any, ClassVar

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from ssjf.core.places.batching import Static
from ssjf.core.places.capacity import Slots
from ssjf.core.policies import FCFS, HRRN, PSJF, SRPT, SSJF, AgedSSJF, Auto
from ssjf.core.scheduler import Scheduler
from ssjf.core.service import LinearServiceModel
from ssjf.core.types import Job, Policy, Request
from ssjf.errors import DataError
from ssjf.sim.steps.cost import EngineLimits, StepCostModel, seconds_alone
from ssjf.sim.steps.engine import StepRun, serve_steps
from ssjf.sim.steps.load import saturated_requests_per_s
from tests.sim.steps.step_reference import run_reference

COST = StepCostModel(base_s=0.0083, per_prefill_token_s=0.00011, per_decode_token_s=0.00023, per_kv_token_s=0.0000017)
# powers of two: sums are exact, arrivals fall exactly on boundaries, and closed form and loop agree to the bit
DYADIC = StepCostModel(
    base_s=0.5, per_prefill_token_s=0.25, per_decode_token_s=0.125, per_kv_token_s=0.0625, per_request_s=2.0
)
AMPLE = EngineLimits(num_kv_blocks=10_000)
SERVICE = LinearServiceModel(base_s=0.0, per_input_token_s=0.01, per_output_token_s=0.02)
POLICIES: list[Policy] = [FCFS(), SSJF(), AgedSSJF(rate=0.05), HRRN(), PSJF(), SRPT()]


def job(name: str, *, arrival: float = 0.0, prompt: int = 10, service: float = 1.0, tier: int = 0) -> Job:
    return Job(Request(request_id=name, arrival_time=arrival, num_prompt_tokens=prompt, tier=tier), service)


def serve(jobs: list[tuple[Job, int]], policy: Policy | None = None, *, slots: int = 4, **given: Any) -> StepRun:
    max_wait_s = given.pop("max_wait_s", None)
    settings = {"cost": COST, "limits": AMPLE, "service": SERVICE} | given
    return serve_steps(jobs, Scheduler(policy or FCFS(), Slots(slots), max_wait_s=max_wait_s), **settings)


def iteration(prefill: int, decode: int, kv: int) -> float:
    return COST.iteration_s(prefill_tokens=prefill, decode_tokens=decode, kv_tokens=kv)


def test_a_lone_request_gets_its_first_token_with_its_prompt_and_one_per_iteration_after_it() -> None:
    run = serve([(job("a", arrival=3.0, prompt=10), 3)])
    first = 3.0 + iteration(10, 0, 10)
    (served,) = run.served
    assert served.job.started_at == 3.0
    assert served.first_token_at == pytest.approx(first, rel=1e-12)
    assert served.job.finished_at == pytest.approx(first + iteration(0, 1, 11) + iteration(0, 1, 12), rel=1e-12)
    assert run.num_iterations == 3
    assert run.contended_iterations == 0


def test_a_request_that_arrives_during_an_iteration_starts_at_its_end() -> None:
    run = serve([(job("a", prompt=10), 2), (job("b", arrival=0.001, prompt=20), 1)])
    boundary = iteration(10, 0, 10)
    assert run.served[1].job.started_at == pytest.approx(boundary, rel=1e-12)
    assert run.served[1].first_token_at == pytest.approx(boundary + iteration(20, 1, 11 + 20), rel=1e-12)


class Noting(Auto):
    """Notes what it is told, in that order."""

    heard: ClassVar[list[str]] = []

    def arrived(self, job: Job) -> None:
        self.heard.append(f"{job.request.request_id} comes")
        super().arrived(job)

    def finished(self, job: Job, service_s: float) -> None:
        self.heard.append(f"{job.request.request_id} ends")
        super().finished(job, service_s)


def test_a_policy_that_learns_hears_of_arrivals_before_what_ends_after_them() -> None:
    Noting.heard.clear()
    serve([(job("a"), 50), (job("b", arrival=0.1), 2), (job("c", arrival=0.12), 2)], Noting(), slots=1)
    assert Noting.heard == ["a comes", "b comes", "c comes", "a ends", "b ends", "c ends"]


def test_a_long_prompt_is_prefilled_in_chunks_while_others_decode() -> None:
    limits = EngineLimits(num_kv_blocks=100, max_num_batched_tokens=8)
    run = serve([(job("a", prompt=1), 9), (job("b", prompt=21), 1)], slots=2, limits=limits)
    # 1 + 7 tokens, then 7 beside one decoding sequence, then 7
    assert run.served[0].job.request.request_id == "b"
    assert run.served[0].first_token_at == pytest.approx(
        iteration(8, 0, 8) + iteration(7, 1, 16) + iteration(7, 1, 24), rel=1e-12
    )


def test_what_the_prefix_cache_has_costs_no_prefill_but_memory() -> None:
    limits = EngineLimits(num_kv_blocks=100, prefix_hit_fraction=0.5)
    assert serve([(job("a", prompt=10), 1)], limits=limits).served[0].first_token_at == iteration(5, 0, 10)


def test_a_prefix_is_lost_on_those_that_are_let_in_too_late() -> None:
    limits = EngineLimits(num_kv_blocks=100, prefix_hit_fraction=0.5, prefix_lifetime_s=0.0)
    run = serve([(job("a", prompt=10), 1), (job("b", prompt=10), 1)], slots=1, limits=limits)
    first = iteration(5, 0, 10)
    assert run.served[1].first_token_at == pytest.approx(first + iteration(10, 0, 10), rel=1e-12)


def test_when_memory_runs_out_the_one_served_last_is_thrown_out_and_prefills_all_it_had_again() -> None:
    limits = EngineLimits(num_kv_blocks=4, block_size=4)
    run = serve([(job("a", prompt=4), 9), (job("b", prompt=4), 9)], limits=limits)
    a, b = run.served
    # both hold two blocks until they have 8 tokens; b goes, and comes back when a has ended
    both_full = iteration(8, 0, 8) + sum(iteration(0, 2, kv) for kv in (10, 12, 14, 16))
    alone = sum(iteration(0, 1, kv) for kv in (9, 10, 11, 12))
    assert a.job.request.request_id == "a"
    assert (a.num_preemptions, b.num_preemptions) == (0, 1)
    assert a.job.finished_at == pytest.approx(both_full + alone, rel=1e-12)
    assert run.num_recomputed_tokens == 8
    # 4 prompt tokens and 5 generated ones are prefilled, which yields the sixth; three are left
    again = iteration(9, 0, 9) + sum(iteration(0, 1, kv) for kv in (10, 11, 12))
    assert b.job.finished_at == pytest.approx(both_full + alone + again, rel=1e-12)
    assert b.first_token_at == iteration(8, 0, 8)
    assert b.job.started_at == 0.0


def test_the_head_of_the_queue_is_not_passed_by_one_that_would_fit() -> None:
    limits = EngineLimits(num_kv_blocks=4, block_size=4)
    jobs = [(job("a", prompt=8), 5), (job("b", prompt=12), 1), (job("c", prompt=1), 1)]
    assert [s.job.request.request_id for s in serve(jobs, limits=limits).served] == ["a", "b", "c"]


def test_a_preemptive_policy_gives_a_slot_to_the_shorter_job() -> None:
    jobs = [(job("long", service=9.0), 100), (job("short", arrival=0.1, service=1.0), 2)]
    run = serve(jobs, PSJF(), slots=1)
    assert [(s.job.request.request_id, s.num_preemptions) for s in run.served] == [("short", 0), ("long", 1)]
    assert run.num_recomputed_tokens > 10


def test_a_preemptive_policy_makes_room_in_memory() -> None:
    limits = EngineLimits(num_kv_blocks=4, block_size=4)
    jobs = [(job("long", prompt=8, service=9.0), 9), (job("short", arrival=0.001, prompt=16, service=1.0), 1)]
    assert [s.job.request.request_id for s in serve(jobs, PSJF(), limits=limits).served] == ["short", "long"]


def test_nobody_is_thrown_out_for_a_head_that_would_not_fit_even_so() -> None:
    limits = EngineLimits(num_kv_blocks=4, block_size=4)
    jobs = [
        (job("shortest", prompt=4, service=0.5), 5),
        (job("long", prompt=4, service=9.0), 5),
        (job("short", arrival=0.001, prompt=12, service=1.0), 1),
    ]
    assert all(s.num_preemptions == 0 for s in serve(jobs, PSJF(), limits=limits).served)


def test_lengths_of_zero_count_as_one() -> None:
    assert serve([(job("a", prompt=0), 0)]).served[0].job.finished_at == iteration(1, 0, 1)


def test_a_request_that_can_never_fit_is_refused() -> None:
    with pytest.raises(DataError, match="need 5 KV blocks, and the engine has 4"):
        serve([(job("a", prompt=60), 6)], limits=EngineLimits(num_kv_blocks=4))


def test_jobs_out_of_order_are_refused() -> None:
    with pytest.raises(ValueError, match=r"order of arrival: 1.0 after 2.0"):
        serve([(job("a", arrival=2.0), 1), (job("b", arrival=1.0), 1)])


def test_static_batches_have_no_iterations_of_their_own() -> None:
    with pytest.raises(ValueError, match="batches continuously"):
        serve_steps([], Scheduler(FCFS(), Slots(2), batching=Static()), cost=COST, limits=AMPLE, service=SERVICE)


def test_each_slot_needs_a_token_per_iteration() -> None:
    with pytest.raises(ValueError, match="max_num_batched_tokens = 3 must be at least max_num_seqs = 4"):
        serve([], limits=EngineLimits(num_kv_blocks=1, max_num_batched_tokens=3))


def test_nothing_happens_without_jobs() -> None:
    assert serve([]) == StepRun()


@pytest.mark.parametrize(("fraction", "chunk"), [(0.0, 2048), (0.3, 2048), (0.0, 7), (0.4, 10)])
@pytest.mark.parametrize("output", [1, 2, 50])
def test_seconds_alone_are_those_of_a_lone_request(fraction: float, chunk: int, output: int) -> None:
    limits = EngineLimits(num_kv_blocks=100, max_num_batched_tokens=chunk, prefix_hit_fraction=fraction)
    cost = replace(COST, per_request_s=0.02)
    (served,) = serve([(job("a", prompt=100), output)], cost=cost, limits=limits).served
    assert served.job.finished_at == pytest.approx(seconds_alone(100, output, cost, limits), rel=1e-12)


def test_saturated_throughput_is_that_of_full_batches() -> None:
    """Of equal requests, with prefill at no cost: `slots` requests in `output` iterations, at the mean context."""
    cost = StepCostModel(base_s=0.01, per_prefill_token_s=0.0, per_decode_token_s=0.001, per_kv_token_s=0.0)
    found = saturated_requests_per_s([(10, 50)] * 2000, max_num_seqs=8, cost=cost, limits=AMPLE)
    # 49 iterations with 8 decoding, and one with 8 prompts
    assert found == pytest.approx(8 / (50 * 0.01 + 49 * 8 * 0.001), rel=1e-3)


def test_more_requests_than_slots_are_needed_to_saturate() -> None:
    with pytest.raises(ValueError, match="cannot saturate 8 slots"):
        saturated_requests_per_s([(10, 50)] * 8, max_num_seqs=8, cost=COST, limits=AMPLE)


LIMITS = st.builds(
    EngineLimits,
    block_size=st.integers(1, 6),
    num_kv_blocks=st.integers(14, 90),
    max_num_batched_tokens=st.integers(6, 50),
    prefix_hit_fraction=st.sampled_from([0.0, 0.35, 1.0]),
    prefix_lifetime_s=st.sampled_from([0.2, 1e9]),
)

SIZES = st.tuples(
    st.floats(0, 1.5).map(lambda x: x * x),  # seconds after the previous arrival
    st.integers(0, 40),  # prompt tokens
    st.integers(1, 40),  # output tokens
    st.floats(0.1, 2.0),  # predicted over true service
    st.integers(0, 8).map(lambda x: x // 8),  # tier
)


def check_against_the_plain_loop(
    sizes: list[tuple[float, int, int, float, int]],
    policy: Policy,
    *,
    slots: int,
    limits: EngineLimits,
    max_wait_s: float | None,
    dyadic: bool,
    speed: float,
) -> None:
    cost = DYADIC if dyadic else replace(COST, per_request_s=0.0037)
    jobs, arrival = [], 0.0
    for index, (gap, prompt, output, error, tier) in enumerate(sizes):
        arrival += (round(gap * 64) / 8) if dyadic else gap / speed
        predicted = error * SERVICE.seconds(prompt, output)
        jobs.append((job(str(index), arrival=arrival, prompt=prompt, service=predicted, tier=tier), output))
    expected = run_reference(
        copy.deepcopy(jobs),
        policy,
        max_num_seqs=slots,
        max_wait_s=max_wait_s,
        cost=cost,
        limits=limits,
        service=SERVICE,
    )
    run = serve(jobs, policy, slots=slots, max_wait_s=max_wait_s, cost=cost, limits=limits)

    by_id = {served.job.request.request_id: served for served in run.served}
    assert len(by_id) == len(run.served) == len(jobs)
    tolerance = 0 if dyadic else 1e-9
    for seq in expected.seqs:
        served = by_id[seq.job.request.request_id]
        found = (served.job.started_at, served.first_token_at, served.job.finished_at)
        assert found == pytest.approx((seq.started, seq.first, seq.finished), rel=tolerance, abs=0)
        assert served.num_preemptions == seq.preemptions
    assert run.num_iterations == expected.iterations
    assert run.num_recomputed_tokens == expected.recomputed
    assert run.contended_iterations == expected.contended_iterations
    assert run.contended_output_tokens == expected.contended_tokens
    assert run.contended_s == pytest.approx(expected.contended_s, rel=1e-9)


@settings(max_examples=300)
@given(
    sizes=st.lists(SIZES, min_size=1, max_size=25),
    policy=st.sampled_from(POLICIES),
    slots=st.integers(1, 6),
    limits=LIMITS,
    max_wait_s=st.sampled_from([None, None, 0.4]),
    dyadic=st.booleans(),
    speed=st.sampled_from([0.3, 1.0, 10.0]),
)
def test_fast_forward_agrees_with_the_plain_loop(
    sizes: list[tuple[float, int, int, float, int]], limits: EngineLimits, **given: Any
) -> None:
    longest = max(max(prompt, 1) + output - 1 for _, prompt, output, _, _ in sizes)
    assume(longest <= limits.num_kv_blocks * limits.block_size)
    check_against_the_plain_loop(sizes, limits=limits, **given)


@pytest.mark.parametrize("policy", [FCFS(), SSJF(), PSJF(), SRPT()], ids=lambda policy: type(policy).__name__)
def test_they_agree_where_memory_is_short_and_many_are_thrown_out(policy: Policy) -> None:
    rng = random.Random(1)
    for _ in range(40):
        limits = EngineLimits(
            block_size=rng.randint(1, 3),
            num_kv_blocks=rng.randint(60, 90),
            max_num_batched_tokens=rng.randint(20, 30),
            prefix_hit_fraction=rng.choice([0.0, 0.3]),
        )
        sizes = [
            (rng.random(), rng.randint(0, 20), int(1 + 39 * rng.random() ** 2), rng.uniform(0.3, 2.0), index % 5 // 4)
            for index in range(rng.randint(10, 40))
        ]
        options = {"slots": rng.randint(2, 20), "max_wait_s": rng.choice([None, 1.0]), "dyadic": False, "speed": 12.0}
        check_against_the_plain_loop(sizes, policy, limits=limits, **options)
