"""The two kinds of host: what a lone request takes, what load means, and what reaches the policy."""

from collections.abc import Sequence

import numpy as np
import pytest

from ssjf.core.policies import FCFS, SSJF
from ssjf.core.service import LinearServiceModel
from ssjf.core.types import Job, Policy
from ssjf.sim.host import Host, LinearHost, StepHost, Trace, mean_context_tokens, simulate
from ssjf.sim.steps.cost import EngineLimits, StepCostModel

STEPS = StepHost(
    slots=4,
    cost=StepCostModel(
        base_s=0.01, per_prefill_token_s=1e-4, per_decode_token_s=5e-4, per_kv_token_s=1e-6, per_request_s=0.002
    ),
    limits=EngineLimits(num_kv_blocks=10_000),
    context_tokens=300,
)
LINEAR = LinearHost(slots=4, service=LinearServiceModel(0.1, 0.001, 0.02))


@pytest.mark.parametrize("host", [LINEAR, STEPS], ids=["linear", "steps"])
def test_a_request_alone_takes_the_seconds_alone(host: Host) -> None:
    trace = Trace(index=[0], arrival_s=[3.0], input_tokens=[120], output_tokens=[50])
    table = simulate(trace, FCFS(), host, label="fcfs")
    assert table.jct_s[0] == pytest.approx(host.alone_s([120], [50])[0], rel=1e-12)


@pytest.mark.parametrize("host", [LINEAR, STEPS], ids=["linear", "steps"])
def test_at_the_saturated_rate_the_host_is_just_busy(host: Host) -> None:
    rng = np.random.default_rng(0)
    inputs, outputs = rng.integers(10, 400, 3000).tolist(), rng.integers(5, 300, 3000).tolist()
    rate = host.saturated_requests_per_s(inputs, outputs)
    trace = Trace(index=range(3000), arrival_s=[0.0] * 3000, input_tokens=inputs, output_tokens=outputs)
    makespan = float(simulate(trace, FCFS(), host, label="fcfs").finish_s.max())
    assert 3000 / makespan == pytest.approx(rate, rel=0.02)


def test_only_the_step_host_knows_first_tokens() -> None:
    trace = Trace(index=[5, 6], arrival_s=[0.0, 0.5], input_tokens=[100, 100], output_tokens=[10, 10])
    assert np.isnan(simulate(trace, FCFS(), LINEAR, label="fcfs").first_token_s).all()
    table = simulate(trace, FCFS(), STEPS, label="fcfs")
    assert (table.arrival_s < table.first_token_s).all()
    assert (table.first_token_s < table.finish_s).all()
    assert table.index.tolist() == [5, 6]


def test_what_the_trace_knows_of_a_request_reaches_the_policy() -> None:
    seen: list[Job] = []

    class Watching:
        static = True

        def key(self, job: Job, now: float) -> float:
            seen.append(job)
            return 0.0

    quantiles = ((0.1, 10.0), (0.9, 90.0))
    trace = Trace(
        index=[0, 1],
        arrival_s=[1.0, 2.0],
        input_tokens=[7, 8],
        output_tokens=[30, 40],
        predicted_tokens=[33.0, 44.0],
        predicted_quantiles=[quantiles, ()],
        tenant=["a", "b"],
        deadline_s=[9.0, None],
    )
    policy: Policy = Watching()
    simulate(trace, policy, LINEAR, label="x")
    first, second = seen
    assert (first.request.tenant, first.request.deadline, second.request.deadline) == ("a", 10.0, None)
    assert first.predicted_service_s == pytest.approx(0.1 + 0.007 + 0.02 * 33)
    assert first.prediction is not None
    assert first.prediction.quantiles == quantiles
    assert [level for level, _ in first.service_quantiles] == [0.1, 0.9]
    assert first.service_quantiles[1][1] == pytest.approx(0.1 + 0.007 + 0.02 * 90)
    assert second.service_quantiles == ()


def test_the_truth_never_reaches_a_policy_that_has_predictions() -> None:
    """Same predictions, other true lengths: while nobody has finished, the order must be the same."""

    def order(output_tokens: Sequence[int]) -> list[int]:
        trace = Trace(
            index=range(4),
            arrival_s=[0.0, 0.0, 0.0, 0.0],
            input_tokens=[1] * 4,
            output_tokens=output_tokens,
            predicted_tokens=[40.0, 10.0, 30.0, 20.0],
        )
        table = simulate(trace, SSJF(), LinearHost(), label="ssjf")
        return np.argsort(table.start_s).tolist()

    assert order([1, 2, 3, 4]) == order([400, 300, 200, 100]) == [1, 3, 2, 0]


def test_the_mean_context_counts_a_prompt_once_for_each_of_its_output_tokens() -> None:
    assert mean_context_tokens([100], [10]) == 105
    assert mean_context_tokens([100, 0], [10, 10]) == pytest.approx((105 + 6) / 2)
