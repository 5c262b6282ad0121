"""The SSJF paper's experiment, twice on the same jobs: under its own simulator's rules and under ours.

*Paper rules* are `paper_rules`, flaws included. *Clean rules* are the deployed core (`core.replay`): nobody sees the
future, idles while somebody waits, is preempted for nothing, or is dropped. The two share every arrival and every
sampled request, so a difference between them is a difference of rules.

For clean rules a class id becomes the mean output length of that class in the predictions file itself; only the
order of these means matters to SSJF. Predictor latency, where the file has it, holds its own request back: nobody is
scheduled before being predicted. A predictor that is itself overloaded is not modelled.

This module knows neither files nor the command line nor how results are drawn.
"""

import math
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from functools import partial
from typing import NamedTuple

import numpy as np

from ssjf.core.places.batching import Continuous, Static
from ssjf.core.places.capacity import Slots
from ssjf.core.policies import FCFS, SSJF
from ssjf.core.replay import replay
from ssjf.core.scheduler import Scheduler
from ssjf.core.service import LinearServiceModel
from ssjf.core.types import Job, Request
from ssjf.errors import DataError
from ssjf.sim.paper.rules import (
    JOBS_PER_RUN,
    PaperJob,
    PaperPolicy,
    Setting,
    Streams,
    early_drain_rate,
    serve,
    service_cs,
)
from ssjf.workload.predictions import Predictions

SEEDS = (42, 1, 2)
POLICIES: tuple[PaperPolicy, ...] = ("fcfs", "sjf", "ssjf")
LATENCY_POLICY = "ssjf+latency"
ALL_ROUNDS = "all"
STEADY_LOADS = (0.5, 0.8, 0.9)
STEADY_JOBS = 1000

_SERVICE = LinearServiceModel()


class Published(NamedTuple):
    """What the unmodified artefact gives.

    Attributes:
        fcfs_s, sjf_s, ssjf_s: mean JCT.
        gain: of SSJF against FCFS, from means before rounding.
        throughput_ratio: early drain rate of SSJF over that of FCFS.
    """

    fcfs_s: float
    sjf_s: float
    ssjf_s: float
    gain: float
    throughput_ratio: float


# seeds 42, 1 and 2, with all of its 85,482 five-class predictions
PUBLISHED: Mapping[tuple[str, str], Published] = {
    ("poisson", "none"): Published(85.7, 48.2, 58.0, 0.323, 3.15),
    ("gamma-rates", "none"): Published(44.3, 27.4, 31.5, 0.289, 2.12),
    ("azure-conv", "none"): Published(25.0, 15.2, 17.8, 0.289, 1.62),
    ("poisson", "static 2"): Published(61.8, 25.7, 39.4, 0.362, 2.65),
    ("poisson", "static 4"): Published(40.6, 16.2, 26.9, 0.338, 2.04),
    ("poisson", "continuous 2"): Published(40.2, 22.9, 28.5, 0.290, 2.48),
    ("poisson", "continuous 4"): Published(19.2, 11.5, 14.1, 0.267, 1.80),
}


@dataclass(frozen=True, slots=True)
class Experiment:
    """One sweep of the paper.

    Attributes:
        name: as in the tables.
        parameter: what is swept.
        points: its values.
        arrivals: draws a run's arrival times at one of them.
    """

    name: str
    parameter: str
    points: tuple[float, ...]
    arrivals: Callable[[Streams, float], list[Fraction]]


def paper_experiments(traces: Mapping[str, Sequence[float]]) -> list[Experiment]:
    """The paper's sweeps: Poisson, gamma, and one for each trace of arrival times in seconds.

    The ends of the trace scales, .5 and 500, are the artefact's; the 1-2-5 series between them is our reading: ten
    points, like every other sweep.

    Raises:
        DataError: a trace is shorter than a run.
    """
    short = [name for name, times in traces.items() if len(times) < JOBS_PER_RUN]
    if short:
        raise DataError(f"{', '.join(short)}: a run replays {JOBS_PER_RUN} arrivals; the trace has fewer")
    return [
        Experiment("poisson", "jobs per second", tuple(range(1, 11)), Streams.poisson),
        Experiment("gamma-rates", "jobs per second", tuple(i / 100 for i in range(1, 20, 2)), _gamma_of_rate),
        Experiment("gamma-cv", "CV", tuple(i / 2 for i in range(2, 12)), _gamma_of_cv),
        *(
            Experiment(name, "scale", (0.5, 1, 2, 5, 10, 20, 50, 100, 200, 500), partial(_trace, sorted(times)))
            for name, times in traces.items()
        ),
    ]


def _gamma_of_rate(streams: Streams, rate: float) -> list[Fraction]:
    return streams.gamma(rate, cv=2)


def _gamma_of_cv(streams: Streams, cv: float) -> list[Fraction]:
    return streams.gamma(0.03, cv)


def _trace(timestamps_s: Sequence[float], streams: Streams, scale: float) -> list[Fraction]:
    return streams.trace(timestamps_s, scale)


class Figures(NamedTuple):
    """What one run, or the mean of many, came to.

    Attributes:
        mean_jct_s, p99_jct_s: of the jobs that finished.
        early_drain_rate: the artefact's throughput.
        jobs_per_s: finished jobs over makespan.
        dropped: jobs never served.
    """

    mean_jct_s: float
    p99_jct_s: float
    early_drain_rate: float
    jobs_per_s: float
    dropped: float


class Cell(NamedTuple):
    """What a row of results is about.

    Attributes:
        round: of the conversation, or ``all``.
        experiment: its name.
        setting: of batching.
        point: value of the swept parameter; None for the mean over the sweep.
        rules: ``paper`` or ``clean``.
        policy: ``fcfs``, ``sjf``, ``ssjf`` or ``ssjf+latency``.
    """

    round: str
    experiment: str
    setting: str
    point: float | None
    rules: str
    policy: str


@dataclass(frozen=True, slots=True)
class Row:
    """Mean figures of one policy over runs and seeds, beside those of FCFS under the same rules.

    Attributes:
        cell: what this is about.
        figures: the means.
        gain: 1 − mean JCT over that of FCFS.
        p99_ratio, drain_ratio, capacity_ratio: p99 JCT, early drain rate and jobs per second over those of FCFS.
    """

    cell: Cell
    figures: Figures
    gain: float
    p99_ratio: float
    drain_ratio: float
    capacity_ratio: float

    def flat(self) -> dict[str, str | float | None]:
        """All of it under one level of names, for files."""
        ratios = {name: getattr(self, name) for name in ("gain", "p99_ratio", "drain_ratio", "capacity_ratio")}
        return {**self.cell._asdict(), **self.figures._asdict(), **ratios}


def reproduce(
    predictions: Predictions,
    experiments: Sequence[Experiment],
    settings: Sequence[Setting],
    *,
    runs: int,
    on_progress: Callable[[int, int], None],
) -> list[Row]:
    """Every sweep under both rules, for all requests and for each round of conversation that fills a run.

    Each seed starts each sweep anew, as if the artefact had been started for it alone.

    Args:
        predictions: what to sample jobs from.
        experiments: the sweeps.
        settings: of batching; all see the same jobs.
        runs: at each point of a sweep and for each seed.
        on_progress: told after each point how many of how many are done.

    Returns:
        For each round and sweep, first the means over the sweep, then each point.

    Raises:
        DataError: there are too few requests for a run.
    """
    populations = _populations(predictions)
    total = len(populations) * len(SEEDS) * sum(len(experiment.points) for experiment in experiments)
    done = 0
    rows: list[Row] = []
    for round_name, population in populations.items():
        for experiment in experiments:
            found: dict[Cell, list[Figures]] = defaultdict(list)
            for seed in SEEDS:
                streams = Streams(seed)
                for point in experiment.points:
                    for _ in range(runs):
                        arrivals = experiment.arrivals(streams, point)
                        sample = streams.sample(population)
                        for setting in settings:
                            for rules, policy, figures in _run(predictions, arrivals, sample, setting):
                                cell = Cell(round_name, experiment.name, str(setting), point, rules, policy)
                                found[cell].append(figures)
                                found[cell._replace(point=None)].append(figures)
                    done += 1
                    on_progress(done, total)
            rows += sorted(_compare(found), key=lambda row: row.cell.point is not None)
    return rows


def steady_state(predictions: Predictions, *, seeds: int) -> list[Row]:
    """What the paper does not show: one server that is not in overload, by clean rules and without batching.

    1,000 jobs with exponential gaps for each load and seed, sampled from the predictions with repetition.
    """
    tokens, expected = np.array(predictions.output_tokens), np.array(predictions.expected_tokens)
    mean_service_s = _SERVICE.seconds(0, float(tokens.mean()))
    setting = Setting(1, continuous=True)
    found: dict[Cell, list[Figures]] = defaultdict(list)
    for load in STEADY_LOADS:
        for seed in range(seeds):
            rng = np.random.default_rng(seed)
            sample = rng.integers(len(tokens), size=STEADY_JOBS)
            arrival_s = np.cumsum(rng.exponential(mean_service_s / load, STEADY_JOBS)).tolist()
            service_s = [_SERVICE.seconds(0, length) for length in tokens[sample].tolist()]
            predicted_s = [_SERVICE.seconds(0, length) for length in expected[sample].tolist()]
            for policy in POLICIES:
                finish_s = serve_clean(
                    arrival_s, service_s, service_s if policy == "sjf" else predicted_s, policy, setting
                )
                cell = Cell(ALL_ROUNDS, "steady-state", str(setting), load, "clean", policy)
                found[cell].append(_figures(arrival_s, finish_s))
    return _compare(found)


def _populations(predictions: Predictions) -> dict[str, Sequence[int]]:
    """Row numbers to sample runs from."""
    everybody = range(len(predictions.output_tokens))
    if len(everybody) < JOBS_PER_RUN:
        raise DataError(f"a run samples {JOBS_PER_RUN} predictions, but there are only {len(everybody)}")
    by_round: dict[int, list[int]] = defaultdict(list)
    for row, number in enumerate(predictions.rounds or ()):
        by_round[number].append(row)
    return {
        ALL_ROUNDS: everybody,
        **{str(number): rows for number, rows in sorted(by_round.items()) if len(rows) >= JOBS_PER_RUN},
    }


def _run(
    predictions: Predictions, arrivals: Sequence[Fraction], sample: Sequence[int], setting: Setting
) -> Iterable[tuple[str, str, Figures]]:
    """One run under each of the rules and policies."""
    arrival_s = [float(arrival) for arrival in arrivals]
    tokens = [predictions.output_tokens[row] for row in sample]
    jobs = [
        PaperJob(arrival, service_cs(length), service_cs(predictions.class_ids[row]))
        for arrival, length, row in zip(arrivals, tokens, sample, strict=True)
    ]
    for policy in POLICIES:
        yield "paper", policy, _figures(arrival_s, serve(jobs, policy, setting))

    service_s = [_SERVICE.seconds(0, length) for length in tokens]
    predicted_s = [_SERVICE.seconds(0, predictions.expected_tokens[row]) for row in sample]
    for policy in POLICIES:
        ordered_by = service_s if policy == "sjf" else predicted_s
        yield "clean", policy, _figures(arrival_s, serve_clean(arrival_s, service_s, ordered_by, policy, setting))
    if predictions.latency_s is not None:
        ready_s = [arrival + predictions.latency_s[row] for arrival, row in zip(arrival_s, sample, strict=True)]
        finish_s = serve_clean(ready_s, service_s, predicted_s, "ssjf", setting)
        yield "clean", LATENCY_POLICY, _figures(arrival_s, finish_s)


def serve_clean(
    ready_s: Sequence[float],
    service_s: Sequence[float],
    predicted_s: Sequence[float],
    policy: PaperPolicy,
    setting: Setting,
) -> list[float | None]:
    """Serve jobs by the deployed core.

    Args:
        ready_s: when each may be scheduled, in any order.
        service_s: how long it takes.
        predicted_s: how long it is thought to take: what SJF and SSJF order by.
        policy: FCFS, or else shortest predicted first.
        setting: of batching.

    Returns:
        When each finished.
    """
    jobs = [
        Job(Request(request_id=str(number), arrival_time=ready), predicted)
        for number, (ready, predicted) in enumerate(zip(ready_s, predicted_s, strict=True))
    ]
    scheduler = Scheduler(
        FCFS() if policy == "fcfs" else SSJF(),
        Slots(setting.batch_size),
        batching=Continuous() if setting.continuous else Static(),
    )
    replay(sorted(zip(jobs, service_s, strict=True), key=lambda pair: pair[0].request.arrival_time), scheduler)
    return [job.finished_at for job in jobs]


def _figures(arrival_s: Sequence[float], finish_s: Sequence[float | None]) -> Figures:
    served = [(finish, arrival) for finish, arrival in zip(finish_s, arrival_s, strict=True) if finish is not None]
    finishes = [finish for finish, _ in served]
    jct_s = sorted(finish - arrival for finish, arrival in served)
    position = 0.99 * (len(jct_s) - 1)  # the percentile that numpy gives, without its cost on 50 values
    below, above = jct_s[math.floor(position)], jct_s[math.ceil(position)]
    return Figures(
        mean_jct_s=math.fsum(jct_s) / len(jct_s),
        p99_jct_s=below + (position % 1) * (above - below),
        early_drain_rate=early_drain_rate(finishes),
        jobs_per_s=len(finishes) / max(finishes),
        dropped=len(finish_s) - len(finishes),
    )


def _compare(found: Mapping[Cell, Sequence[Figures]]) -> list[Row]:
    """Average runs and set each policy beside FCFS: ratios of means, as the artefact reports them."""
    means = {
        cell: Figures(*(math.fsum(values) / len(runs) for values in zip(*runs, strict=True)))
        for cell, runs in found.items()
    }
    rows = []
    for cell, figures in means.items():
        fcfs = means[cell._replace(policy="fcfs")]
        rows.append(
            Row(
                cell,
                figures,
                gain=1 - figures.mean_jct_s / fcfs.mean_jct_s,
                p99_ratio=figures.p99_jct_s / fcfs.p99_jct_s,
                drain_ratio=figures.early_drain_rate / fcfs.early_drain_rate,
                capacity_ratio=figures.jobs_per_s / fcfs.jobs_per_s,
            )
        )
    return rows
