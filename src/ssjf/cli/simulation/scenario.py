"""What the simulating commands have in common: policies, host and trace from the words of the command line.

Nothing here prints or writes; every mistake is an error that says what to do.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from ssjf.cli.prediction.samples import sample_of
from ssjf.errors import ConfigError, DataError, SSJFError, did_you_mean

if TYPE_CHECKING:
    from ssjf.core.places.batching import Batching
    from ssjf.core.types import Policy
    from ssjf.metrics.table import JobTable
    from ssjf.sim.host import Host, LinearHost, StepHost, Trace
    from ssjf.workload.items import WorkItem

BATCHINGS = ("none", "static", "dynamic", "continuous")
SHORTEST_PROMPTS = "constant:1"  # where no lengths of prompts are given
ORACLES = ("sjf", "srpt")  # policies that know the truth, which only a simulation can offer
_MOST_SLOTS = 100_000
_NOISE = "lognormal:0.8"  # of predictions, where a workload has none
_BLOCK_SIZE, _MAX_NUM_BATCHED_TOKENS = 16, 2048  # of an engine, as vLLM has them


def make_policies(specs: str) -> "dict[str, Policy]":
    """Policies by their specifications, which are separated by commas; `sjf` is SSJF, to be run with the truth."""
    policies = {spec: _policy(spec) for spec in dict.fromkeys(part.strip() for part in specs.split(",")) if spec}
    if not policies:
        raise ConfigError("--policy names no policy")
    return policies


def is_oracle(spec: str) -> bool:
    """Whether the policy is to be run with true lengths."""
    return spec.partition(":")[0] in ORACLES


def is_blind(spec: str) -> bool:
    """Whether the policy looks at no prediction."""
    return spec.partition(":")[0] in ("fcfs", "edf", "edf-preemptive")


def read_items(
    workload: Path | None,
    *,
    lengths: str | None = None,
    input_lengths: str | None = None,
    jobs: int = 10_000,
    target_model: str | None = None,
    limit: int | None = None,
    seed: int = 0,
) -> "list[WorkItem]":
    """The rows of a workload file, or so many requests of generated lengths, others for each seed."""
    from ssjf.workload.generated.lengths import generate, parse_lengths
    from ssjf.workload.reader import read_workload

    if (workload is None) == (lengths is None):
        raise ConfigError("give either --workload FILE or --lengths, for example --lengths paper")
    if lengths is not None:
        at_least("jobs", jobs, 1)
        refuse(WITHOUT_FILE, target_model=target_model, limit=limit)
        inputs = parse_lengths(input_lengths or SHORTEST_PROMPTS)
        return generate(jobs, outputs=parse_lengths(lengths), inputs=inputs, seed=seed)
    assert workload is not None
    if input_lengths is not None:
        raise ConfigError("--input-lengths goes with --lengths; a workload file has its own")
    if limit is not None:
        at_least("limit", limit, 1)
    return read_workload(workload, target_model=target_model)[:limit]


WITHOUT_FILE = "goes with --workload, not with --lengths"


def refuse(reason: str, **options: object) -> None:
    """Options that nothing would heed: those that were given are refused for the reason."""
    for name, value in options.items():
        if value is not None:
            raise ConfigError(f"--{name.replace('_', '-')} {reason}")


def make_batching(name: str, slots: int, batch_wait_s: float | None) -> "Batching":
    """One of the batching settings, checked against the number of slots."""
    from ssjf.core.places.batching import Continuous, Dynamic, Static

    if name == "none" and slots > 1:
        raise ConfigError(f"--batching none serves one job at a time; with --slots {slots} choose another")
    if name not in BATCHINGS:
        raise ConfigError(f"no batching named {name!r}; {did_you_mean(name, BATCHINGS)}")
    if name == "dynamic":
        wait_s = 1.0 if batch_wait_s is None else batch_wait_s
        at_least("batch-wait-s", wait_s, 0)
        return Dynamic(wait_s)
    refuse("is for --batching dynamic", batch_wait_s=batch_wait_s)
    return Static() if name == "static" else Continuous()


def make_host(
    cost_model: Path | None,
    items: "Sequence[WorkItem]",
    *,
    slots: int,
    batching: str = "continuous",
    batch_wait_s: float | None = None,
    base_seconds: float | None,
    seconds_per_token: float | None,
    seconds_per_input_token: float | None,
    kv_tokens: int | None,
    max_num_batched_tokens: int | None,
    prefix_hit_fraction: float | None = None,
    prefix_lifetime_s: float | None = None,
    max_wait_s: float | None,
) -> "LinearHost | StepHost":
    """What serves the items: slots with linear times, or iteration by iteration with the costs of a file.

    None stands for an option that was not given; those of the other kind of host are refused.
    """
    from ssjf.core.service import LinearServiceModel
    from ssjf.sim.host import LinearHost

    at_least("slots", slots, 1, _MOST_SLOTS)
    if max_wait_s is not None:
        at_least("max-wait-s", max_wait_s, 0)
    if cost_model is not None:
        if batching != "continuous":
            raise ConfigError("--cost-model describes an engine with continuous batching; leave --batching out")
        refuse(
            "is for simulations without --cost-model, which has times of its own",
            batch_wait_s=batch_wait_s,
            base_seconds=base_seconds,
            seconds_per_token=seconds_per_token,
            seconds_per_input_token=seconds_per_input_token,
        )
        return _step_host(
            cost_model,
            items,
            slots=slots,
            kv_tokens=kv_tokens,
            max_num_batched_tokens=max_num_batched_tokens,
            prefix_hit_fraction=prefix_hit_fraction,
            prefix_lifetime_s=prefix_lifetime_s,
            max_wait_s=max_wait_s,
        )
    refuse(
        "is for simulations with --cost-model",
        kv_tokens=kv_tokens,
        max_num_batched_tokens=max_num_batched_tokens,
        prefix_hit_fraction=prefix_hit_fraction,
        prefix_lifetime_s=prefix_lifetime_s,
    )
    service = LinearServiceModel(
        **_given(base_s=base_seconds, per_input_token_s=seconds_per_input_token, per_output_token_s=seconds_per_token)
    )
    at_least("base-seconds", service.base_s, 0)
    at_least("seconds-per-token", service.per_output_token_s, 0)
    at_least("seconds-per-input-token", service.per_input_token_s, 0)
    return LinearHost(
        slots=slots, batching=make_batching(batching, slots, batch_wait_s), service=service, max_wait_s=max_wait_s
    )


def _given(**options: Any) -> dict[str, Any]:
    """Those that are not None; what they are for has defaults of its own for the others."""
    return {name: value for name, value in options.items() if value is not None}


def _step_host(
    cost_model: Path,
    items: "Sequence[WorkItem]",
    *,
    slots: int,
    kv_tokens: int | None,
    max_num_batched_tokens: int | None,
    prefix_hit_fraction: float | None,
    prefix_lifetime_s: float | None,
    max_wait_s: float | None,
) -> "StepHost":
    """An engine with the costs of a file that `ssjf calibrate` wrote.

    Without `kv_tokens` its cache holds whatever runs.
    """
    from ssjf.sim.host import StepHost, mean_context_tokens
    from ssjf.sim.steps.cost import EngineLimits, load_cost_model

    num_batched_tokens = _MAX_NUM_BATCHED_TOKENS if max_num_batched_tokens is None else max_num_batched_tokens
    at_least("max-num-batched-tokens", num_batched_tokens, slots)
    if prefix_hit_fraction is not None:
        at_least("prefix-hit-fraction", prefix_hit_fraction, 0, 1)
    if prefix_lifetime_s is not None:
        at_least("prefix-lifetime-s", prefix_lifetime_s, 0)
    if kv_tokens is not None:
        at_least("kv-tokens", kv_tokens, 1)
    inputs, outputs = [item.input_tokens for item in items], output_tokens(items)
    if kv_tokens is None:
        longest = max((i + o for i, o in zip(inputs, outputs, strict=True)), default=1)
        num_kv_blocks = slots * (longest // _BLOCK_SIZE + 2)
    else:
        num_kv_blocks = max(1, kv_tokens // _BLOCK_SIZE)
        _check_fits(items, num_kv_blocks)
    limits = EngineLimits(
        num_kv_blocks=num_kv_blocks,
        block_size=_BLOCK_SIZE,
        max_num_batched_tokens=num_batched_tokens,
        **_given(prefix_hit_fraction=prefix_hit_fraction, prefix_lifetime_s=prefix_lifetime_s),
    )
    return StepHost(
        slots=slots,
        cost=load_cost_model(cost_model),
        limits=limits,
        context_tokens=mean_context_tokens(inputs, outputs),
        max_wait_s=max_wait_s,
    )


def _check_fits(items: "Sequence[WorkItem]", num_kv_blocks: int) -> None:
    """Every item alone has room in the cache: here its row is known, and nothing has been served or written yet."""
    from ssjf.core.places.capacity import KVBlocks

    cache = KVBlocks(num_kv_blocks, _BLOCK_SIZE)
    for item in items:
        prompt, answer = max(item.input_tokens, 1), max(item.output_tokens or 0, 1)
        needed = cache.blocks(prompt + answer - 1)  # the last token is never stored
        if needed > num_kv_blocks:
            raise ConfigError(
                f"row {item.index} has {prompt} prompt and {answer} output tokens: they need {needed} KV blocks of "
                f"{_BLOCK_SIZE}, and --kv-tokens makes {num_kv_blocks}"
            )


def parse_weights(text: str) -> dict[str, float]:
    """Weights of tenants from their text, for example ``gold=3,free=1``."""
    weights = {}
    for pair in text.split(","):
        tenant, equals, value = pair.strip().partition("=")
        try:
            weight = float(value)
        except ValueError:
            weight = 0.0
        if not equals or not 0 < weight < math.inf:
            raise ConfigError(f"--tenant-weights {text!r}: expected NAME=WEIGHT,... with positive weights")
        weights[tenant] = weight
    return weights


def check_batching(host: "Host", policies: "dict[str, Policy]") -> None:
    """Refuse policies that preempt where a batch ends together."""
    if host.batching.ends_together and (names := [n for n, p in policies.items() if getattr(p, "preemptive", False)]):
        raise ConfigError(f"policy {names[0]} preempts, which a batch that ends together does not allow")


def make_trace(items: "Sequence[WorkItem]", arrivals: str | None, seed: int) -> "Trace":
    """The workload with its own arrival times or generated ones, and without predictions."""
    from ssjf.workload.arrivals import parse_arrivals

    if arrivals is not None:
        arrival_s = [float(instant) for instant in parse_arrivals(arrivals).times(len(items), seed)]
    else:
        arrival_s = own_arrivals(items, "generate them, for example --arrivals poisson:2")
    return replace(untimed_trace(items), arrival_s=arrival_s)


def own_arrivals(items: "Sequence[WorkItem]", otherwise: str) -> list[float]:
    """The rows' own arrival times; every row must have one, and if not there is something else that one can do."""
    times = [item.arrival_s for item in items if item.arrival_s is not None]
    if len(times) < len(items):
        first = next(item.index for item in items if item.arrival_s is None)
        missing = f"row {first} has no arrival time, but others have" if times else "the workload has no arrival times"
        raise ConfigError(f"{missing}; {otherwise}")
    return times


def untimed_trace(items: "Sequence[WorkItem]") -> "Trace":
    """What is asked, without arrivals (all at 0) or predictions."""
    from ssjf.sim.host import Trace

    return Trace(
        index=[item.index for item in items],
        arrival_s=[0.0] * len(items),
        input_tokens=[item.input_tokens for item in items],
        output_tokens=output_tokens(items),
        tenant=[item.tenant for item in items] if any(item.tenant for item in items) else (),
        deadline_s=[item.deadline_s for item in items] if any(item.deadline_s is not None for item in items) else (),
    )


def with_predictions(
    trace: "Trace", items: "Sequence[WorkItem]", predictor: str | None, seed: int, *, needed: bool = True
) -> "Trace":
    """The trace with what a predictor says.

    Args:
        trace: of the items.
        items: what is asked.
        predictor: ``column`` or None for the workload's own, a noise model, or the name or folder of a predictor.
        seed: of the noise.
        needed: whether some policy looks at predictions; without a column they are left out if not.
    """
    from ssjf.predict.artefact import load_predictor
    from ssjf.predict.training import as_request
    from ssjf.sim.noise import parse_noise, predict_all

    if predictor in (None, "column"):
        known = [item.predicted_tokens for item in items if item.predicted_tokens is not None]
        if len(known) == len(items):
            return replace(trace, predicted_tokens=known)
        if not needed and predictor is None:
            return trace
        first = next(item.index for item in items if item.predicted_tokens is None)
        missing = (
            f"row {first} has no predicted_tokens, but others have" if known else "the workload has no predictions"
        )
        raise ConfigError(
            f"{missing}; choose where predictions come from: a noise model, for example {_NOISE}, or the folder of a "
            "trained predictor"
        )
    noise = parse_noise(predictor)
    if noise is not None:
        return replace(trace, predicted_tokens=predict_all(noise, trace.output_tokens, seed=seed))
    if all(item.prompt is None and item.prompt_features is None for item in items):
        raise ConfigError(f"predictor {predictor!r} reads prompts, and the workload has none; use a noise model")
    loaded = load_predictor(predictor)
    hashed = getattr(loaded, "family", "") == "ngram"
    requests = []
    for item in items:
        sample = sample_of(item, hashed=hashed)
        if sample is None:
            only = ", only its hashed n-grams" if item.prompt_features else ""
            raise ConfigError(
                f"predictor {predictor!r} reads prompts, and row {item.index} has none{only}; use a noise model"
            )
        requests.append(as_request(sample, str(item.index)))
    predictions = loaded.predict(requests)
    return replace(
        trace,
        predicted_tokens=[prediction.num_output_tokens for prediction in predictions],
        predicted_quantiles=[prediction.quantiles for prediction in predictions],
    )


def default_predictor(items: "Sequence[WorkItem]") -> str:
    """The workload's own predictions if every row has one, else noise; says so where only some have."""
    num_without = sum(item.predicted_tokens is None for item in items)
    if 0 < num_without < len(items):
        typer.echo(
            f"{num_without} of {len(items)} rows have no predicted_tokens: predictions are drawn ({_NOISE})", err=True
        )
    return "column" if items and not num_without else _NOISE


def num_trained_on(items: "Sequence[WorkItem]", predictor: str | None) -> int | None:
    """How many of the items a predictor was fitted on: of those it knows more than it will know of others.

    None where nothing was trained, or nobody knows on what.
    """
    from ssjf.predict.artefact import read_seen
    from ssjf.predict.ngram.features import digest, opening
    from ssjf.sim.noise import parse_noise

    if predictor in (None, "column") or parse_noise(predictor) is not None or not (seen := read_seen(predictor)):
        return None
    samples = (sample_of(item, hashed=True) for item in items)
    return sum(sample is not None and digest(opening(sample.prompt)) in seen for sample in samples)


def training_warnings(trained_on: Mapping[str | None, int | None], num_rows: int) -> list[str]:
    """What to say of predictors that know some of so many rows, as `num_trained_on` counts them."""
    return [
        f"warning: {predictor} was trained on {count} of these {num_rows} rows and knows them better than others; "
        "ssjf evaluate leaves such rows out"
        for predictor, count in trained_on.items()
        if count
    ]


def run_policy(
    trace: "Trace", spec: str, policy: "Policy", host: "Host", *, seed: int, predictor_seconds: float = 0.0
) -> "JobTable":
    """One policy on the trace: oracles with the truth, and FCFS without the predictor's latency.

    Raises:
        SSJFError: the policy, perhaps a stranger's, failed.
    """
    import numpy as np

    from ssjf.sim.host import simulate

    served = trace
    if is_oracle(spec):
        served = replace(trace, predicted_tokens=None, predicted_quantiles=())
    elif predictor_seconds and not is_blind(spec):
        served = replace(
            trace,
            arrival_s=[instant + predictor_seconds for instant in trace.arrival_s],
            deadline_s=[None if left_s is None else left_s - predictor_seconds for left_s in trace.deadline_s],
        )
    try:
        table = simulate(served, policy, host, label=spec, seed=seed)
    except SSJFError:
        raise
    except Exception as error:
        raise SSJFError(f"policy {spec!r} failed: {error!r}") from error
    return replace(table, arrival_s=np.asarray(trace.arrival_s, dtype=np.float64))  # waiting for the predictor counts


def output_tokens(items: "Sequence[WorkItem]") -> list[int]:
    """True lengths; every row must have one."""
    lengths = []
    for item in items:
        if item.output_tokens is None:
            raise DataError(f"row {item.index} has no output length, so it cannot be simulated")
        lengths.append(item.output_tokens)
    return lengths


def at_least(name: str, value: float, least: float, most: float = math.inf) -> None:
    """Check an option's number."""
    if not (least <= value <= most and math.isfinite(value)):
        limit = f"at least {least:g}" if most == math.inf else f"from {least:g} to {most:g}"
        raise ConfigError(f"--{name} must be a finite number of {limit}, not {value:g}")


def _policy(spec: str) -> "Policy":
    from ssjf.core.policies import SSJF
    from ssjf.plugins import POLICIES, make_policy, names

    if spec == "sjf":
        return SSJF()
    if spec.partition(":")[0] not in (known := names(POLICIES)):
        raise ConfigError(f"no policy named {spec!r}; {did_you_mean(spec, [*known, 'sjf'])}")
    return make_policy(spec)
