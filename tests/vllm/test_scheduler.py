"""vLLM's scheduler under our class serves in the order of our simulator, and pays for it with nothing else."""

import random
import re
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from vllm.v1.request import RequestStatus

from ssjf.core.places.capacity import Slots
from ssjf.core.scheduler import Scheduler
from ssjf.core.service import LinearServiceModel
from ssjf.core.types import Job, Prediction, Request
from ssjf.errors import ConfigError, UserError
from ssjf.integrations.vllm import SSJFScheduler
from ssjf.integrations.vllm.tokens import as_words
from ssjf.plugins import make_policy
from ssjf.sim.steps.cost import EngineLimits, StepCostModel
from ssjf.sim.steps.engine import serve_steps
from tests.vllm.bench import BLOCK_SIZE, Ask, Run, make_scheduler, serve

SERVICE = LinearServiceModel(base_s=0.0, per_input_token_s=0.0, per_output_token_s=1.0)  # a step a token
ONE_SECOND_A_STEP = StepCostModel(base_s=1.0, per_prefill_token_s=0, per_decode_token_s=0, per_kv_token_s=0)

Configure = Callable[..., None]


@pytest.fixture
def configure(monkeypatch: pytest.MonkeyPatch) -> Configure:
    """Settings of the scheduler class: hints are trusted, caps are not, a token takes a second; and what is given."""

    def setenv(policy: str, **settings: object) -> None:
        known = {"accept_hints": "true", "ignore_max_tokens": "true"}
        known |= {"seconds_per_token": "1", "seconds_per_input_token": "0"}
        for name, value in {"policy": policy, **known, **settings}.items():
            monkeypatch.setenv(f"SSJF_VLLM_{name.upper()}", str(value))

    return setenv


def _asks(count: int, *, mean_gap: float, seed: int = 0, max_prompt: int = 60, noise: float = 0.6) -> list[Ask]:
    """Requests with lognormal lengths and hints that are off by a lognormal factor, at random times."""
    rng = random.Random(seed)
    arrival, asks = 0.0, []
    for _ in range(count):
        arrival += rng.expovariate(1 / mean_gap)
        tokens = min(600, max(2, round(rng.lognormvariate(3.5, 1))))
        hint = round(min(600.0, tokens * rng.lognormvariate(0, noise)), 3)
        asks.append(Ask(arrival, rng.randint(1, max_prompt), tokens, hint, rng.randrange(5)))
    return asks


def _simulate(asks: list[Ask], policy: str, *, max_num_seqs: int, num_blocks: int, max_num_batched_tokens: int) -> Run:
    jobs = []
    for index, ask in enumerate(asks):
        request = Request(request_id=str(index), num_prompt_tokens=ask.num_prompt_tokens, arrival_time=ask.arrival)
        assert ask.hint is not None
        jobs.append((Job(request, SERVICE.seconds(0, ask.hint)), ask.num_output_tokens))
    run = serve_steps(
        jobs,
        Scheduler(make_policy(policy), Slots(max_num_seqs)),
        cost=ONE_SECOND_A_STEP,
        limits=EngineLimits(
            num_kv_blocks=num_blocks, block_size=BLOCK_SIZE, max_num_batched_tokens=max_num_batched_tokens
        ),
        service=SERVICE,
    )
    result = Run(num_steps=run.num_iterations)
    for served in run.served:
        index = int(served.job.request.request_id)
        assert served.job.started_at is not None
        assert served.job.finished_at is not None
        result.start[index] = served.job.started_at
        result.first_token[index] = served.first_token_at
        result.finish[index] = served.job.finished_at
    result.started = sorted(result.start, key=lambda index: (result.start[index], index))
    return result


STATIC = ["fcfs", "ssjf", "aged-ssjf:rate=0.2"]
POLICIES = [*STATIC, "auto"]


def _same(real: Run, simulated: Run) -> None:
    assert real.start == simulated.start
    assert real.first_token == simulated.first_token
    assert real.finish == simulated.finish


@pytest.mark.parametrize("policy", POLICIES)
@pytest.mark.parametrize("prefix_caching", [False, True], ids=["uncached", "cached"])
@pytest.mark.parametrize("chunked_prefill", [False, True], ids=["whole", "chunked"])
def test_every_step_is_as_in_the_simulator(
    tmp_path: Path, configure: Configure, policy: str, prefix_caching: bool, chunked_prefill: bool
) -> None:
    asks = _asks(150, mean_gap=12)
    configure(policy)
    limits: dict[str, Any] = {"max_num_seqs": 4, "max_num_batched_tokens": 4096}
    scheduler = make_scheduler(
        tmp_path, SSJFScheduler, prefix_caching=prefix_caching, chunked_prefill=chunked_prefill, **limits
    )
    real = serve(scheduler, asks)
    _same(real, _simulate(asks, policy, num_blocks=9_999, **limits))
    assert any(real.start[i] > asks[i].arrival + 20 for i in real.start), "nobody had to wait: the test shows nothing"


@pytest.mark.parametrize("policy", POLICIES)
def test_every_step_is_as_in_the_simulator_when_prompts_take_several(
    tmp_path: Path, configure: Configure, policy: str
) -> None:
    asks = _asks(120, mean_gap=20, max_prompt=400)
    configure(policy)
    limits: dict[str, Any] = {"max_num_seqs": 4, "max_num_batched_tokens": 64}
    real = serve(make_scheduler(tmp_path, SSJFScheduler, max_model_len=1024, **limits), asks)
    _same(real, _simulate(asks, policy, num_blocks=9_999, **limits))


# not auto: while memory is short the simulator asks who is next at each event, vLLM at each step
@pytest.mark.parametrize("policy", STATIC)
def test_every_step_is_as_in_the_simulator_when_memory_runs_out(
    tmp_path: Path, configure: Configure, policy: str
) -> None:
    asks = _asks(120, mean_gap=8)
    configure(policy)
    limits: dict[str, Any] = {"max_num_seqs": 8, "max_num_batched_tokens": 4096}
    real = serve(make_scheduler(tmp_path, SSJFScheduler, num_blocks=61, **limits), asks)
    assert real.preemptions
    _same(real, _simulate(asks, policy, num_blocks=60, **limits))  # vLLM keeps one block for itself


@pytest.mark.parametrize("policy", ["ssjf", "aged-ssjf:rate=0.2", "auto"])
def test_who_is_thrown_out_is_who_has_the_worst_key(tmp_path: Path, configure: Configure, policy: str) -> None:
    asks = _asks(120, mean_gap=8, seed=1)
    configure(policy)
    scheduler = make_scheduler(tmp_path, SSJFScheduler, max_num_seqs=8, num_blocks=61)
    keys: dict[int, tuple[float, float]] = {}
    place = scheduler._placer.place

    def noting(request: Request, prediction: Prediction) -> int:
        priority: int = place(request, prediction)
        job = scheduler._placer.job(request.request_id)
        keys[int(request.request_id)] = scheduler._placer._policy.key(job, request.arrival_time), request.arrival_time
        return priority

    scheduler._placer.place = noting
    run = serve(scheduler, asks)
    assert len(run.preemptions) > 5
    assert any(victims != {max(running)} for running, victims in run.preemptions), "always the latest, as in FCFS"
    for running, victims in run.preemptions:
        assert victims == set(sorted(running, key=keys.__getitem__)[-len(victims) :])
    assert sorted(run.finish) == list(range(len(asks)))


@pytest.mark.parametrize("policy", ["ssjf", "auto"])
def test_who_was_thrown_out_and_comes_back_has_started_once(tmp_path: Path, configure: Configure, policy: str) -> None:
    asks = _asks(120, mean_gap=8, seed=1)
    configure(policy)
    prefills: list[dict[str, float | None]] = []
    for new_again in (False, True):  # as vLLM's second model runner has those who come back
        scheduler = make_scheduler(tmp_path, SSJFScheduler, max_num_seqs=8, num_blocks=61)
        scheduler.use_v2_model_runner = new_again
        told: dict[str, float | None] = {}
        finished = scheduler._placer.finished

        def noting(
            request_id: str, now: float, *, prefill_s: float | None, finished: Any, told: Any, **rest: Any
        ) -> Any:
            told[request_id] = prefill_s
            return finished(request_id, now, prefill_s=prefill_s, **rest)

        scheduler._placer.finished = partial(noting, finished=finished, told=told)
        run = serve(scheduler, asks)
        assert len(run.preemptions) > 5
        assert new_again == (len(run.started) > len(asks))
        prefills.append(told)
    assert prefills[0] == prefills[1]


@pytest.mark.parametrize(
    ("status", "learned"), [("FINISHED_REPETITION", 1), ("FINISHED_STOPPED", 1), ("FINISHED_ABORTED", 0)]
)
def test_what_ends_by_itself_is_learned_and_what_is_aborted_is_not(
    tmp_path: Path, configure: Configure, status: str, learned: int
) -> None:
    configure("ssjf")
    scheduler = make_scheduler(tmp_path, SSJFScheduler, max_num_seqs=1)
    serve(scheduler, _crowd()[:1], ends=[(5.0, 0, RequestStatus[status])])
    scheduler.schedule()
    assert scheduler._num_finished == learned
    assert not scheduler._placed


def test_shortest_first_gains_and_makes_the_engine_no_slower(tmp_path: Path, configure: Configure) -> None:
    asks = _asks(300, mean_gap=14, seed=2)

    def mean_jct(run: Run) -> float:
        return sum(run.finish[i] - asks[i].arrival for i in range(len(asks))) / len(asks)

    plain = serve(make_scheduler(tmp_path, max_num_seqs=4), asks)
    configure("ssjf")
    ours = serve(make_scheduler(tmp_path, SSJFScheduler, max_num_seqs=4), asks)
    assert mean_jct(ours) < 0.8 * mean_jct(plain)
    rates = [run.contended_tokens / run.contended_steps for run in (ours, plain)]
    assert rates[0] == pytest.approx(rates[1], rel=0.02)


def test_fcfs_is_what_vllm_does_without_us(tmp_path: Path, configure: Configure) -> None:
    asks = _asks(150, mean_gap=12, seed=3)
    plain = serve(make_scheduler(tmp_path, max_num_seqs=4), asks)
    configure("fcfs")
    ours = serve(make_scheduler(tmp_path, SSJFScheduler, max_num_seqs=4), asks)
    assert (ours.start, ours.finish, ours.num_steps) == (plain.start, plain.finish, plain.num_steps)


def test_the_log_tells_now_and_then_how_good_predictions_are(
    tmp_path: Path, configure: Configure, caplog: pytest.LogCaptureFixture
) -> None:
    configure("auto")
    with caplog.at_level("INFO", "vllm.ssjf"):
        serve(make_scheduler(tmp_path, SSJFScheduler, max_num_seqs=4), _asks(520, mean_gap=14, noise=0.1))
    (told,) = [record.getMessage() for record in caplog.records if record.name == "vllm.ssjf"]
    found = re.match(r"500 requests finished; .* put (\d+) % .*policy \{'trust': 1.0", told)
    assert found is not None, told
    assert int(found[1]) > 85


def _crowd(**marks: Any) -> list[Ask]:
    """A long request that keeps the only slot, then ten that wait; mark = (index, value) pairs of further fields."""
    asks = [Ask(0.0, 10, 50)] + [Ask(1.0 + index / 100, 10, 20, hint=20) for index in range(10)]
    for name, pairs in marks.items():
        for index, value in pairs:
            asks[index] = replace(asks[index], **{name: value})
    return asks


def _order(tmp_path: Path, asks: list[Ask]) -> list[int]:
    return serve(make_scheduler(tmp_path, SSJFScheduler, max_num_seqs=1), asks).started


def test_what_clients_give_counts_for_nothing_unless_it_is_allowed(tmp_path: Path, configure: Configure) -> None:
    asks = _crowd(hint=[(10, 1.0)], priority=[(9, -5)])
    configure("ssjf", accept_hints="false")
    assert _order(tmp_path, asks) == list(range(11))
    configure("ssjf", accept_hints="true")
    assert _order(tmp_path, asks)[:2] == [0, 10]
    configure("ssjf", accept_hints="true", accept_tiers="true")
    assert _order(tmp_path, asks)[:3] == [0, 9, 10]


@pytest.mark.parametrize("nonsense", ["many", float("nan"), float("inf"), -1.0, None])
def test_a_hint_that_is_no_length_is_no_hint(tmp_path: Path, configure: Configure, nonsense: Any) -> None:
    configure("ssjf")
    assert sorted(_order(tmp_path, _crowd(hint=[(10, nonsense)]))) == list(range(11))


def test_the_front_door_can_send_its_prediction_as_the_priority(tmp_path: Path, configure: Configure) -> None:
    lengths = [30, 7, 90, 12, 55, 3, 41, 22, 60, 18]
    asks = _crowd(priority=list(enumerate(lengths, start=1)))
    configure("ssjf", accept_hints="false", tokens_in_priority="true")
    assert _order(tmp_path, asks) == [0, *sorted(range(1, 11), key=lambda index: lengths[index - 1])]


def test_it_learns_from_token_ids_who_is_short(tmp_path: Path, configure: Configure) -> None:
    rng = random.Random(4)
    arrival, asks = 0.0, []
    for _ in range(200):
        arrival += rng.expovariate(1 / 60)
        token, length = rng.choice([(10, 5), (20, 100)])
        asks.append(Ask(arrival, rng.randint(5, 50), length, token=token))
    configure("ssjf", accept_hints="false")
    scheduler = make_scheduler(tmp_path, SSJFScheduler, max_num_seqs=1)
    serve(scheduler, asks)
    short, long = (
        scheduler._predictor.predict(Request(request_id="", prompt=as_words([token] * 20), arrival_time=0.0))
        for token in (10, 20)
    )
    assert 2 * short.num_output_tokens < long.num_output_tokens


@pytest.mark.parametrize("policy", ["auto", "auto-static", "gittins", "boost"])
def test_every_policy_that_can_be_put_as_a_number_serves_everybody(
    tmp_path: Path, configure: Configure, policy: str
) -> None:
    asks = _asks(150, mean_gap=12, seed=5)
    configure(policy)
    run = serve(make_scheduler(tmp_path, SSJFScheduler, max_num_seqs=4), asks)
    assert sorted(run.finish) == list(range(len(asks)))


@pytest.mark.parametrize("policy", ["auto-static", "auto"])
def test_nothing_is_kept_of_requests_that_have_ended_or_were_aborted(
    tmp_path: Path, configure: Configure, policy: str
) -> None:
    asks = _crowd()
    configure(policy)
    scheduler = make_scheduler(tmp_path, SSJFScheduler, max_num_seqs=1)
    aborts = [(5.0, 0), (5.0, 7), (6.0, 1)]  # running, waiting, just entered
    run = serve(scheduler, asks, ends=[(at, index, RequestStatus.FINISHED_ABORTED) for at, index in aborts])
    assert sorted(run.finish) == [2, 3, 4, 5, 6, 8, 9, 10]
    scheduler.schedule()  # by which the engine tells that nobody is left
    kept = scheduler._placed, scheduler._prefilling, scheduler._prefill_s, scheduler._placer._live
    assert not any(kept)
    assert not scheduler.waiting
    assert policy == "auto-static" or not (scheduler.waiting._requests or scheduler.waiting._taken)


@pytest.mark.parametrize(
    ("settings", "complaint"),
    [
        ({"policy": "hrrn"}, "keys that move"),
        ({"policy": "psjf"}, "takes slots from running"),
        ({"policy": "ssfj"}, "did you mean 'ssjf'"),
        ({"policy": "ssjf", "seconds_per_tokn": "1"}, "did you mean 'SSJF_VLLM_SECONDS_PER_TOKEN'"),
    ],
)
def test_a_start_that_cannot_work_is_one_clear_error(
    tmp_path: Path, configure: Configure, settings: dict[str, str], complaint: str
) -> None:
    configure(**settings)
    with pytest.raises(UserError, match=complaint):
        make_scheduler(tmp_path, SSJFScheduler, max_num_seqs=1)


def test_another_version_of_vllm_is_refused_unless_it_is_allowed(
    tmp_path: Path, configure: Configure, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("vllm.version.__version__", "0.99.1")
    configure("ssjf")
    with pytest.raises(ConfigError, match=r"vLLM 0\.99\.1 is not supported"):
        make_scheduler(tmp_path, SSJFScheduler, max_num_seqs=1)
    configure("ssjf", any_version="true")
    make_scheduler(tmp_path, SSJFScheduler, max_num_seqs=1)


def test_a_vllm_that_has_moved_what_we_rely_on_is_refused_by_name(
    tmp_path: Path, configure: Configure, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delattr("vllm.v1.core.sched.request_queue.SchedulingPolicy")
    configure("ssjf")
    with pytest.raises(ConfigError, match=r"lacks what ssjf relies on: SchedulingPolicy\.PRIORITY"):
        make_scheduler(tmp_path, SSJFScheduler, max_num_seqs=1)
