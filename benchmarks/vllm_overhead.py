"""What the front door adds to a request: vLLM's own server with it, asked in turns through it and around it.

    .venv-vllm/bin/python -m benchmarks.vllm_overhead [--predictor ngram] [--requests 400]

One server and one engine, so that nothing else differs. It serves a tiny model and nobody waits: each request is sent
alone and asks for one token. The two requests of a pair, in random order, have the same prompt, which no other pair
has. Prints, per length of prompt, the median of the pairs' differences with its 95 % interval (bootstrap), and the
medians of both kinds. Target: 3 ms.

Then what the scheduler class adds to a step of the engine: processor time of vLLM's scheduler alone, which serves 400
requests in 16 sequences, predicted from their 100 token ids; per step, and the medians of five runs in turns.
"""

import argparse
import json
import os
import random
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

from tests.vllm import conftest as _environment  # noqa: F401 - before vLLM is imported: one thread, no network

os.environ["VLLM_LOGGING_LEVEL"] = "CRITICAL"

import httpx
import numpy as np
import numpy.typing as npt

from ssjf.integrations.vllm import SSJFScheduler
from tests.vllm.bench import Ask, make_scheduler, serve
from tests.vllm.serving import FRONT_DOOR, serving
from tests.vllm.tiny_model import write_tiny_model

WORDS = ("name", "a", "colour", "write", "the", "story", "of", "compiler", "sea", "explain", "step", "how", "question")
PROMPT_WORDS = (10, 100, 250)  # the tiny model's context is 1024 tokens
WARM_UP = 50


def ask(client: httpx.Client, url: str, prompt: str, headers: dict[str, str]) -> float:
    """Milliseconds of one chat completion of one token."""
    body = {"model": "tiny", "messages": [{"role": "user", "content": prompt}], "max_tokens": 1, "temperature": 0}
    began = time.perf_counter()
    client.post(f"{url}/v1/chat/completions", json=body, headers=headers).raise_for_status()
    return (time.perf_counter() - began) * 1000


def measure(url: str, num_words: int, num_pairs: int) -> npt.NDArray[np.float64]:
    """Milliseconds of each pair, around the front door and through it; shape (num_pairs, 2)."""
    rng = random.Random(num_words)
    pairs = []
    with httpx.Client(timeout=60) as client:
        for index in range(WARM_UP + num_pairs):
            prompt = f"{index} " + " ".join(rng.choices(WORDS, k=num_words))
            order = [0, 1] if rng.random() < 0.5 else [1, 0]
            pair = [0.0, 0.0]
            for which in order:
                pair[which] = ask(client, url, prompt, ({"x-around": "yes"}, {})[which])
            if index >= WARM_UP:
                pairs.append(pair)
    return np.array(pairs)


def microseconds_a_step(policy: str | None) -> float:
    """Processor time of one run of vLLM's scheduler, without us where there is no policy."""
    rng = random.Random(0)
    arrival, asks = 0.0, []
    for _ in range(400):
        arrival += rng.expovariate(1 / 7)
        asks.append(Ask(arrival, 100, rng.randint(5, 200), token=rng.randrange(300)))
    os.environ["SSJF_VLLM_POLICY"] = policy or ""
    kind = {} if policy is None else {"kind": SSJFScheduler}
    with tempfile.TemporaryDirectory() as folder:
        scheduler = make_scheduler(Path(folder), **kind, max_num_seqs=16)
        began = time.process_time()
        run = serve(scheduler, asks)
        return (time.process_time() - began) / run.num_steps * 1e6


def main() -> None:
    """Start it, ask it, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--predictor", default="ngram", help="a name, or the folder of a trained one")
    parser.add_argument("--requests", type=int, default=400, help="pairs per length of prompt")
    parser.add_argument("--out", type=Path, default=Path("out/vllm_overhead.json"))
    arguments = parser.parse_args()
    results: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory() as folder:
        model = write_tiny_model(Path(folder) / "model")
        settings = {"predictor": arguments.predictor}
        options = [*FRONT_DOOR[:-1], "tests.vllm.observing.ObservingMiddleware"]
        with serving(model, Path(folder) / "log", *options, settings=settings) as url:
            for num_words in PROMPT_WORDS:
                pairs = measure(url, num_words, arguments.requests)
                added = pairs[:, 1] - pairs[:, 0]
                rng = np.random.default_rng(0)
                medians = np.median(rng.choice(added, (2000, len(added))), axis=1)
                low, high = np.quantile(medians, (0.025, 0.975))
                row = {
                    "prompt_words": num_words,
                    "pairs": len(pairs),
                    "around_ms": float(np.median(pairs[:, 0])),
                    "through_ms": float(np.median(pairs[:, 1])),
                    "added_ms": float(np.median(added)),
                    "added_low_ms": float(low),
                    "added_high_ms": float(high),
                }
                results.append(row)
                print(
                    f"{num_words} words: {row['added_ms']:.2f} ms added ({low:.2f} to {high:.2f}); medians "
                    f"{row['around_ms']:.2f} and {row['through_ms']:.2f} ms, {len(pairs)} pairs",
                    flush=True,
                )
    runs = [{policy: microseconds_a_step(policy) for policy in (None, "ssjf", "auto")} for _ in range(5)]
    for policy in ("ssjf", "auto"):
        plain, ours = (statistics.median(run[which] for run in runs) for which in (None, policy))
        results.append({"policy": policy, "plain_us": plain, "ours_us": ours})
        print(f"a step: {plain:.0f} µs without us, {ours:.0f} µs with {policy}")
    arguments.out.parent.mkdir(parents=True, exist_ok=True)
    arguments.out.write_text(json.dumps(results, indent=2) + "\n")


if __name__ == "__main__":
    main()
