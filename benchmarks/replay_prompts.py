"""Real prompts with recorded lengths and real arrivals, through `ssjf serve` on the embedded engine.

    python benchmarks/replay_prompts.py PROMPTS.jsonl.gz TRACE.csv.gz --target-model NAME [--out out/replay]

The set's prompts are shuffled (seed 0); `--test` of them are sent, the others train the n-gram predictor. Every
request asks for exactly the recorded number of tokens (capped), so the answers' text does not matter and the order of
service is all that differs. FCFS, SSJF, aged SSJF, auto and the oracle (recorded lengths as hints) serve the same
requests at the same times, side by side: one engine, and before it one gateway for each policy with `--slots` slots of
it, so that whatever else the machine does meets all alike. The trace is scaled in time to `--load` of the capacity of
such a share, measured first with all slots busy. Gateways ignore `max_tokens`, which would give the length away.

It runs only commands that a user has: `ssjf engine`, `ssjf serve`, `ssjf train`, `ssjf replay`.
"""

import argparse
import asyncio
import contextlib
import json
import random
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table

from ssjf.cli.demo.processes import running_server
from ssjf.metrics.summary import summarize, write_summary
from ssjf.metrics.table import JobTable, read_jobs_csv
from ssjf.openai import render_messages
from ssjf.workload.items import WorkItem
from ssjf.workload.reader import read_workload

GATEWAYS = {
    "fcfs": ("--policy", "fcfs"),
    "ssjf": ("--policy", "ssjf"),
    "aged-ssjf": ("--policy", "aged-ssjf"),
    "auto": ("--policy", "auto"),
    "sjf": ("--policy", "ssjf", "--accept-hints"),
}


def write_rows(path: Path, items: list[WorkItem], arrivals: list[float] | None, cap: int) -> None:
    """A prompt set or workload in the canonical columns."""
    lines = []
    for position, item in enumerate(items):
        prompt = item.prompt if isinstance(item.prompt, str) else render_messages(item.prompt)
        row: dict[str, Any] = {"prompt": prompt, "output_tokens": min(item.output_tokens or 1, cap)}
        if arrivals is not None:
            row["arrival_s"] = arrivals[position]
        lines.append(json.dumps(row))
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")


async def run(options: argparse.Namespace) -> list[JobTable]:
    """Everything between reading the files and the figures."""
    out: Path = options.out
    items = [i for i in read_workload(options.prompts, target_model=options.target_model) if i.output_tokens]
    random.Random(0).shuffle(items)
    test, rest = items[: options.test], items[options.test :]
    write_rows(out / "train.jsonl", rest, None, options.cap)
    command = (sys.executable, "-m", "ssjf", "train", str(out / "train.jsonl"), "--out", str(out / "predictor"))
    await asyncio.to_thread(subprocess.run, command, check=True)
    slots, total = str(options.slots), str(options.slots * len(GATEWAYS))
    async with contextlib.AsyncExitStack() as stack:

        async def start(name: str, command: str, *flags: str) -> str:
            return await stack.enter_async_context(running_server(command, flags, log=out / f"{name}.log"))

        engine = await start("engine", "engine", "--max-num-seqs", total)
        write_rows(out / "burst.jsonl", rest[: options.test], [0.0] * len(rest[: options.test]), options.cap)
        url = await start("capacity", "serve", "--backend", engine, "--slots", total, *GATEWAYS["fcfs"])
        began = time.monotonic()
        await send(out / "burst.jsonl", url, out / "capacity", "capacity")
        rate = options.load * len(rest[: options.test]) / (time.monotonic() - began) / len(GATEWAYS)
        recorded = [item.arrival_s or 0.0 for item in read_workload(options.trace)][: len(test)]
        scale = len(test) / rate / (recorded[-1] - recorded[0])
        write_rows(out / "workload.jsonl", test, [(t - recorded[0]) * scale for t in recorded], options.cap)
        common = ("--backend", engine, "--slots", slots, "--ignore-max-tokens", "--predictor", str(out / "predictor"))
        urls = {policy: await start(policy, "serve", *common, *flags) for policy, flags in GATEWAYS.items()}
        hints = {"sjf": ("--hints",)}
        await asyncio.gather(*(send(out / "workload.jsonl", urls[p], out / p, p, *hints.get(p, ())) for p in GATEWAYS))
    return [table for policy in GATEWAYS for table in read_jobs_csv(out / policy / "jobs.csv")]


async def send(workload: Path, url: str, out: Path, label: str, *more: str) -> None:
    """One replay; its failure is ours."""
    words = ("--workload", str(workload), "--url", url, "--out", str(out), "--policy-label", label)
    command = (sys.executable, "-m", "ssjf", "replay", *words, "--fixed-output", *more)
    process = await asyncio.create_subprocess_exec(*command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    if await process.wait():
        raise SystemExit(f"the replay of {label} failed; see {out}")


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("prompts", type=Path)
    parser.add_argument("trace", type=Path)
    parser.add_argument("--target-model", required=True)
    parser.add_argument("--test", type=int, default=300)
    parser.add_argument("--cap", type=int, default=256)
    parser.add_argument("--slots", type=int, default=2)
    parser.add_argument("--load", type=float, default=1.0)
    parser.add_argument("--out", type=Path, default=Path("out/replay"))
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    tables = {table.policy: table for table in asyncio.run(run(options))}
    rows = [summarize(t, fcfs=tables["fcfs"], oracle=tables["sjf"]) for t in tables.values()]
    write_summary(options.out / "summary.json", rows)
    shown = Table(title=f"{options.test} prompts, completion times in seconds", title_justify="left")
    for heading in ("policy", "mean", "p50", "p90", "p99", "max", "TTFT", "tokens/s", "gain", "oracle's", "failed"):
        shown.add_column(heading, justify="left" if heading == "policy" else "right")
    for row in rows:
        seconds = [row[k] for k in ("mean_jct_s", "p50_jct_s", "p90_jct_s", "p99_jct_s", "max_jct_s", "mean_ttft_s")]
        speed = row["output_tokens_per_s"] or np.nan
        shares = [f"{row['gain']:.1%}", f"{row['oracle_share'] or 0:.0%}", str(row["failed"])]
        shown.add_row(row["policy"], *(f"{value:.2f}" for value in seconds), f"{speed:.0f}", *shares)
    Console().print(shown)


if __name__ == "__main__":
    main()
