"""The measurement of the demonstration: which requests are sent to which server in which order.

All policies are measured at the same time, side by side: one engine, and before it one gateway for each policy, with an
equal share of the engine's slots. A wait in an overload is a small difference of large numbers: were the policies
measured one after another, a machine 3 % slower in one run than in the next would change mean waits by 10 %. Side by
side, whatever else the machine does meets every policy at the same moment. What this cannot show is a policy that
slows the engine itself down, as all would suffer; the throughput that it does show is how well slots are kept busy.

A first pass records how long the answer to every prompt is: that is what the oracle knows. Then all gateways are kept
busy together, which tells what each can do, and from that follow the arrival times. All policies get the same prompts
at the same times.

This module does not know how results are shown.
"""

import asyncio
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
from ssjf.workload.arrivals import Poisson
from ssjf.workload.generated.instructions import generate

Part = Literal["overload", "light"]
PARTS: tuple[Part, ...] = ("overload", "light")
POLICIES = ("fcfs", "auto", "aged-ssjf", "ssjf", "sjf")

# Answers end by themselves; this is for one in hundreds that would go round in circles.
_MAX_TOKENS = 1000

Stage = Callable[[str, int], Callable[[JobRecord], None]]
"""Told what begins and how many requests it has; returns what is to be called with each record."""


@dataclass(frozen=True, slots=True, kw_only=True)
class DemoPlan:
    """How much is measured, and how.

    Attributes:
        slots: requests that each policy's share of the engine serves at once.
        num_jobs: requests of each part.
        loads: arrival rate of each part as a share of the measured capacity.
        num_training_prompts: how many answers the predictor learns from.
        num_speed_prompts: sent through each gateway beforehand, to measure what it can do.
        ageing_rate: seconds of work that the aged policy forgives per second waited.
        seed: of prompts and arrivals.
    """

    slots: int
    num_jobs: Mapping[Part, int]
    loads: Mapping[Part, float]
    num_training_prompts: int
    num_speed_prompts: int
    ageing_rate: float
    seed: int

    @property
    def engine_slots(self) -> int:
        """Requests that the engine serves at once, for all policies together."""
        return self.slots * len(POLICIES)


@dataclass(slots=True)
class Measurement:
    """What was found.

    Attributes:
        plan: how it was measured.
        prompts: all that were timed; records refer to them by index.
        recorded: length of the answer to each prompt in the first pass.
        capacities: jobs per second of each part that one policy's share of the engine can do.
        records: of the timed runs, by part.
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
        engine = await start("engine", "engine", "--max-num-seqs", str(plan.engine_slots), *model_option)
        model_name = await first_model(Endpoint(url=engine))

        async def start_gateway(name: str, slots: int, *options: str) -> Endpoint:
            url = await start(name, "serve", "--backend", engine, "--slots", str(slots), *options)
            return Endpoint(url=url, model=model_name)

        predictor = out / "predictor"
        recorder = await start_gateway("recorder", plan.engine_slots, "--policy", "fcfs")
        await _train_predictor(recorder, plan, predictor, stage)
        await _first_pass(measurement, recorder, stage)
        options: dict[str, tuple[str, ...]] = {
            "fcfs": ("--policy", "fcfs"),
            "auto": ("--predictor", str(predictor)),  # the default
            "ssjf": ("--policy", "ssjf", "--predictor", str(predictor)),
            "aged-ssjf": ("--policy", f"aged-ssjf:rate={plan.ageing_rate:g}", "--predictor", str(predictor)),
            "sjf": ("--policy", "ssjf", "--accept-hints"),
        }
        gateways = {policy: await start_gateway(policy, plan.slots, *options[policy]) for policy in POLICIES}
        tokens_per_s = await _measure_speed(gateways.values(), plan, stage)
        for part in PARTS:
            own = measurement.indices(part)
            mean_tokens = sum(measurement.recorded[index] for index in own) / len(own)
            measurement.capacities[part] = tokens_per_s / mean_tokens
            await _compare(measurement, part, gateways, stage)
    return measurement


async def _train_predictor(gateway: Endpoint, plan: DemoPlan, folder: Path, stage: Stage) -> None:
    """Learn from lengths that the server itself has produced, as an operator would from a log."""
    prompts = _prompts("predictor", plan.num_training_prompts, plan.seed)
    on_record = stage("answers for the predictor to learn from", len(prompts))
    records = await _closed_loop(gateway, _requests(enumerate(prompts)), plan.engine_slots, on_record)
    stage("training the predictor", 0)
    samples = [Sample(prompts[record.index], record.output_tokens, gateway.model) for record in records]
    predictor, settings = fit(samples)
    save_predictor(predictor, folder, {"settings": settings})


async def _first_pass(measurement: Measurement, gateway: Endpoint, stage: Stage) -> None:
    """Record all lengths, through a gateway that predicts nothing: one that learns must not see these prompts yet."""
    requests = _requests(enumerate(measurement.prompts))
    on_record = stage("first pass: lengths for the oracle", len(requests))
    records = await _closed_loop(gateway, requests, measurement.plan.engine_slots, on_record)
    measurement.recorded = {record.index: record.output_tokens for record in records}


async def _measure_speed(gateways: Iterable[Endpoint], plan: DemoPlan, stage: Stage) -> float:
    """Output tokens per second of one gateway while all are busy; they learn the seconds that a token takes from it."""
    requests = _requests(enumerate(_prompts("predictor", plan.num_speed_prompts, plan.seed)))
    on_record = stage("capacity, all side by side", len(POLICIES) * len(requests))
    runs = await asyncio.gather(*(_closed_loop(gateway, requests, plan.slots, on_record) for gateway in gateways))
    speeds = [tokens_per_second_while_waiting(JobTable.from_records(records)) for records in runs]
    known = [speed for speed in speeds if speed is not None]
    if not known:
        raise BackendError("the server did not tell how long requests waited; its capacity cannot be measured")
    return sum(known) / len(known)


async def _compare(measurement: Measurement, part: Part, gateways: Mapping[str, Endpoint], stage: Stage) -> None:
    """Send one part's requests to all policies at the same times."""
    plan, own = measurement.plan, measurement.indices(part)
    arrivals = _arrivals(len(own), plan.loads[part] * measurement.capacities[part], plan.seed)
    prompts = _requests((index, measurement.prompts[index]) for index in own)
    requests = [replace(request, arrival_s=at) for request, at in zip(prompts, arrivals, strict=True)]
    hinted = [replace(request, hint=measurement.recorded[request.index]) for request in requests]
    on_record = stage(f"{part}: all policies, side by side", len(POLICIES) * len(requests))
    runs = {policy: Run(policy, plan.seed, on_record=on_record) for policy in POLICIES}
    async with asyncio.TaskGroup() as group:
        for policy, run in runs.items():
            group.create_task(send_open_loop(gateways[policy], hinted if policy == "sjf" else requests, run))
    for run in runs.values():
        measurement.records[part] += run.records
        measurement.errors += run.errors
        measurement.worst_lateness_s = max(measurement.worst_lateness_s, *run.lateness_s)


async def _closed_loop(
    gateway: Endpoint, requests: Sequence[PlannedRequest], slots: int, on_record: Callable[[JobRecord], None]
) -> list[JobRecord]:
    """Have requests answered as fast as can be: twice as many are under way as there are slots, so somebody waits."""
    run = Run("closed-loop", on_record=on_record)
    await send_closed_loop(gateway, requests, run, workers=2 * slots)
    if run.failed:
        error, count = run.errors.most_common(1)[0]
        raise BackendError(f"{run.failed} of {len(requests)} requests failed; {count} of them: {error}")
    return run.records


def _arrivals(count: int, rate: float, seed: int) -> list[float]:
    """Poisson arrivals of which exactly `count` come in ``count / rate`` seconds.

    Without the condition, the load of a few hundred arrivals strays by 5 %, which an overload turns into 20 % of the
    mean wait: the demonstration would be of another load than it says.
    """
    times = Poisson(rate=1.0).times(count, seed)
    scaled: list[float] = (times * (count / rate / times[-1])).tolist()
    return scaled


def _prompts(split: Literal["predictor", "demo"], count: int, seed: int) -> list[str]:
    return [instruction.prompt for instruction in generate(split, count, seed)]


def _requests(prompts: Iterable[tuple[int, str]]) -> list[PlannedRequest]:
    return [PlannedRequest(index=index, prompt=prompt, max_tokens=_MAX_TOKENS) for index, prompt in prompts]
