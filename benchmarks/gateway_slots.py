"""What `--slots auto` gains before an engine whose limit nobody told, beside slots set by hand and no gateway at all.

    python benchmarks/gateway_slots.py                                   # before `ssjf engine --max-num-seqs 6`
    python benchmarks/gateway_slots.py --engine URL --max-num-seqs 4     # before any engine that runs already

The same requests at the same times, at 1.3 times what the engine can do, in turn: straight to the engine; through the
gateway with the right number of slots, first come first served and shortest first; shortest first with `--slots auto`,
once as the engine shows itself and once with everything hidden but its answers. Lengths are fixed and told as hints, so
that only the slots differ. Prints mean completion times, gains, and tokens per second while there are more requests
than the engine runs at once (wherever they wait), with their spread over repetitions.

Our own engine gets a core of its own, as an engine elsewhere has a GPU of its own: gateway and clients run on the
others, unless --shared-cores is given. An engine given by --engine should be started under `taskset -c 0` likewise.
"""

import argparse
import asyncio
import contextlib
import json
import os
import random
import statistics
import sys
from collections.abc import AsyncIterator, Sequence
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import aiohttp
from aiohttp import web

from ssjf.cli.demo.processes import running_server
from ssjf.loadgen.client import COMPLETED, Endpoint, first_model
from ssjf.loadgen.plan import PlannedRequest
from ssjf.loadgen.sender import Run, run_loop, send_closed_loop, send_open_loop
from ssjf.metrics.records import JobRecord
from ssjf.workload.arrivals import Poisson

LOAD = 1.3
ARMS = ("direct", "fcfs, slots by hand", "ssjf, slots by hand", "ssjf, auto", "ssjf, auto, engine hidden")
WORDS = [
    "time",
    "year",
    "people",
    "way",
    "day",
    "thing",
    "woman",
    "life",
    "child",
    "world",
    "school",
    "state",
    "family",
    "student",
    "group",
    "country",
]


def requests_of(num: int, seed: int) -> list[PlannedRequest]:
    """Lengths as of a chat: log-normal, 8 to 900 tokens."""
    rng = random.Random(seed)
    lengths = [min(max(round(rng.lognormvariate(4.6, 1.0)), 8), 900) for _ in range(num)]
    return [
        PlannedRequest(
            index=index,
            prompt=" ".join(rng.choices(WORDS, k=rng.randrange(4, 20))),
            max_tokens=length,
            fixed_output=True,
            hint=length,
        )
        for index, length in enumerate(lengths)
    ]


@contextlib.asynccontextmanager
async def hidden(engine: str) -> AsyncIterator[str]:
    """The engine's /v1 and nothing else of it."""
    async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=None)) as session:

        async def pass_on(request: web.Request) -> web.StreamResponse:
            body = await request.read()
            async with session.request(
                request.method, f"{engine}{request.path_qs}", data=body, headers={"content-type": "application/json"}
            ) as answer:
                response = web.StreamResponse(status=answer.status, headers={"content-type": answer.content_type})
                await response.prepare(request)
                async for data in answer.content.iter_any():
                    await response.write(data)
                return response

        app = web.Application(client_max_size=2**26)
        app.router.add_route("*", "/v1/{rest:.*}", pass_on)
        runner = web.AppRunner(app, handler_cancellation=True)
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        yield f"http://127.0.0.1:{runner.addresses[0][1]}"
        await runner.cleanup()


@contextlib.asynccontextmanager
async def arm_url(arm: str, engine: str, slots: int, out: Path) -> AsyncIterator[str]:
    """Where the requests of an arm go."""
    if arm == "direct":
        yield engine
        return
    policy, how, *_ = arm.split(", ")
    number = str(slots) if how == "slots by hand" else "auto"
    async with contextlib.AsyncExitStack() as stack:
        url = await stack.enter_async_context(hidden(engine)) if "hidden" in arm else engine
        options = ["--backend", url, "--policy", policy, "--slots", number, "--accept-hints"]
        options += ["--predictor", "constant"]
        yield await stack.enter_async_context(running_server("serve", options, log=out / "gateway.log"))


def tokens_per_s_while_full(done: Sequence[JobRecord], slots: int) -> float:
    """Output tokens per second while more requests than `slots` are there; a request's come evenly from its first."""
    spans = [(r.arrival_s, r.first_token_s or r.arrival_s, r.finish_s or r.arrival_s, r.output_tokens) for r in done]
    changes = sorted({at for span in spans for at in span[:3]})
    tokens = seconds = 0.0
    for since, until in pairwise(changes):
        if sum(arrival <= since and until <= finish for arrival, _, finish, _ in spans) > slots:
            running = [n / (finish - first) for _, first, finish, n in spans if first <= since and until <= finish]
            tokens += sum(running) * (until - since)
            seconds += until - since
    return tokens / seconds


async def measure(engine: str, slots: int, num: int, repetitions: int, out: Path) -> dict[str, list[dict[str, float]]]:
    """Figures by arm, one for each repetition."""
    found: dict[str, list[dict[str, float]]] = {arm: [] for arm in ARMS}
    model = await first_model(Endpoint(url=engine))
    for repetition in range(repetitions):
        requests = requests_of(num, seed=repetition)
        endpoint = Endpoint(url=engine, model=model)
        await send_closed_loop(endpoint, requests[: num // 4], Run("warm-up"), workers=slots)
        loop = asyncio.get_running_loop()
        began = loop.time()
        await send_closed_loop(endpoint, requests, Run("capacity"), workers=slots)
        capacity = num / (loop.time() - began)
        print(f"repetition {repetition}: {capacity:.1f} requests/s at capacity", file=sys.stderr)
        times = Poisson(LOAD * capacity).times(num, repetition).tolist()
        planned = [replace(request, arrival_s=at) for request, at in zip(requests, times, strict=True)]
        order = list(ARMS)
        random.Random(repetition).shuffle(order)  # whatever else the machine does is to meet every arm
        for arm in order:
            run = Run(arm)
            async with arm_url(arm, engine, slots, out) as url:
                await send_open_loop(replace(endpoint, url=url), planned, run)
            done = [record for record in run.records if record.status == COMPLETED]
            if len(done) < num:
                print(f"{arm}: {num - len(done)} failed: {dict(run.errors)}", file=sys.stderr)
            mean = statistics.fmean(r.finish_s - r.arrival_s for r in done if r.finish_s is not None)
            found[arm].append({"mean_jct_s": mean, "tokens_per_s": tokens_per_s_while_full(done, slots)})
            print(f"repetition {repetition}, {arm}: mean {mean:.2f} s", file=sys.stderr)
    return found


def show(found: dict[str, list[dict[str, float]]]) -> None:
    """The table."""

    def spread(values: list[float]) -> str:
        return f"{statistics.fmean(values):7.3f} ({min(values):.3f}-{max(values):.3f})"

    base = [figures["mean_jct_s"] for figures in found["direct"]]
    rates = [figures["tokens_per_s"] for figures in found["direct"]]
    best = [1 - f["mean_jct_s"] / b for f, b in zip(found["ssjf, slots by hand"], base, strict=True)]
    print(f"{'':28} {'mean JCT, s':>22} {'gain over direct':>24} {'of that by hand':>24} {'tokens/s of direct':>24}")
    for arm, runs in found.items():
        gains = [1 - f["mean_jct_s"] / b for f, b in zip(runs, base, strict=True)]
        shares = [gain / reference for gain, reference in zip(gains, best, strict=True)]
        speeds = [f["tokens_per_s"] / rate for f, rate in zip(runs, rates, strict=True)]
        print(
            f"{arm:28} {spread([f['mean_jct_s'] for f in runs]):>22} {spread(gains):>24} {spread(shares):>24} "
            f"{spread(speeds):>24}"
        )


async def run_all(arguments: argparse.Namespace) -> dict[str, list[dict[str, float]]]:
    """Before the engine that runs, or one of our own."""
    arguments.out.mkdir(parents=True, exist_ok=True)
    cores = sorted(os.sched_getaffinity(0))
    if not arguments.shared_cores:
        os.sched_setaffinity(0, cores[:1])  # inherited by whoever is started now
    slots, sizes = arguments.max_num_seqs, (arguments.num, arguments.repetitions, arguments.out)
    others = cores if arguments.shared_cores else cores[1:] or cores
    if arguments.engine is not None:
        os.sched_setaffinity(0, others)
        return await measure(arguments.engine, slots, *sizes)
    log = arguments.out / "engine.log"
    async with running_server("engine", ["--max-num-seqs", str(slots)], log=log) as engine:
        os.sched_setaffinity(0, others)
        return await measure(engine, slots, *sizes)


def main() -> None:
    """Measure, print, write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--engine", help="URL of an engine that runs; default: ours is started")
    parser.add_argument("--max-num-seqs", type=int, default=6, help="what the engine runs at once")
    parser.add_argument("--shared-cores", action="store_true", help="engine, gateway and clients share all cores")
    parser.add_argument("--num", type=int, default=300, help="requests in each run")
    parser.add_argument("--repetitions", type=int, default=3)
    parser.add_argument("--out", type=Path, default=Path("out/gateway_slots"))
    arguments = parser.parse_args()
    found = run_loop(run_all(arguments))
    show(found)
    (arguments.out / "figures.json").write_text(json.dumps(found, indent=2) + "\n")


if __name__ == "__main__":
    main()
