"""`ssjf calibrate`: learn from a running engine what an iteration costs, for simulations of it."""

import itertools
import random
import re
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ssjf.cli.folders import check_folder
from ssjf.errors import BackendError, ConfigError

if TYPE_CHECKING:
    import aiohttp
    from rich.console import Console

    from ssjf.loadgen.client import Endpoint
    from ssjf.sim.steps.calibrate import Calibration, Probe

# Answers long enough for requests that start one after another to decode together for most of the time.
_NUM_OUTPUT_TOKENS = 128
# A longer probe: so many requests for each that is under way at once, with answers of such lengths.
_ROUNDS_OF_A_PROBE = 4
_MIXED_OUTPUT_TOKENS = (8, 16, 32, 64, 128, 256)
_WARM_UP_WORDS = 100
_MAX_NUM_SEQS_METRIC = re.compile(r"^ssjf_engine_max_num_seqs(?:\{[^}]*\})?\s+([0-9.]+)", re.MULTILINE)


def calibrate(
    url: Annotated[str, typer.Option(help="An OpenAI-compatible engine that nobody else uses; with or without /v1.")],
    out: Annotated[Path, typer.Option(help="Where to write the cost model (JSON).")],
    model: Annotated[str | None, typer.Option(help="Model to ask; default: the first that the engine lists.")] = None,
    max_num_seqs: Annotated[
        int | None, typer.Option(min=1, help="Requests that the engine runs at once; default: what its /metrics say.")
    ] = None,
    max_num_batched_tokens: Annotated[
        int, typer.Option(min=1, help="Tokens that the engine computes in one iteration: the length of a chunk.")
    ] = 2048,
    prompt_tokens: Annotated[str, typer.Option(help="Prompt lengths to probe with.")] = "16,128,512",
    repeats: Annotated[int, typer.Option(min=1, help="How often each probe is sent.")] = 3,
    completions: Annotated[bool, typer.Option("--completions", help="Use plain completions, not chat.")] = False,
    api_key: Annotated[
        str | None, typer.Option(envvar="OPENAI_API_KEY", show_envvar=True, help="Sent as the bearer token.")
    ] = None,
) -> None:
    """Probe a running engine and fit the step cost model that `ssjf simulate --cost-model` takes."""
    import asyncio

    from rich.console import Console
    from rich.progress import Progress

    from ssjf.loadgen.client import Endpoint
    from ssjf.sim.steps.calibrate import fit_step_cost
    from ssjf.sim.steps.cost import save_cost_model

    if out.is_dir():
        raise ConfigError(f"--out {out} is a folder; name a file")
    lengths = _prompt_lengths(prompt_tokens)
    check_folder(out.parent)
    endpoint = Endpoint(url=url, model=model or "", chat=not completions, api_key=api_key)
    console = Console(stderr=True)
    with Progress(console=console) as progress:
        bar = progress.add_task("Probing", total=None)
        endpoint, sizes, probes = asyncio.run(  # not uvloop: its clock moves by whole milliseconds
            _probe(
                endpoint,
                max_num_seqs,
                lengths,
                repeats,
                lambda done, total: progress.update(bar, completed=done, total=total),
            )
        )
    calibration = fit_step_cost(probes, max_num_batched_tokens=max_num_batched_tokens)
    settings = {
        "url": url,
        "model": endpoint.model,
        "max_num_seqs": sizes[-1],
        "max_num_batched_tokens": max_num_batched_tokens,
        "concurrencies": sizes,
        "prompt_tokens": sorted({probe.streams[0].num_prompt_tokens for probe in probes if not probe.mixed}),
        "repeats": repeats,
    }
    save_cost_model(out, calibration.model, settings | calibration.document())
    _show(Console(), calibration)
    Console().print(f"Written to {out}", highlight=False)


def _prompt_lengths(text: str) -> list[int]:
    try:
        lengths = sorted({int(length) for length in text.split(",")})
    except ValueError:
        lengths = []
    if not lengths or lengths[0] < 1:
        raise ConfigError(f"--prompt-tokens {text!r} is not a list of lengths like 16,128,512")
    return lengths


async def _probe(
    endpoint: "Endpoint",
    max_num_seqs: int | None,
    prompt_lengths: list[int],
    repeats: int,
    on_progress: Callable[[int, int], None],
) -> tuple["Endpoint", list[int], list["Probe"]]:
    """Send all probes, one after the other; returns the endpoint with its model, the sizes and what was seen."""
    from dataclasses import replace

    from ssjf.loadgen.client import first_model, open_session
    from ssjf.sim.steps.calibrate import concurrencies

    if not endpoint.model:
        endpoint = replace(endpoint, model=await first_model(endpoint))
    probes: list[Probe] = []
    async with open_session(endpoint) as session:
        sizes = concurrencies(max_num_seqs or await _read_max_num_seqs(session, endpoint))
        # also tells how many tokens the engine makes of a word, and what a conversation adds
        short, long = [
            (await _send(session, endpoint, 1, [(_words(words, seed=-words), _NUM_OUTPUT_TOKENS)])).streams[0]
            for words in (1, _WARM_UP_WORDS)
        ]
        per_word = (long.num_prompt_tokens - short.num_prompt_tokens) / (_WARM_UP_WORDS - 1)
        extra = short.num_prompt_tokens - per_word

        def words_for(length: int) -> int:
            return max(1, round((length - extra) / max(per_word, 0.1)))

        # the whole range of probes comes several times, so that a slow spell does not fall on one kind
        plan = [(size, length) for _ in range(repeats) for size in sizes for length in (*prompt_lengths, None)]
        seeds = itertools.count()
        for done, (size, length) in enumerate(plan):
            on_progress(done, len(plan))
            if length is not None:
                asked = [(_words(words_for(length), next(seeds)), _NUM_OUTPUT_TOKENS) for _ in range(size)]
            else:
                kinds = itertools.cycle(itertools.product(_MIXED_OUTPUT_TOKENS, prompt_lengths))
                mixed = list(itertools.islice(kinds, _ROUNDS_OF_A_PROBE * size + len(prompt_lengths)))
                random.Random(done).shuffle(mixed)  # noqa: S311 - the same order every time is all that is asked
                asked = [(_words(words_for(prompt), next(seeds)), output) for output, prompt in mixed]
            probes.append(await _send(session, endpoint, size, asked))
        on_progress(len(plan), len(plan))
    return endpoint, sizes, probes


def _words(num_words: int, seed: int) -> str:
    """A prompt unlike the others, so that no cache has it already."""
    from ssjf.loadgen.plan import synthetic_prompt
    from ssjf.workload.items import WorkItem

    return synthetic_prompt(WorkItem(index=0, input_tokens=num_words), seed)


async def _send(
    session: "aiohttp.ClientSession", endpoint: "Endpoint", num_seqs: int, asked: list[tuple[str, int]]
) -> "Probe":
    """Send (prompt, output tokens) with so many under way at once, the others in this order, and time their streams.

    Raises:
        BackendError: one of them was not answered in full.
    """
    import asyncio

    from ssjf.loadgen.client import Answer, ask
    from ssjf.loadgen.plan import PlannedRequest
    from ssjf.sim.steps.calibrate import Probe, StreamTiming

    clock = asyncio.get_running_loop().time
    answers: list[Answer] = []
    waiting = iter(
        [
            PlannedRequest(index=index, prompt=prompt, max_tokens=output_tokens, fixed_output=True)
            for index, (prompt, output_tokens) in enumerate(asked)
        ]
    )

    async def ask_one_after_another() -> None:
        for request in waiting:
            answers.append(Answer(sent_at=clock()))
            await ask(session, endpoint, request, answers[-1])

    await asyncio.gather(*(ask_one_after_another() for _ in range(num_seqs)))
    timings = []
    for answer in answers:
        if answer.error:
            raise BackendError(f"a probe of {num_seqs} requests at once failed: {answer.error}")
        if answer.first_token_at is None or answer.finished_at is None or answer.input_tokens is None:
            raise BackendError("a probe's answer had no text or no usage; the engine must stream, and count tokens")
        timings.append(
            StreamTiming(
                num_prompt_tokens=answer.input_tokens,
                num_output_tokens=answer.output_tokens,
                sent_at=answer.sent_at,
                first_token_at=answer.first_token_at,
                finished_at=answer.finished_at,
            )
        )
    return Probe(num_seqs=num_seqs, streams=tuple(timings))


async def _read_max_num_seqs(session: "aiohttp.ClientSession", endpoint: "Endpoint") -> int:
    """What the engine says on its metrics page, as ours does.

    Raises:
        ConfigError: it does not say.
    """
    import aiohttp

    address = endpoint.url.rstrip("/").removesuffix("/v1") + "/metrics"
    try:
        async with session.get(address) as response:
            found = _MAX_NUM_SEQS_METRIC.search(await response.text())
    except (aiohttp.ClientError, TimeoutError, OSError):
        found = None
    if found is None:
        raise ConfigError(f"{address} does not say how many requests run at once; give --max-num-seqs")
    return int(float(found[1]))


def _show(console: "Console", calibration: "Calibration") -> None:
    from rich.table import Table

    model = calibration.model
    table = Table(title="What an iteration costs")
    table.add_column("coefficient")
    table.add_column("value", justify="right")
    for name, seconds in (
        ("each iteration", model.base_s),
        ("each prompt token", model.per_prefill_token_s),
        ("each decoding sequence", model.per_decode_token_s),
        ("1,000 resident KV tokens", 1000 * model.per_kv_token_s),
        ("each request that enters", model.per_request_s),
    ):
        table.add_row(name, f"{seconds * 1000:.4f} ms")
    console.print(table)
    console.print(
        f"R² {calibration.r_squared:.4f}; relative error: median {calibration.relative_error(0.5):.1%}, "
        f"90th percentile {calibration.relative_error(0.9):.1%}, of {len(calibration.residuals)} measurements",
        highlight=False,
    )
