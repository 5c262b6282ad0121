"""A public load generator, guidellm, end to end against `ssjf serve`: does it understand everything it gets?

    python -m benchmarks.gateway_loadgen [--requests 100] [--rate 15] [--out out]

The engine is the one of the other benchmarks: 5 to 44 chunks at 50 per second, on 8 slots. Prints guidellm's own tables
and fails if one of its requests failed. Its pinned version is installed in an environment of its own under --out, with
torch for the CPU (1 GB; set TORCH_INDEX to the wheel index if yours lacks it).
"""

import argparse
import json
import os
import subprocess
import sys
from pathlib import Path

from benchmarks.gateway_processes import gateway, upstream

GUIDELLM, TORCH = "guidellm==0.8.1", "torch==2.13.0"


def install(folder: Path) -> Path:
    """guidellm, if it is not there yet; its command."""
    venv = folder / "guidellm-venv"
    command = venv / "bin" / "guidellm"
    if not command.exists():
        index = os.environ.get("TORCH_INDEX")
        pip = [venv / "bin" / "pip", "install", "--quiet"]
        subprocess.run([sys.executable, "-m", "venv", venv], check=True)
        subprocess.run([*pip, *(["--extra-index-url", index] if index else []), TORCH], check=True)
        subprocess.run([*pip, GUIDELLM], check=True)
    return command


def main() -> None:
    """Run it and print what it prints."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--requests", type=int, default=100)
    parser.add_argument("--rate", type=float, default=15.0, help="requests per second")
    parser.add_argument("--out", type=Path, default=Path("out"))
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    guidellm = install(args.out)
    prompts, figures = args.out / "guidellm_prompts.jsonl", args.out / "guidellm.json"
    lines = [json.dumps({"prompt": f"chunks={n % 40 + 5} pace=50 question {n}"}) for n in range(args.requests)]
    prompts.write_text("\n".join(lines))
    with upstream(1) as engine, gateway(0, engine, "--slots", "8") as server:
        command = [guidellm, "run", "--disable-progress", "--data", f"kind=json_file,path={prompts}"]
        command += ["--backend", f"kind=openai_http,target=http://127.0.0.1:{server.port},model=tiny"]
        command += ["--profile", f"kind=poisson,rate={args.rate:g}"]
        command += ["--constraint", f"kind=max_requests,count={args.requests}"]
        command += ["--output", "kind=console", "--output", f"kind=json,path={figures}"]
        subprocess.run(command, check=True)
    (benchmark,) = json.loads(figures.read_text())["benchmarks"]
    totals = benchmark["metrics"]["request_totals"]
    print(totals)
    if totals["successful"] != args.requests:
        sys.exit("some of its requests failed")


if __name__ == "__main__":
    main()
