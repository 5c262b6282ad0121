import json
import random
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import scipy.optimize

from ssjf.core.places.capacity import Slots
from ssjf.core.policies import FCFS, SSJF
from ssjf.core.scheduler import Scheduler
from ssjf.core.service import LinearServiceModel
from ssjf.core.types import Job, Policy, Request
from ssjf.errors import DataError
from ssjf.sim.steps.calibrate import Probe, StreamTiming, _nonnegative_least_squares, concurrencies, fit_step_cost
from ssjf.sim.steps.cost import EngineLimits, StepCostModel, load_cost_model, save_cost_model
from ssjf.sim.steps.engine import serve_steps

TRUTH = StepCostModel(
    base_s=0.004, per_prefill_token_s=0.0002, per_decode_token_s=0.0003, per_kv_token_s=0.0000008, per_request_s=0.002
)
CHUNK = 256
NUM_OUTPUT_TOKENS = 128
LIMITS = EngineLimits(num_kv_blocks=10_000, max_num_batched_tokens=CHUNK)


def engine_probe(
    num_seqs: int,
    sizes: Sequence[tuple[int, int]],
    stagger_s: float = 0.0,
    noise: Callable[[], float] = lambda: 1.0,
) -> Probe:
    """What a client would see of an engine with the true costs; requests reach it one after another."""
    jobs = [
        (Job(Request(request_id=str(i), arrival_time=i * stagger_s, num_prompt_tokens=prompt)), output)
        for i, (prompt, output) in enumerate(sizes)
    ]
    run = serve_steps(jobs, Scheduler(FCFS(), Slots(num_seqs)), cost=TRUTH, limits=LIMITS, service=LinearServiceModel())
    slower = noise()
    found = {
        served.job.request.request_id: StreamTiming(
            num_prompt_tokens=served.job.request.num_prompt_tokens,
            num_output_tokens=sizes[int(served.job.request.request_id)][1],
            sent_at=0.0,
            first_token_at=slower * served.first_token_at,
            finished_at=slower * (served.job.finished_at or 0.0),
        )
        for served in run.served
    }
    return Probe(num_seqs=num_seqs, streams=tuple(found[str(i)] for i in range(len(sizes))))


def probe(**how: Any) -> list[Probe]:
    rng = random.Random(3)
    mixed = [(rng.choice((16, 128, 512)), rng.choice((8, 32, 128, 256))) for _ in range(64)]
    waves = [
        engine_probe(num_seqs, [(num_prompt_tokens + i, NUM_OUTPUT_TOKENS) for i in range(num_seqs)], **how)
        for num_seqs in concurrencies(16)
        for num_prompt_tokens in (16, 128, 512)
        for _ in range(3)
    ]
    return waves + [engine_probe(size, mixed[: 4 * size], **how) for size in concurrencies(16) for _ in range(3)]


def assert_near_the_truth(model: StepCostModel, rel: float) -> None:
    assert model.base_s == pytest.approx(TRUTH.base_s, rel=rel)
    assert model.per_prefill_token_s == pytest.approx(TRUTH.per_prefill_token_s, rel=rel)
    assert model.per_decode_token_s == pytest.approx(TRUTH.per_decode_token_s, rel=rel)
    assert model.per_kv_token_s == pytest.approx(TRUTH.per_kv_token_s, rel=rel)
    assert model.per_request_s == pytest.approx(TRUTH.per_request_s, rel=rel)


def test_an_engines_costs_are_found_from_what_its_clients_see() -> None:
    calibration = fit_step_cost(probe(), max_num_batched_tokens=CHUNK)
    assert_near_the_truth(calibration.model, rel=0.04)
    assert calibration.r_squared > 0.9999
    assert calibration.relative_error(0.9) < 0.005


def test_requests_that_reach_the_engine_one_after_another_do_not_mislead() -> None:
    calibration = fit_step_cost(probe(stagger_s=0.0015), max_num_batched_tokens=CHUNK)
    found, truth = calibration.model, TRUTH
    for num_seqs, kv in ((1, 100), (16, 2000), (16, 10_000)):
        assert found.iteration_s(prefill_tokens=0, decode_tokens=num_seqs, kv_tokens=kv) == pytest.approx(
            truth.iteration_s(prefill_tokens=0, decode_tokens=num_seqs, kv_tokens=kv), rel=0.03
        )


def test_noise_and_outliers_do_not_mislead() -> None:
    rng = random.Random(0)
    calibration = fit_step_cost(
        probe(noise=lambda: 3.0 if rng.random() < 0.1 else rng.lognormvariate(0, 0.02)), max_num_batched_tokens=CHUNK
    )
    for num_seqs, kv in ((1, 100), (8, 2000), (16, 10_000)):
        assert calibration.model.iteration_s(prefill_tokens=0, decode_tokens=num_seqs, kv_tokens=kv) == pytest.approx(
            TRUTH.iteration_s(prefill_tokens=0, decode_tokens=num_seqs, kv_tokens=kv), rel=0.05
        )


def test_waves_come_in_powers_of_two_up_to_the_engines_limit() -> None:
    assert concurrencies(1) == [1]
    assert concurrencies(8) == [1, 2, 4, 8]
    assert concurrencies(12) == [1, 2, 4, 8, 12]


def test_an_answer_that_came_in_one_piece_cannot_be_used() -> None:
    lump = StreamTiming(10, 2, sent_at=0.0, first_token_at=1.0, finished_at=1.0)
    with pytest.raises(DataError, match="did not come as a stream"):
        fit_step_cost([Probe(1, (lump,))], max_num_batched_tokens=CHUNK)


def test_the_nonnegative_solution_is_the_one_that_scipy_finds() -> None:
    rng = np.random.default_rng(0)
    for _ in range(50):
        matrix, target = rng.normal(size=(12, 5)), rng.normal(size=12)
        expected, _ = scipy.optimize.nnls(matrix, target)
        assert _nonnegative_least_squares(matrix, target) == pytest.approx(expected, abs=1e-9)


def test_a_saved_model_comes_back_as_it_was(tmp_path: Path) -> None:
    path = tmp_path / "new" / "cost.json"
    calibration = fit_step_cost(probe(), max_num_batched_tokens=CHUNK)
    save_cost_model(path, calibration.model, calibration.document())
    assert load_cost_model(path) == calibration.model
    document = json.loads(path.read_text())
    assert len(document["calibration"]["residuals"]) == sum(1 if one.mixed else 2 for one in probe())
    path.write_text(json.dumps(document["step_cost_model"]))
    assert load_cost_model(path) == calibration.model


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "is no JSON file"),
        ("[]", "must have exactly the coefficients base_s, per_decode_token_s"),
        ('{"base_s": 1}', "must have exactly the coefficients"),
    ],
)
def test_a_bad_cost_model_file_is_refused_with_a_reason(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "cost.json"
    path.write_text(text)
    with pytest.raises(DataError, match=message):
        load_cost_model(path)


@pytest.mark.parametrize(
    ("base_s", "message"),
    [('"x"', "could not"), ("null", "float"), ("-1", "at least 0"), ("NaN", "finite"), ("0", "not all 0")],
)
def test_a_bad_coefficient_is_refused_with_a_reason(tmp_path: Path, base_s: str, message: str) -> None:
    path = tmp_path / "cost.json"
    others = '"per_prefill_token_s": 0, "per_decode_token_s": 0, "per_kv_token_s": 0, "per_request_s": 0'
    path.write_text(f'{{"base_s": {base_s}, {others}}}')
    with pytest.raises(DataError, match=message):
        load_cost_model(path)


def test_a_missing_cost_model_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"cannot be read: No such file"):
        load_cost_model(tmp_path / "none.json")


def test_a_calibrated_simulation_predicts_mean_completion_times_in_either_order() -> None:
    """The whole chain but for the network: probes of an engine, the fit, and other requests at two loads."""
    noise = random.Random(5)
    probes = probe(stagger_s=0.001, noise=lambda: noise.lognormvariate(0, 0.03))
    calibration = fit_step_cost(probes, max_num_batched_tokens=CHUNK)
    rng = random.Random(8)
    now, requests = 0.0, []
    for index in range(400):
        now += rng.expovariate(14.0)
        requests.append((str(index), now, 4 + int(rng.expovariate(1 / 150)), 2 + int(rng.lognormvariate(3.8, 1.0))))

    def mean_jct_s(cost: StepCostModel, policy: Policy) -> float:
        service = cost.service_model(num_seqs=8, context_tokens=200)
        jobs = [
            (
                Job(
                    Request(request_id=name, arrival_time=at, num_prompt_tokens=prompt), service.seconds(prompt, output)
                ),
                output,
            )
            for name, at, prompt, output in requests
        ]
        run = serve_steps(jobs, Scheduler(policy, Slots(8)), cost=cost, limits=LIMITS, service=service)
        return sum((served.job.finished_at or 0.0) - served.job.request.arrival_time for served in run.served) / 400

    fcfs, sjf = (mean_jct_s(TRUTH, policy) for policy in (FCFS(), SSJF()))
    assert sjf < 0.8 * fcfs, "somebody waits"
    for policy, truth in ((FCFS(), fcfs), (SSJF(), sjf)):
        assert mean_jct_s(calibration.model, policy) == pytest.approx(truth, rel=0.1)
