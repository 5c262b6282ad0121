"""The laboratory: a grid of cases × policies × predictors × seeds, one summary for each cell.

Laws of this file:
1. Common random numbers: what is asked, when, and what a predictor says of it depend on the case, the predictor and
   the seed, never on the policy. So differences between policies are not those of the draw.
2. A cell depends on nothing but the laboratory and itself: neither on other cells, nor on the order or the process in
   which it is computed. So cells can be kept, and a grid can grow.
3. Comparisons come last: a cell is one policy's run alone, and `Grid.rows` puts cells beside FCFS's and the oracle's.

This module does not know where cells are kept, which processes compute them, or how results are shown.
"""

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import cache
from typing import Any, Protocol

import numpy as np

from ssjf.core.policies import SSJF
from ssjf.errors import SSJFError
from ssjf.metrics.summary import Summary, summarize
from ssjf.plugins import make_policy
from ssjf.sim.host import Host, Trace, simulate
from ssjf.sim.noise import is_drawn, parse_noise, predict_all
from ssjf.workload.arrivals import Process, times_at_rate
from ssjf.workload.generated.lengths import Lengths, generate

OWN = "own"  # arrivals: the workload's rows in their own order, at their own times, stretched to the load
_ORACLE = "sjf"  # SSJF that is told the truth
REFERENCES = ("fcfs", _ORACLE)  # what every policy is compared with

# The tail relative to FCFS's: name in a row, what it compares, and how much an operator may be asked to accept.
TAIL = (
    ("p90_vs_fcfs", "p90_jct_s", 1.08),
    ("p99_vs_fcfs", "p99_jct_s", 1.05),
    ("max_vs_fcfs", "max_jct_s", 1.10),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """What is asked of which host.

    Attributes:
        slots: jobs that run at once.
        load: arrival rate over what the host can serve when it never lacks work.
        arrivals: the process by its text, without a rate.
    """

    slots: int
    load: float
    arrivals: str

    def __str__(self) -> str:
        return f"{self.slots} slot{'s' * (self.slots != 1)}, load {self.load:g}, {self.arrivals}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Cell:
    """One policy's run.

    Attributes:
        policy: its specification.
        predictor: what it is told by; None if it is told the truth, as oracles are, and FCFS, which asks nobody.
        case: what is asked of which host.
        seed: of everything that is drawn.
        is_free: whether it is the oracle's that everybody is measured by, where the host of all others bounds waits.
    """

    policy: str
    predictor: str | None
    case: Case
    seed: int
    is_free: bool = False


class Source(Protocol):
    """Where requests come from; picklable."""

    def draw(self, jobs: int, seed: int, predictor: str | None) -> Trace:
        """So many requests, in random order, with what the predictor says if it is not a noise model."""
        ...

    def in_order(self, jobs: int, predictor: str | None) -> Trace:
        """The first so many requests in order of arrival."""
        ...

    def digest(self, predictor: str | None) -> str:
        """A text that differs where draws differ."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Recorded:
    """Rows of a file, to sample from.

    Attributes:
        rows: all of them, in order of arrival if they have such times; without predictions.
        predicted: the same with the predictions of each predictor that is not a noise model.
    """

    rows: Trace
    predicted: Mapping[str, Trace]

    def draw(self, jobs: int, seed: int, predictor: str | None) -> Trace:
        """See `Source`; no row comes twice where there are enough."""
        rng = np.random.default_rng([seed, 0x726F7773])  # a stream of its own
        return self._pick(rng.choice(len(self.rows), jobs, replace=jobs > len(self.rows)).tolist(), predictor)

    def in_order(self, jobs: int, predictor: str | None) -> Trace:
        """See `Source`; fewer where the file has not so many."""
        return self._pick(range(min(jobs, len(self.rows))), predictor)

    def digest(self, predictor: str | None) -> str:
        """See `Source`."""
        return _digest(self._known(predictor))

    def _known(self, predictor: str | None) -> Trace:
        return self.rows if predictor is None else self.predicted.get(predictor, self.rows)

    def _pick(self, rows: Sequence[int], predictor: str | None) -> Trace:
        trace = self._known(predictor)
        predicted = trace.predicted_tokens
        return Trace(
            index=range(len(rows)),
            arrival_s=[trace.arrival_s[row] for row in rows],
            input_tokens=[trace.input_tokens[row] for row in rows],
            output_tokens=[trace.output_tokens[row] for row in rows],
            predicted_tokens=None if predicted is None else [predicted[row] for row in rows],
            predicted_quantiles=[trace.predicted_quantiles[row] for row in rows] if trace.predicted_quantiles else (),
            tenant=[trace.tenant[row] for row in rows] if trace.tenant else (),
            deadline_s=[trace.deadline_s[row] for row in rows] if trace.deadline_s else (),
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Generated:
    """Requests of generated lengths, new ones for each seed."""

    outputs: Lengths
    inputs: Lengths

    def draw(self, jobs: int, seed: int, predictor: str | None) -> Trace:
        """See `Source`."""
        items = generate(jobs, outputs=self.outputs, inputs=self.inputs, seed=seed)
        return Trace(
            index=range(jobs),
            arrival_s=[0.0] * jobs,
            input_tokens=[item.input_tokens for item in items],
            output_tokens=[item.output_tokens or 0 for item in items],
        )

    def in_order(self, jobs: int, predictor: str | None) -> Trace:
        """See `Source`."""
        raise ValueError("generated lengths have no arrivals of their own")

    def digest(self, predictor: str | None) -> str:
        """See `Source`."""
        return repr(self)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Laboratory:
    """What all cells have in common; picklable.

    Attributes:
        source: where requests come from.
        jobs: how many each cell serves.
        processes: arrival processes by their texts; their own rates do not matter.
        hosts: by number of slots and seed.
        oracle_hosts: those of the oracle that everybody is measured by; they have no bound on waiting.
    """

    source: Source
    jobs: int
    processes: Mapping[str, Process]
    hosts: Mapping[tuple[int, int], Host]
    oracle_hosts: Mapping[tuple[int, int], Host]
    _saturated: dict[tuple[int, int, bool], float] = field(default_factory=dict, init=False, repr=False)
    _digests: dict[str | None, str] = field(default_factory=dict, init=False, repr=False)

    def trace(self, cell: Cell) -> Trace:
        """The jobs of a cell: what is asked, when, and what the policy is told of it."""
        case, seed, own = cell.case, cell.seed, cell.case.arrivals == OWN
        source = self.source
        sample = source.in_order(self.jobs, cell.predictor) if own else source.draw(self.jobs, seed, cell.predictor)
        key = (case.slots, seed, own)
        if key not in self._saturated:  # for an engine that is simulated step by step this is a run of its own
            host = self.hosts[case.slots, seed]
            self._saturated[key] = host.saturated_requests_per_s(sample.input_tokens, sample.output_tokens)
        times = times_at_rate(self.processes[case.arrivals], case.load * self._saturated[key], len(sample), seed)
        noise = None if cell.predictor is None else parse_noise(cell.predictor)
        if noise is not None:
            sample = replace(sample, predicted_tokens=predict_all(noise, sample.output_tokens, seed=seed))
        return replace(sample, arrival_s=times.tolist())

    def run(self, cell: Cell) -> Summary:
        """One policy's summary, compared with nobody yet.

        Raises:
            SSJFError: the policy, perhaps a stranger's, failed.
        """
        trace, host = self.trace(cell), self._host(cell)
        policy = SSJF() if cell.policy == _ORACLE else make_policy(cell.policy)
        try:
            table = simulate(trace, policy, host, label=cell.policy, seed=cell.seed)
        except SSJFError:
            raise
        except Exception as error:
            raise SSJFError(f"policy {cell.policy!r} failed ({cell.case}, seed {cell.seed}): {error!r}") from error
        return summarize(table, alone_s=host.alone_s(trace.input_tokens, trace.output_tokens))

    def description(self, cell: Cell) -> dict[str, Any]:
        """All that the cell's result depends on beside the program, as values for JSON."""
        if cell.predictor not in self._digests:
            self._digests[cell.predictor] = self.source.digest(cell.predictor)
        return {
            "policy": cell.policy,
            "predictor": cell.predictor,
            **asdict(cell.case),
            "seed": cell.seed,
            "jobs": self.jobs,
            "host": repr(self._host(cell)),
            "rows": self._digests[cell.predictor],
            "times": _process_digest(self.processes[cell.case.arrivals]),
        }

    def _host(self, cell: Cell) -> Host:
        return (self.oracle_hosts if cell.is_free else self.hosts)[cell.case.slots, cell.seed]


@dataclass(frozen=True, slots=True, kw_only=True)
class Grid:
    """Which cells there are.

    Attributes:
        cases: what is asked of which host.
        policies: by their specifications.
        untold: those of them that no predictor tells anything, because they know the truth or do not ask.
        predictors: for all others.
        seeds: repetitions; a cell for which nothing is drawn has one.
        is_bounded: whether waits are; then the oracle that everybody is measured by is another than the one named.
    """

    cases: Sequence[Case]
    policies: Sequence[str]
    untold: frozenset[str]
    predictors: Sequence[str]
    seeds: int
    is_bounded: bool = False

    def cells(self) -> list[Cell]:
        """Every cell once, with those of FCFS and the oracle, whether or not they are among the policies."""
        references = (
            self._reference(policy, case, seed)
            for case in self.cases
            for policy in REFERENCES
            for seed in range(self.seeds)
        )
        return list(dict.fromkeys([*references, *self._shown()]))

    def rows(self, found: Mapping[Cell, Summary]) -> list[Summary]:
        """Rows of `summary.json`: each cell's summary with its case, and compared with FCFS and the oracle."""
        rows = []
        for cell in self._shown():
            fcfs, oracle = (found[self._reference(policy, cell.case, cell.seed)] for policy in REFERENCES)
            rows.append(
                {
                    **found[cell],
                    **asdict(cell.case),
                    "predictor": cell.predictor,
                    **_compared(found[cell], fcfs, oracle),
                }
            )
        return rows

    def _shown(self) -> Iterator[Cell]:
        for case in self.cases:
            for policy in self.policies:
                for predictor in (None,) if policy in self.untold else self.predictors:
                    for seed in range(self.seeds if _is_drawn(case, predictor) else 1):
                        yield Cell(policy=policy, predictor=predictor, case=case, seed=seed)

    def _reference(self, policy: str, case: Case, seed: int) -> Cell:
        """What cells are compared with: the oracle has no bound on waiting, and for FCFS a bound changes nothing."""
        seed = seed if _is_drawn(case, None) else 0
        is_free = self.is_bounded and policy == _ORACLE
        return Cell(policy=policy, predictor=None, case=case, seed=seed, is_free=is_free)


def _is_drawn(case: Case, predictor: str | None) -> bool:
    """Whether cells of several seeds differ: the rows of a file in their own order are there once."""
    return case.arrivals != OWN or is_drawn(predictor)


def _compared(own: Summary, fcfs: Summary, oracle: Summary) -> Summary:
    """Gain, share of the oracle's gain and tail; the mean says it all, because simulated jobs all complete."""
    mean_s, fcfs_s, oracle_s = (run["mean_jct_s"] for run in (own, fcfs, oracle))
    return {
        "gain": 1 - mean_s / fcfs_s,
        "oracle_share": (fcfs_s - mean_s) / (fcfs_s - oracle_s) if fcfs_s > oracle_s else None,
        **{name: own[measure] / fcfs[measure] for name, measure, _ in TAIL},
    }


@cache
def _process_digest(process: Process) -> str:
    return _digest(process)


def _digest(value: object) -> str:
    """Of values whose text tells all of them, such as dataclasses of lists."""
    return hashlib.sha256(repr(value).encode()).hexdigest()
