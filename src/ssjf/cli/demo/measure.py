"""The measurement of the demonstration: which requests are sent to which server in which order.

One engine serves everything. Before it stands one gateway for each policy, used in turn: every policy meets the same
engine in the same state, and nothing is loaded between two runs; a gateway that is not asked costs nothing.

A first pass, closed-loop, records how long the answer to every prompt is, which is what the oracle knows, and how fast
the server is, from which the arrival times follow. All policies get the same prompts at the same times.

The comparison is repeated, the second time in the opposite order of policies. A wait in an overload is a small
difference of large numbers: with a server 3 % slower in one run than in another, mean waits differ by 10 %. What
changes steadily on a machine meets each policy alike in the two orders. Every repetition has gateways of its own, as
predictors learn from what they serve.

This module does not know how results are shown.
"""

import contextlib
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal

from ssjf.cli.demo.processes import running_server
from ssjf.errors import BackendError
from ssjf.loadgen.client import COMPLETED, Endpoint, first_model
from ssjf.loadgen.plan import PlannedRequest
from ssjf.loadgen.sender import Run, send_closed_loop, send_open_loop
from ssjf.metrics.records import JobRecord
from ssjf.metrics.summary import tokens_per_second_while_waiting
from ssjf.metrics.table import JobTable
from ssjf.predict.artefact import save_predictor
from ssjf.predict.training import Sample, fit
from ssjf.workload.arrivals import parse_arrivals
from ssjf.workload.instructions import generate

Part = Literal["overload", "light"]
PARTS: tuple[Part, ...] = ("overload", "light")

# Answers end by themselves; this is for one in hundreds that would go round in circles.
_MAX_TOKENS = 1000

Stage = Callable[[str, int], Callable[[JobRecord], None]]
"""Told what begins and how many requests it has; returns what is to be called with each record."""


@dataclass(frozen=True, slots=True, kw_only=True)
class DemoPlan:
    """How much is measured, and how.

    Attributes:
        slots: requests that the engine serves at once.
        repetitions: of the whole comparison.
        num_jobs: requests of each part.
        loads: arrival rate of each part as a share of the measured capacity.
        num_training_prompts: how many answers the predictor learns from.
        num_warm_up_prompts: sent through each gateway beforehand, so that it knows the seconds that a token takes.
        ageing_rate: seconds of work that the aged policy forgives per second waited.
        seed: of prompts and arrivals.
    """

    slots: int
    repetitions: int
    num_jobs: Mapping[Part, int]
    loads: Mapping[Part, float]
    num_training_prompts: int
    num_warm_up_prompts: int
    ageing_rate: float
    seed: int


@dataclass(slots=True)
class Measurement:
    """What was found.

    Attributes:
        plan: how it was measured.
        prompts: all that were timed; records refer to them by index.
        recorded: length of the answer to each prompt in the first pass.
        capacities: jobs per second that the server can do of each part.
        records: of the timed runs, by part; a record's seed is its repetition.
        errors: what went wrong with how many timed requests.
        worst_lateness_s: how late the client was, at worst, in sending a timed request.
    """

    plan: DemoPlan
    prompts: list[str]
    recorded: dict[int, int] = field(default_factory=dict)
    capacities: dict[Part, float] = field(default_factory=dict)
    records: dict[Part, list[JobRecord]] = field(default_factory=lambda: {part: [] for part in PARTS})
    errors: Counter[str] = field(default_factory=Counter)
    worst_lateness_s: float = 0.0

    @property
    def failed(self) -> int:
        """How many timed requests were not answered in full."""
        return sum(record.status != COMPLETED for records in self.records.values() for record in records)

    @property
    def changed_share(self) -> float:
        """The share of timed answers whose length was not that of the first pass."""
        timed = [r for records in self.records.values() for r in records if r.status == COMPLETED]
        return sum(r.output_tokens != self.recorded[r.index] for r in timed) / max(1, len(timed))

    def indices(self, part: Part) -> range:
        """Which of the prompts belong to a part."""
        begin = sum(self.plan.num_jobs[earlier] for earlier in PARTS[: PARTS.index(part)])
        return range(begin, begin + self.plan.num_jobs[part])


async def measure(plan: DemoPlan, *, out: Path, model: str | None, stage: Stage) -> Measurement:
    """Start the servers, run everything, end the servers.

    Args:
        plan: how much.
        out: folder for the predictor and the servers' logs.
        model: what the engine loads; None for the bundled model.
        stage: hears of progress.

    Raises:
        BackendError: a server did not start, or requests failed before anything was compared.
    """
    (out / "logs").mkdir(parents=True, exist_ok=True)
    measurement = Measurement(plan, _prompts("demo", sum(plan.num_jobs.values()), plan.seed))
    async with contextlib.AsyncExitStack() as stack:

        async def start(name: str, command: str, *options: str) -> str:
            log = out / "logs" / f"{name}.log"
            return await stack.enter_async_context(running_server(command, options, log=log))

        stage("loading the model", 0)
        model_option = ("--model", model) if model else ()
        engine = await start("engine", "engine", "--max-num-seqs", str(plan.slots), *model_option)
        model_name = await first_model(Endpoint(url=engine))

        predictor = out / "predictor"
        gateway_options = ("--backend", engine, "--slots", str(plan.slots))
        policy_options = {
            "fcfs": ("--policy", "fcfs"),
            "ssjf": ("--policy", "ssjf", "--predictor", str(predictor)),
            "aged-ssjf": ("--policy", f"aged-ssjf:rate={plan.ageing_rate:g}", "--predictor", str(predictor)),
            "sjf": ("--policy", "ssjf", "--accept-hints"),
        }
        recorder = Endpoint(
            url=await start("recorder", "serve", *gateway_options, "--policy", "fcfs"), model=model_name
        )
        await _train_predictor(recorder, plan, predictor, stage)
        await _first_pass(measurement, recorder, stage)
        for repetition in range(plan.repetitions):
            gateways = {}
            for policy, options in policy_options.items():
                url = await start(f"{policy}-{repetition}", "serve", *gateway_options, *options)
                gateways[policy] = Endpoint(url=url, model=model_name)
                requests = _requests(enumerate(_prompts("predictor", plan.num_warm_up_prompts, plan.seed)))
                await _closed_loop(gateways[policy], requests, plan, stage(f"warming up {policy}", len(requests)))
            if repetition % 2:
                gateways = dict(reversed(gateways.items()))
            for part in PARTS:
                await _compare(measurement, part, gateways, repetition, stage)
    return measurement


async def _train_predictor(gateway: Endpoint, plan: DemoPlan, folder: Path, stage: Stage) -> None:
    """Learn from lengths that the server itself has produced, as an operator would from a log."""
    prompts = _prompts("predictor", plan.num_training_prompts, plan.seed)
    on_record = stage("answers for the predictor to learn from", len(prompts))
    records = await _closed_loop(gateway, _requests(enumerate(prompts)), plan, on_record)
    stage("training the predictor", 0)
    samples = [Sample(prompts[record.index], record.output_tokens, gateway.model) for record in records]
    predictor, settings = fit(samples)
    save_predictor(predictor, folder, {"settings": settings})


async def _first_pass(measurement: Measurement, gateway: Endpoint, stage: Stage) -> None:
    """Record all lengths, and how much the server can do."""
    requests = _requests(enumerate(measurement.prompts))
    on_record = stage("first pass: lengths and capacity", len(requests))
    records = await _closed_loop(gateway, requests, measurement.plan, on_record)
    measurement.recorded = {record.index: record.output_tokens for record in records}
    tokens_per_s = tokens_per_second_while_waiting(JobTable.from_records(records))
    if tokens_per_s is None:
        raise BackendError("the server did not tell how long requests waited; its capacity cannot be measured")
    for part in PARTS:
        own = measurement.indices(part)
        measurement.capacities[part] = tokens_per_s * len(own) / sum(measurement.recorded[index] for index in own)


async def _compare(
    measurement: Measurement, part: Part, gateways: Mapping[str, Endpoint], repetition: int, stage: Stage
) -> None:
    """Send one part's requests under each policy at the same times."""
    plan, own = measurement.plan, measurement.indices(part)
    rate = plan.loads[part] * measurement.capacities[part]
    arrivals = parse_arrivals(f"poisson:{rate}").times(len(own), plan.seed).tolist()
    requests = [
        replace(request, arrival_s=arrival_s)
        for request, arrival_s in zip(
            _requests((index, measurement.prompts[index]) for index in own), arrivals, strict=True
        )
    ]
    for policy, gateway in gateways.items():
        known = requests
        if policy == "sjf":
            known = [replace(request, hint=measurement.recorded[request.index]) for request in requests]
        run = Run(policy, repetition, on_record=stage(f"{part}: {policy}", len(own)))
        await send_open_loop(gateway, known, run)
        measurement.records[part] += run.records
        measurement.errors += run.errors
        measurement.worst_lateness_s = max(measurement.worst_lateness_s, *run.lateness_s)


async def _closed_loop(
    gateway: Endpoint, requests: Sequence[PlannedRequest], plan: DemoPlan, on_record: Callable[[JobRecord], None]
) -> list[JobRecord]:
    """Answer requests as fast as the server can: twice as many are under way as it has slots, so somebody waits."""
    run = Run("closed-loop", on_record=on_record)
    await send_closed_loop(gateway, requests, run, workers=2 * plan.slots)
    if run.failed:
        error, count = run.errors.most_common(1)[0]
        raise BackendError(f"{run.failed} of {len(requests)} requests failed; {count} of them: {error}")
    return run.records


def _prompts(split: Literal["predictor", "demo"], count: int, seed: int) -> list[str]:
    return [instruction.prompt for instruction in generate(split, count, seed)]


def _requests(prompts: Iterable[tuple[int, str]]) -> list[PlannedRequest]:
    return [PlannedRequest(index=index, prompt=prompt, max_tokens=_MAX_TOKENS) for index, prompt in prompts]
