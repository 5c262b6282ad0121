"""Ten thousand requests waiting in the gateway: what each costs in memory, and what a decision costs in time.

    python -m benchmarks.gateway_waiting [--waiting 10000] [--policies fcfs,ssjf,auto]

Memory: `ssjf serve --slots 1` before an engine that is busy with one long answer gets that many chats, each on a
connection of its own; what its memory has grown by, over their number. Then, with all of them waiting, how long
`/v1/models` and `/metrics` take.

Decisions: a dispatcher in this process, with that many waiting; a request ends, another is let in and a third comes, so
that as many wait all the time. Each call of `end` and `submit` is timed by the processor time of its thread, so that
other processes do not count; true lengths and speeds vary, so that the waiting are valued anew now and then.

Targets: 30 KB for each that waits; 99 of 100 decisions within 5 ms.
"""

import argparse
import asyncio
import random
import statistics
import sys
import time
import urllib.request
from collections.abc import Sequence

import uvloop
from benchmarks.gateway_client import make_request
from benchmarks.gateway_processes import KEY, Process, gateway, upstream

from ssjf.core.places.servers import Server
from ssjf.core.scheduler import Scheduler
from ssjf.core.types import Outcome, Prediction, Request
from ssjf.forecast import Forecaster
from ssjf.gateway.dispatcher import Dispatcher
from ssjf.gateway.exchange import Exchange
from ssjf.gateway.http.incoming import Incoming
from ssjf.gateway.http.server import connections_allowed
from ssjf.gateway.telemetry import Telemetry
from ssjf.plugins import make_policy

PATIENCE_S = 300.0
NUM_DECISIONS = 5000


class _Words:
    """Predicts something different for each request, at no cost."""

    def predict(self, requests: Sequence[Request]) -> list[Prediction]:
        return [Prediction(float(len(request.prompt)), source="words@1") for request in requests]

    def observe(self, request: Request, num_output_tokens: int) -> None:
        """Learn nothing."""


def _get(server: Process, path: str) -> tuple[float, str]:
    """Seconds, and the page."""
    request = urllib.request.Request(f"http://127.0.0.1:{server.port}{path}")
    begun = time.perf_counter()
    with urllib.request.urlopen(request, timeout=60) as response:
        page = response.read().decode()
    return time.perf_counter() - begun, page


def _waiting(server: Process) -> int:
    page = _get(server, "/metrics")[1]
    return int(float(page.partition("\nssjf_requests_waiting ")[2].split()[0]))


async def _hold(server: Process, num_waiting: int) -> None:
    """Send the requests, wait until all wait, and print what that costs."""
    long = make_request(server.port, KEY, "chunks=1000 pace=0.5")
    short = make_request(server.port, KEY, "chunks=5 pace=0 " + "What is the capital of France? " * 3)
    writers = []

    async def ask(request: bytes) -> asyncio.StreamReader:
        reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
        writers.append(writer)
        writer.write(request)
        return reader

    first = await ask(long)
    await first.readuntil(b"\n\n")
    for _ in range(200):  # what is kept for the first few is no memory of theirs
        await ask(short)
    before, num_before = server.rss_bytes(), 200
    for _ in range(num_waiting - num_before):
        await ask(short)
    async with asyncio.timeout(PATIENCE_S):
        while await asyncio.to_thread(_waiting, server) < num_waiting:  # noqa: ASYNC110 - another process
            await asyncio.sleep(0.5)
    each = (server.rss_bytes() - before) / (num_waiting - num_before)
    print(f"{num_waiting} waiting: {each / 1000:.1f} KB each")
    for path in ("/v1/models", "/metrics"):
        seconds = [(await asyncio.to_thread(_get, server, path))[0] for _ in range(20)]
        print(f"{path}: median {1000 * statistics.median(seconds):.1f} ms, worst {1000 * max(seconds):.1f} ms")
    for writer in writers:
        writer.close()
    async with asyncio.timeout(PATIENCE_S):
        while await asyncio.to_thread(_waiting, server):  # noqa: ASYNC110 - another process
            await asyncio.sleep(0.5)
    print(f"all clients gone: none waits, {server.rss_bytes() / 1e6:.0f} MB held ({before / 1e6:.0f} MB before)")


async def _decide(policy: str, num_waiting: int) -> None:
    """Time decisions, and print their spread."""
    rng = random.Random(1)
    telemetry = Telemetry()
    now = 0.0
    forecaster = Forecaster(_Words(), budget_s=3600.0, on_failure=telemetry.fallback)
    dispatcher = Dispatcher(
        lambda servers: Scheduler(make_policy(policy), servers, max_wait_s=None),
        forecaster,
        telemetry,
        clock=lambda: now,
    )
    server = Server("one", 8)
    live: dict[str, Exchange] = {}

    def arrive(number: int) -> None:
        request = Request(
            request_id=str(number), prompt="x" * rng.randint(1, 500), num_prompt_tokens=20, arrival_time=now
        )
        incoming = Incoming(
            request=request, client_id="", path="", body=b"{}", stream=True, usage_wanted=False, hint=None, single=True
        )
        live[str(number)] = dispatcher.submit(incoming, [server])

    for number in range(num_waiting + server.slots):
        now += 0.001
        arrive(number)
        if number % 500 == 0:
            await asyncio.sleep(0)  # predictions come
    seconds: list[float] = []
    for number in range(num_waiting + server.slots, num_waiting + server.slots + NUM_DECISIONS):
        (scheduler,) = (lane.scheduler for lane in dispatcher.lanes)
        now += 0.05
        ended = live.pop(rng.choice(list(scheduler.running)))
        ended.first_token_at = ended.dispatched_at + 0.02
        speed = 2.0 if number % 1000 < 500 else 1.0  # the engine changes, and the waiting are valued anew
        ended.num_output_tokens = max(1, int(speed * len(ended.incoming.request.prompt) * rng.lognormvariate(0, 0.5)))
        begun = time.thread_time()
        dispatcher.end(ended, Outcome.COMPLETED)
        between = time.thread_time()
        arrive(number)
        seconds += [between - begun, time.thread_time() - between]
        if number % 50 == 0:
            await asyncio.sleep(0)
    assert len(dispatcher.live) == num_waiting + server.slots, "as many wait as at the beginning"
    await forecaster.close()
    levels = statistics.quantiles(seconds, n=1000)
    print(
        f"{policy}, {num_waiting} waiting: decision median {1e3 * statistics.median(seconds):.3f} ms, "
        f"p99 {1e3 * levels[989]:.3f} ms, p99.9 {1e3 * levels[998]:.3f} ms, worst {1e3 * max(seconds):.1f} ms"
    )


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--waiting", type=int, default=10_000)
    parser.add_argument("--policies", default="fcfs,ssjf,aged-ssjf,auto")
    args = parser.parse_args()
    if connections_allowed() < args.waiting + 500:
        sys.exit(f"this system allows too few open files for {args.waiting} connections")
    for policy in args.policies.split(","):
        uvloop.run(_decide(policy, args.waiting))
    options = ("--slots", "1", "--max-waiting", str(args.waiting + 1))
    with upstream(1) as engine, gateway(0, engine, *options) as server:
        uvloop.run(_hold(server, args.waiting))


if __name__ == "__main__":
    main()
