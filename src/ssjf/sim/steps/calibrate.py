"""Fit the step cost model to what a client saw of an engine that it probed.

A probe keeps so many requests under way until its last one has ended. A *wave* is a probe that sends no more than that:
all at once. Three things are read off probes:

- of a wave, the time until all have their first token: what is prefilled in it, and in how many iterations, is known;
- of a wave, what comes then: the last one to start decodes undisturbed by prompts, one token per iteration, while the
  others that decode beside it are known from their own last tokens. Where the server or the network started them at
  different times, or sends tokens in lumps, that shifts nothing;
- of a longer probe, the time from beginning to end, in which prompts and decoding mix as they do in service.

All are linear in the coefficients. They are fitted by least squares of *relative* errors with no coefficient below
zero, and robustly, for a client on a busy machine sees outliers. This module does no I/O and reads no clock.
"""

import itertools
from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ssjf.core.places.capacity import Slots
from ssjf.core.policies import FCFS
from ssjf.core.scheduler import Scheduler
from ssjf.core.service import LinearServiceModel
from ssjf.core.types import Job, Request
from ssjf.errors import DataError
from ssjf.sim.steps.cost import EngineLimits, StepCostModel
from ssjf.sim.steps.engine import serve_steps

# One coefficient 1, the others 0: what an engine with such costs calls seconds counts iterations, tokens, ...
_NAMES = tuple(field.name for field in fields(StepCostModel))
_UNITS = tuple(StepCostModel(**dict(zip(_NAMES, unit, strict=True))) for unit in np.eye(len(_NAMES)).tolist())
_HUBER = 1.345  # in standard deviations: loses 5 % of efficiency where errors are normal (Huber 1964)
_MAD_TO_SIGMA = 1.4826
# A longer probe is what service looks like: waiting times hang on throughput, and a queue multiplies each error in it.
_MIXED_IMPORTANCE = 4.0
_ROUNDS = 30  # of re-weighting; it settles in about ten


@dataclass(frozen=True, slots=True)
class StreamTiming:
    """What a client saw of one streamed answer; instants on any clock.

    Attributes:
        num_prompt_tokens, num_output_tokens: as the server counts; at least 2 output tokens.
        sent_at, first_token_at, finished_at: instants in seconds.
    """

    num_prompt_tokens: int
    num_output_tokens: int
    sent_at: float
    first_token_at: float
    finished_at: float


@dataclass(frozen=True, slots=True)
class Probe:
    """What came of one probe.

    Attributes:
        num_seqs: requests that were under way at once, no more than the engine runs.
        streams: of all its requests, in order of sending.
    """

    num_seqs: int
    streams: tuple[StreamTiming, ...]

    @property
    def mixed(self) -> bool:
        """Whether it is a longer one, in which some begin while others are under way."""
        return len(self.streams) > self.num_seqs


@dataclass(frozen=True, slots=True)
class Residual:
    """One equation of the fit.

    Attributes:
        what: ``first tokens`` of a wave, a mean ``iteration`` after them, or a longer probe from begin to ``end``.
        num_seqs: requests under way at once.
        num_prompt_tokens: of the longest prompt.
        measured_s, fitted_s: the two sides.
    """

    what: str
    num_seqs: int
    num_prompt_tokens: int
    measured_s: float
    fitted_s: float


@dataclass(frozen=True, slots=True)
class Calibration:
    """A fitted model and how well it fits: one residual per equation."""

    model: StepCostModel
    residuals: tuple[Residual, ...]

    @property
    def r_squared(self) -> float:
        """Explained part of the variance of the measured seconds."""
        measured = np.array([residual.measured_s for residual in self.residuals])
        fitted = np.array([residual.fitted_s for residual in self.residuals])
        return float(1 - ((measured - fitted) ** 2).sum() / ((measured - measured.mean()) ** 2).sum())

    def relative_error(self, quantile: float) -> float:
        """Quantile of the absolute relative errors."""
        errors = [abs(residual.fitted_s / residual.measured_s - 1) for residual in self.residuals]
        return float(np.quantile(errors, quantile))

    def document(self) -> dict[str, Any]:
        """For the JSON file."""
        return {
            "r_squared": self.r_squared,
            "median_relative_error": self.relative_error(0.5),
            "p90_relative_error": self.relative_error(0.9),
            "residuals": [asdict(residual) for residual in self.residuals],
        }


def concurrencies(max_num_seqs: int) -> list[int]:
    """How many requests to probe with at once: powers of two below the engine's limit, and the limit."""
    powers = itertools.takewhile(lambda power: power < max_num_seqs, (2**exponent for exponent in itertools.count()))
    return [*powers, max_num_seqs]


def fit_step_cost(probes: Sequence[Probe], *, max_num_batched_tokens: int) -> Calibration:
    """Fit the coefficients to probes.

    Args:
        probes: waves and longer ones, with several numbers of requests at once and several prompt lengths, or
            coefficients are exchangeable.
        max_num_batched_tokens: of the engine; it sets into how many iterations prompts are cut.

    Raises:
        DataError: a probe's times are not those of streamed answers.
    """
    rows, measured, labels, importance = [], [], [], []
    for probe in probes:
        streams = probe.streams
        if not all(s.num_output_tokens >= 2 and s.sent_at < s.first_token_at < s.finished_at for s in streams):
            raise DataError("a probe's answer did not come as a stream of tokens; the engine cannot be calibrated")
        began_at = min(stream.sent_at for stream in streams)
        first_tokens, end = _amounts(probe, max_num_batched_tokens)
        if probe.mixed:
            equations = [("end", end, max(stream.finished_at for stream in streams) - began_at)]
        else:
            first_tokens_s = max(stream.first_token_at for stream in streams) - began_at
            equations = [("first tokens", first_tokens, first_tokens_s), ("iteration", *_mean_iteration(streams))]
        for what, row, seconds in equations:
            rows.append(row)
            measured.append(seconds)
            labels.append((what, probe.num_seqs, max(stream.num_prompt_tokens for stream in streams)))
            importance.append(_MIXED_IMPORTANCE if probe.mixed else 1.0)
    matrix = np.array(rows)
    coefficients = _robust_nonnegative(matrix / np.array(measured)[:, None], np.array(importance))
    residuals = tuple(
        Residual(*label, measured_s=seconds, fitted_s=float(fitted))
        for label, seconds, fitted in zip(labels, measured, matrix @ coefficients, strict=True)
    )
    return Calibration(StepCostModel(**dict(zip(_NAMES, coefficients.tolist(), strict=True))), residuals)


def _amounts(probe: Probe, max_num_batched_tokens: int) -> tuple[list[float], list[float]]:
    """How much of each coefficient a probe costs, by runs of the step model: to the last first token, and to the end.

    With all requests waiting from the start for a slot, who runs when does not depend on the coefficients.
    """
    requests = [
        (Request(request_id=str(index), arrival_time=0.0, num_prompt_tokens=stream.num_prompt_tokens), stream)
        for index, stream in enumerate(probe.streams)
    ]
    limits = EngineLimits(
        num_kv_blocks=sum(stream.num_prompt_tokens + stream.num_output_tokens for stream in probe.streams),
        block_size=1,
        max_num_batched_tokens=max(max_num_batched_tokens, probe.num_seqs),
    )
    first_tokens, end = [], []
    for unit in _UNITS:
        run = serve_steps(
            [(Job(request), stream.num_output_tokens) for request, stream in requests],
            Scheduler(FCFS(), Slots(probe.num_seqs)),
            cost=unit,
            limits=limits,
            service=LinearServiceModel(),
        )
        first_tokens.append(max(served.first_token_at for served in run.served))
        end.append(max(served.job.finished_at or 0.0 for served in run.served))
    return first_tokens, end


def _mean_iteration(wave: Sequence[StreamTiming]) -> tuple[list[float], float]:
    """The mean iteration from the last first token to the end of the stream that it belongs to.

    All streams get their tokens in the same iterations then, so each one's length is known by counting from its end.
    """
    last = max(wave, key=lambda stream: stream.first_token_at)
    num_iterations = last.num_output_tokens - 1
    seconds = (last.finished_at - last.first_token_at) / num_iterations
    num_decoding = resident = 0.0
    for stream in wave:
        iterations = min(num_iterations, (stream.finished_at - last.first_token_at) / seconds)
        if iterations > 0:
            num_decoding += iterations / num_iterations
            num_tokens = stream.num_prompt_tokens + stream.num_output_tokens - iterations / 2
            resident += num_tokens * iterations / num_iterations
    return [1.0, 0.0, num_decoding, resident, 0.0], seconds


def _robust_nonnegative(matrix: NDArray[np.float64], importance: NDArray[np.float64]) -> NDArray[np.float64]:
    """Coefficients ≥ 0 for which `matrix` times them is as near to 1 as can be, by Huber's measure of distance."""
    weights = importance
    for _ in range(_ROUNDS):
        coefficients = _nonnegative_least_squares(matrix * weights[:, None], weights)
        errors = np.abs(matrix @ coefficients - 1)
        sigma = max(_MAD_TO_SIGMA * float(np.median(errors)), 1e-9)
        weights = importance * np.sqrt(np.minimum(1.0, _HUBER * sigma / np.maximum(errors, 1e-12)))
    return coefficients


def _nonnegative_least_squares(matrix: NDArray[np.float64], target: NDArray[np.float64]) -> NDArray[np.float64]:
    """The least-squares solution without negative coefficients: the best of those on every subset of the columns.

    The optimum solves the unconstrained problem on the columns it uses (Lawson and Hanson 1974), and there are five.
    """
    num_columns = matrix.shape[1]
    scale = np.maximum(np.linalg.norm(matrix, axis=0), 1e-300)
    best = np.zeros(num_columns)
    best_error = float(target @ target)
    for size in range(1, num_columns + 1):
        for columns in map(list, itertools.combinations(range(num_columns), size)):
            part = np.linalg.lstsq(matrix[:, columns] / scale[columns], target, rcond=None)[0]
            error = float(((matrix[:, columns] / scale[columns] @ part - target) ** 2).sum())
            if (part >= 0).all() and error < best_error:
                best = np.zeros(num_columns)
                best[columns] = part / scale[columns]
                best_error = error
    return best
