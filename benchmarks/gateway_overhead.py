"""What the gateway costs, side by side with nothing, with a bare pass-through and with LiteLLM's proxy.

    python -m benchmarks.gateway_overhead [--litellm] [--repetitions 5] [--out out/gateway_overhead.json]

All stand before the same upstream, which streams server-sent events without thinking. Whatever is measured has a core
of its own; upstream and sender share the other. Within a repetition everyone has their turn at each load, and the
order changes from one repetition to the next.

- *paced*: streams of 50 chunks per second that start open loop, as a Poisson process: 1 and 64 at a time on average.
  `added TTFT` is the median time to the first event less that of the same load without a proxy.
- *unpaced*: 512 streams at once, each as fast as it is taken. `chunks per core second` is how many chunks came through
  for each second of the proxy's processor time.

Figures are medians over repetitions, with the smallest and the largest. With `--litellm` its pinned version is
installed in an environment of its own under out/ (1 GB); it runs with one worker, with logging off and no database.

Targets: added TTFT at 64 streams of at most 2 ms; chunks per core second at least half of the pass-through's and five
times LiteLLM's.
"""

import argparse
import contextlib
import json
import os
import random
import statistics
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from benchmarks.gateway_processes import KEY, Process, free_port, gateway, passthrough, running, send, upstream

LITELLM = "litellm[proxy]==1.103.0"
PACE = 50  # chunks per second
LOADS: dict[str, dict[str, float]] = {
    "paced, 1": {"streams": 20, "chunks": 20, "pace": PACE, "starts_per_s": PACE / 20},
    "paced, 64": {"streams": 256, "chunks": 100, "pace": PACE, "starts_per_s": 64 * PACE / 100},
    "unpaced, 512": {"streams": 512, "chunks": 200, "pace": 0, "starts_per_s": 0},
}
GATEWAYS = {
    "fcfs, nothing predicted": ("--policy", "fcfs", "--predictor", "constant"),
    "auto": ("--policy", "auto"),  # with what it costs to predict and to learn from every answer
}
PROXY_CORE, OTHER_CORE = 0, 1


@contextlib.contextmanager
def litellm(core: int, engine: Process, folder: Path) -> Iterator[Process]:
    """LiteLLM's proxy, installed if it is not yet."""
    venv = folder / "litellm-venv"
    if not (venv / "bin" / "litellm").exists():
        subprocess.run([sys.executable, "-m", "venv", venv], check=True)
        subprocess.run([venv / "bin" / "pip", "install", "--quiet", LITELLM], check=True)
    model = {"model": "openai/tiny", "api_base": f"http://127.0.0.1:{engine.port}/v1", "api_key": KEY}
    config = folder / "litellm.json"  # JSON is YAML too
    config.write_text(
        json.dumps(
            {
                "model_list": [{"model_name": "tiny", "litellm_params": model}],
                "litellm_settings": {"set_verbose": False, "callbacks": [], "num_retries": 0},
                "general_settings": {"disable_spend_logs": True, "master_key": KEY},
            }
        )
    )
    port = free_port()
    command = [venv / "bin" / "litellm", "--config", config, "--host", "127.0.0.1", "--port", port, "--num_workers", 1]
    command += ["--keepalive_timeout", 75]
    quiet = {"LITELLM_LOG": "ERROR", "LITELLM_LOCAL_MODEL_COST_MAP": "True", "LITELLM_TELEMETRY": "False"}
    with running([str(part) for part in command], core, port=port, env=quiet) as process:
        yield process


def measure(server: Process, load: dict[str, float], seed: int, proxy: Process | None) -> dict[str, float]:
    """One run; times in seconds."""
    before = 0.0 if proxy is None else proxy.cpu_s()
    result = send(OTHER_CORE, server, **load, seed=seed)
    row = {
        "ttft_s": statistics.median(result["ttft_s"] or [float("nan")]),
        "chunks": result["chunks"],
        "failed": result["failed"],
        "wall_s": result["wall_s"],
    }
    if proxy is not None:
        row["chunks_per_core_s"] = result["chunks"] / (proxy.cpu_s() - before)
    return row


def run(folder: Path, *, with_litellm: bool, repetitions: int) -> list[dict[str, Any]]:
    """Every proxy under every load, so many times."""
    rows: list[dict[str, Any]] = []
    with contextlib.ExitStack() as stack:
        engine = stack.enter_context(upstream(OTHER_CORE))
        servers: dict[str, Process] = {"direct": engine}
        servers["pass-through"] = stack.enter_context(passthrough(PROXY_CORE, engine))
        for name, options in GATEWAYS.items():
            servers[f"gateway, {name}"] = stack.enter_context(gateway(PROXY_CORE, engine, *options, "--slots", "1024"))
        if with_litellm:
            servers["litellm"] = stack.enter_context(litellm(PROXY_CORE, engine, folder))
        for server in servers.values():  # imports, connections and learned lengths are no part of the measurement
            send(OTHER_CORE, server, streams=32, chunks=10, pace=0, starts_per_s=0, seed=0)
        for repetition in range(repetitions):
            order = list(servers)
            random.Random(repetition).shuffle(order)
            for load_name, load in LOADS.items():
                for name in order:
                    proxy = None if name == "direct" else servers[name]
                    row = measure(servers[name], load, repetition, proxy)
                    rows.append({"server": name, "load": load_name, "repetition": repetition} | row)
                    print(".", end="", file=sys.stderr, flush=True)
        print(file=sys.stderr)
    return rows


def _spread(values: list[float], digits: int) -> str:
    return f"{statistics.median(values):.{digits}f} ({min(values):.{digits}f} to {max(values):.{digits}f})"


def report(rows: list[dict[str, Any]]) -> str:
    """The table that the documentation shows."""
    direct = {(row["load"], row["repetition"]): row["ttft_s"] for row in rows if row["server"] == "direct"}
    lines = [
        "| load | before the upstream | added TTFT, ms | chunks per core second | failed |",
        "|---|---|---|---|---|",
    ]
    for load in LOADS:
        for server in dict.fromkeys(row["server"] for row in rows):
            mine = [row for row in rows if row["server"] == server and row["load"] == load]
            added = [1000 * (row["ttft_s"] - direct[load, row["repetition"]]) for row in mine]
            rates = [row["chunks_per_core_s"] for row in mine if "chunks_per_core_s" in row]
            ttft = "-" if server == "direct" or load.startswith("unpaced") else _spread(added, 2)
            rate = _spread(rates, 0) if rates else "-"
            lines.append(f"| {load} | {server} | {ttft} | {rate} | {sum(row['failed'] for row in mine):.0f} |")
    return "\n".join(lines)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--litellm", action="store_true", help="measure LiteLLM's proxy too")
    parser.add_argument("--repetitions", type=int, default=5)
    parser.add_argument("--out", type=Path, default=Path("out/gateway_overhead.json"))
    args = parser.parse_args()
    if (os.cpu_count() or 1) < 2:
        sys.exit("this needs two cores: one for what is measured")
    args.out.parent.mkdir(parents=True, exist_ok=True)
    rows = run(args.out.parent, with_litellm=args.litellm, repetitions=args.repetitions)
    args.out.write_text(json.dumps(rows, indent=1))
    print(report(rows))


if __name__ == "__main__":
    main()
