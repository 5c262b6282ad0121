"""The SSJF paper's own simulator, restated rule by rule, so that its published figures can be computed again.

A restatement of a foreign program (Qiu et al. 2024, arXiv 2404.08509, public artefact), not of ours: its flaws are
kept on purpose. This is the one place outside `core.policies` that orders jobs, because these orders are not keys of
a job: they depend on the batch's length and on counters that the loop keeps. Nothing else may use them.

The rules:
1. A job takes 0.1 s + 0.02 s per output token; its prediction is the same formula on the *class id*, not on tokens.
2. FCFS looks at most 10 s into the future to fill a batch. A full batch waits for its last job to arrive; one that
   is not full idles 10 s, always. In "continuous" mode the jobs already running stand still meanwhile.
3. SJF orders by the true remaining time, SSJF by the unchanged prediction, among jobs that have arrived. If the job
   that has waited longest did so for over 100 s, or over 10 times its *true* remaining time, the order is by waiting
   time for this step. What is running may be set aside at each step, at no cost.
4. A step lasts as long as its batch's longest job (static) or shortest remaining one (continuous).
5. After a step of SJF or SSJF every queued job's waiting counter grows by the time since the previous step's end,
   whether the job was there all that time or not, waiting or running.
6. SJF and SSJF stop when the queue is empty and only the last job is still to come: it is never served.

Times are exact integers, in a unit that divides a hundredth of a second and every arrival; the artefact's float time
slices approximate that. Arrivals and samples come from the artefact's generators: numpy's legacy global stream, which
is frozen by numpy's compatibility policy, and Python's `random`.
"""

import math
import random
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import Literal

import numpy as np

JOBS_PER_RUN = 50
RUNS_PER_POINT = 20

_BASE_CS = 10  # hundredths of a second per job, and per output token below
_PER_TOKEN_CS = 2
_BATCH_WAIT_S = 10
_STARVED_S = 100
_STARVED_FACTOR = 10

PaperPolicy = Literal["fcfs", "sjf", "ssjf"]


@dataclass(frozen=True, slots=True)
class Setting:
    """How an engine batches.

    Attributes:
        batch_size: how many jobs run at once; with 1 there is no batching.
        continuous: a job leaves as it ends; otherwise all of a batch end with its longest.
    """

    batch_size: int
    continuous: bool

    def __str__(self) -> str:
        if self.batch_size == 1:
            return "none"
        return f"{'continuous' if self.continuous else 'static'} {self.batch_size}"


@dataclass(frozen=True, slots=True)
class PaperJob:
    """One job of a run.

    Attributes:
        arrival_s: exact seconds since the run began.
        service_cs: true service time in hundredths of a second.
        predicted_cs: what SSJF orders by, in hundredths of a second.
    """

    arrival_s: Fraction
    service_cs: int
    predicted_cs: int


def service_cs(count: int) -> int:
    """Hundredths of a second for a number of output tokens, or, as the artefact has it, for a class id."""
    return _BASE_CS + _PER_TOKEN_CS * count


def serve(jobs: Sequence[PaperJob], policy: PaperPolicy, setting: Setting) -> list[float | None]:
    """Run the artefact's loop over jobs in order of arrival.

    Returns:
        For each job when it finished, in seconds; None for the job that rule 6 forgets.
    """
    second = math.lcm(100, *(job.arrival_s.denominator for job in jobs))
    tick_per_cs = second // 100
    states = [
        _State(int(job.arrival_s * second), job.service_cs * tick_per_cs, job.predicted_cs * tick_per_cs)
        for job in jobs
    ]
    if policy == "fcfs":
        _serve_fcfs(states, setting, second)
    else:
        _serve_shortest_first(states, setting, second, by_prediction=policy == "ssjf")
    return [None if state.finished is None else state.finished / second for state in states]


def early_drain_rate(finish_s: Sequence[float]) -> float:
    """What the artefact calls throughput: jobs done at the 25th percentile of completions, per second until then.

    It says how fast the *first quarter* leaves. Shortest-first improves it by definition, on a server that does not
    finish the whole a second earlier.
    """
    position = (len(finish_s) - 1) // 4
    return position / sorted(finish_s)[position]


@dataclass(slots=True, eq=False)
class _State:
    """A job on its way through the loop; all times in ticks."""

    arrival: int
    remaining: int
    predicted: int
    waited: int = 0
    finished: int | None = None


def _serve_fcfs(jobs: Sequence[_State], setting: Setting, second: int) -> None:
    queue = deque(jobs)
    now = 0
    while queue:
        now = max(now, queue[0].arrival)
        batch: list[_State] = []
        while queue and len(batch) < setting.batch_size and queue[0].arrival <= now + _BATCH_WAIT_S * second:
            batch.append(queue.popleft())
        full = len(batch) == setting.batch_size
        now = max(now, batch[-1].arrival) if full else now + _BATCH_WAIT_S * second
        now, unfinished = _step(batch, now, setting)
        queue.extendleft(unfinished)


def _serve_shortest_first(jobs: Sequence[_State], setting: Setting, second: int, *, by_prediction: bool) -> None:
    queue: list[_State] = []
    now = step_ended = coming = 0
    while coming < len(jobs) - 1 or queue:
        if not queue:
            now = max(now, jobs[coming].arrival)
            coming = _let_in(queue, jobs, coming, now)
        oldest = max(queue, key=lambda job: job.waited)
        # the sorts are stable: among equals the order left by earlier steps decides
        if oldest.waited > _STARVED_S * second or oldest.waited > _STARVED_FACTOR * oldest.remaining:
            queue.sort(key=lambda job: -job.waited)
        else:
            queue.sort(key=lambda job: job.predicted if by_prediction else job.remaining)
        batch = queue[: setting.batch_size]
        del queue[: setting.batch_size]
        now, unfinished = _step(batch, now, setting)
        coming = _let_in(queue, jobs, coming, now)
        queue += unfinished
        for job in queue:
            job.waited += now - step_ended
        step_ended = now


def _let_in(queue: list[_State], jobs: Sequence[_State], coming: int, now: int) -> int:
    """Queue everybody who has arrived; returns who comes next."""
    while coming < len(jobs) and jobs[coming].arrival <= now:
        queue.append(jobs[coming])
        coming += 1
    return coming


def _step(batch: Sequence[_State], now: int, setting: Setting) -> tuple[int, list[_State]]:
    """Run a batch until it, or with continuous batching its first job, has ended.

    Returns:
        The time then, and who is not finished.
    """
    longest_or_shortest = min if setting.continuous else max
    duration = longest_or_shortest(job.remaining for job in batch)
    now += duration
    unfinished: list[_State] = []
    for job in batch:
        if job.remaining <= duration:
            job.finished = now
        else:
            job.remaining -= duration
            unfinished.append(job)
    return now, unfinished


class Streams:
    """The artefact's two random streams, both started from one seed and used up run after run.

    Args:
        seed: of both.
    """

    def __init__(self, seed: int) -> None:
        self._numpy = np.random.RandomState(seed)
        self._python = random.Random(seed)  # noqa: S311 - the artefact's stream, no secret

    def sample(self, population: Sequence[int]) -> list[int]:
        """A run's worth of members, without repetition, in random order."""
        return [population[i] for i in self._numpy.choice(len(population), JOBS_PER_RUN, replace=False)]

    def poisson(self, rate: float) -> list[Fraction]:
        """Arrivals as Poisson counts per whole second: all of a second's jobs arrive at its beginning."""
        counts: list[int] = []
        while sum(counts) < JOBS_PER_RUN:
            counts += self._numpy.poisson(rate, int(JOBS_PER_RUN / rate)).tolist()
        return [Fraction(second) for second, count in enumerate(counts) for _ in range(count)][:JOBS_PER_RUN]

    def gamma(self, rate: float, cv: float) -> list[Fraction]:
        """Arrivals with gamma gaps of mean ``1 / rate``, *sorted ascending*: all short gaps first, then ever longer.

        Args:
            rate: jobs per second, on average.
            cv: the gaps' standard deviation over their mean.
        """
        gaps = np.sort(self._numpy.gamma((1 / cv) ** 2, cv**2 / rate, JOBS_PER_RUN))
        return [Fraction(arrival) for arrival in np.cumsum(gaps).tolist()]

    def trace(self, timestamps_s: Sequence[float], scale: float) -> list[Fraction]:
        """Consecutive arrivals from a random place in a trace, their *milliseconds* taken as seconds over `scale`.

        Args:
            timestamps_s: at least a run's worth, ascending.
            scale: 1000 would be the trace as it was.

        Returns:
            Seconds since the first, rounded to tenths.
        """
        start = self._python.randint(0, len(timestamps_s) - JOBS_PER_RUN)
        milliseconds = [round(1000 * time) for time in timestamps_s[start : start + JOBS_PER_RUN]]
        return [Fraction(round(10 * (time - milliseconds[0]) / scale), 10) for time in milliseconds]
