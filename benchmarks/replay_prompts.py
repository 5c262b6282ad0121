"""Real prompts with recorded lengths and real arrivals, through `ssjf serve` on the embedded engine.

    python benchmarks/replay_prompts.py PROMPTS.jsonl.gz TRACE.csv.gz --target-model NAME [--out out/replay]

The set's prompts are shuffled (seed 0); `--test` of them are sent, the others train the n-gram predictor. Every
request asks for exactly the recorded number of tokens (capped), so the answers' text does not matter and the order of
service is all that differs. The trace is scaled in time to `--load` of the capacity, which is measured closed-loop
first. FCFS, SSJF, aged SSJF, auto and the oracle (recorded lengths as hints) serve the same requests at the same times
through gateways of their own before one engine. Gateways ignore `max_tokens`, which would give the length away.

It runs only commands that a user has: `ssjf engine`, `ssjf serve`, `ssjf train`, `ssjf replay`.
"""

import argparse
import asyncio
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


def ssjf(*words: str) -> None:
    """Run a command; its failure is ours."""
    subprocess.run([sys.executable, "-m", "ssjf", *words], check=True)


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
    ssjf("train", str(out / "train.jsonl"), "--out", str(out / "predictor"))
    tables = []
    async with running_server("engine", ("--max-num-seqs", str(options.slots)), log=out / "engine.log") as engine:
        common = ("--backend", engine, "--slots", str(options.slots), "--ignore-max-tokens")
        write_rows(out / "burst.jsonl", rest[: options.test], [0.0] * len(rest[: options.test]), options.cap)
        async with running_server("serve", (*common, *GATEWAYS["fcfs"]), log=out / "warm.log") as url:
            began = time.monotonic()
            await asyncio.to_thread(send, out / "burst.jsonl", url, out / "burst", "capacity")
            rate = options.load * len(rest[: options.test]) / (time.monotonic() - began)
        recorded = [item.arrival_s or 0.0 for item in read_workload(options.trace)][: len(test)]
        scale = len(test) / rate / (recorded[-1] - recorded[0])
        arrivals = [(instant - recorded[0]) * scale for instant in recorded]
        write_rows(out / "workload.jsonl", test, arrivals, options.cap)
        for policy, flags in GATEWAYS.items():
            options_ = (*common, *flags, "--predictor", str(out / "predictor"))
            async with running_server("serve", options_, log=out / f"{policy}.log") as url:
                hints = ("--hints",) if policy == "sjf" else ()
                await asyncio.to_thread(send, out / "workload.jsonl", url, out / policy, policy, *hints)
            tables += read_jobs_csv(out / policy / "jobs.csv")
    return tables


def send(workload: Path, url: str, out: Path, label: str, *more: str) -> None:
    """One replay."""
    words = ("--workload", str(workload), "--url", url, "--out", str(out), "--policy-label", label)
    ssjf("replay", *words, "--fixed-output", *more)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("prompts", type=Path)
    parser.add_argument("trace", type=Path)
    parser.add_argument("--target-model", required=True)
    parser.add_argument("--test", type=int, default=300)
    parser.add_argument("--cap", type=int, default=256)
    parser.add_argument("--slots", type=int, default=4)
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
