"""Latency of transformer encoders as length predictors on one core, beside the same encoders in PyTorch.

    python benchmarks/predictor_proxy.py [--sizes tiny,mini,base] [--out out/predictor_proxy.json]

Encoders have random weights: neither the time that a size takes nor how far eight bits are from thirty-two depends on
what was learned. Each prompt (200 words of the project's own instructions, and one of 15 words) is timed at batch 1
from text to prediction: tokenizing, the graph and decoding. PyTorch gets the token ids ready made and does the network
alone, in inference mode. All take turns in one process, so that what else the machine does hits them alike.

Expected: p50 of bert-tiny's size in eight bits at most 3 ms for 200 words.
"""

import argparse
import json
import os
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

os.environ["OMP_NUM_THREADS"] = "1"

import numpy as np
import torch
from tokenizers import Tokenizer

from ssjf.core.types import Request
from ssjf.predict.proxy.decoders import ScoreDecoder
from ssjf.predict.proxy.export import to_int8, to_onnx
from ssjf.predict.proxy.network import MAX_LENGTH, ProxyNetwork, new_encoder
from ssjf.predict.proxy.predictor import Runner
from ssjf.predict.proxy.text import NUM_HISTORY_FEATURES, Encoder, side_features
from ssjf.workload.generated.instructions import generate

SIZES: dict[str, dict[str, int]] = {
    "tiny": {"num_layers": 2, "hidden_size": 128, "num_heads": 2, "vocab_size": 30522},
    "mini": {"num_layers": 6, "hidden_size": 384, "num_heads": 12, "vocab_size": 30522},  # MiniLM-L6
    "base": {"num_layers": 12, "hidden_size": 768, "num_heads": 12, "vocab_size": 30522},
}
WORDS = (15, 200)
TAIL = 0.99


def measure(size: str, texts: list[str], repeats: int) -> dict[str, Any]:
    """Milliseconds and bytes of one size of encoder."""
    encoder, tokenizer = new_encoder(texts, **SIZES[size])
    # vocabularies of few texts are small; the table of a real one has its rows all the same
    encoder.resize_token_embeddings(SIZES[size]["vocab_size"], mean_resizing=False)
    network = ProxyNetwork(
        encoder, num_side_features=NUM_HISTORY_FEATURES, num_outputs=1, hidden=(128, 128), pooling="cls"
    ).eval()
    single = to_onnx(network, MAX_LENGTH)
    graphs = {"onnx": single, "onnx int8": to_int8(single)}
    frame: dict[str, Any] = {"target_models": (), "max_length": MAX_LENGTH, "truncation": "tail"}
    runners = {name: Runner(graph, tokenizer.to_str().encode(), **frame) for name, graph in graphs.items()}
    sizes = {name: len(graph) for name, graph in graphs.items()}
    result: dict[str, Any] = {"size": size, "bytes": sizes, "prompts": []}
    words = " ".join(texts).split()
    for count in WORDS:
        prompts = [" ".join(words[start : start + count]) for start in range(0, 16 * count, count)]
        result["prompts"].append({"words": count, **_times(network, runners, tokenizer, prompts, repeats)})
    return result


def _times(
    network: ProxyNetwork, runners: dict[str, Runner], tokenizer: Tokenizer, prompts: list[str], repeats: int
) -> dict[str, Any]:
    decoder = ScoreDecoder([0.0], knots=([-9.0, 9.0], [0.0, 9.0]))
    encode = Encoder.around(tokenizer, max_length=MAX_LENGTH, truncation="tail")
    times: dict[str, list[float]] = {"pytorch": [], **{name: [] for name in runners}}
    lengths = []
    for prompt in prompts:
        request = Request(request_id="r", prompt=prompt, arrival_time=0.0)
        ids = torch.tensor([encode.ids(prompt)])
        side = torch.from_numpy(side_features(prompt, "", ()))[None]
        lengths.append(ids.shape[1])

        def pytorch(ids: torch.Tensor = ids, side: torch.Tensor = side) -> object:
            with torch.inference_mode():
                return network(side, input_ids=ids)

        calls: dict[str, Callable[[], object]] = {"pytorch": pytorch}
        for name, runner in runners.items():
            calls[name] = lambda runner=runner, request=request: decoder.predictions(runner.outputs([request]), "b")
        for attempt in range(repeats + 1):
            for name, call in calls.items():
                begin = time.perf_counter()
                call()
                if attempt:  # the first of a length allocates
                    times[name].append((time.perf_counter() - begin) * 1e3)
    return {
        "tokens": statistics.median(lengths),
        "ms": {
            name: {"p50": statistics.median(values), "p99": float(np.quantile(values, TAIL))}
            for name, values in times.items()
        },
    }


def main() -> None:
    """Measure, print, write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sizes", default="tiny,mini,base", help=f"of {', '.join(SIZES)}")
    parser.add_argument("--repeats", type=int, default=20, help="of each prompt")
    parser.add_argument("--out", type=Path, default=Path("out/predictor_proxy.json"))
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    texts = [item.prompt for item in generate("train", 800, 0)]
    results = []
    print(f"{'encoder':8} {'words':>6} {'tokens':>7}" + "".join(f" {n:>19}" for n in ("pytorch", "onnx", "onnx int8")))
    for size in arguments.sizes.split(","):
        row = measure(size, texts, arguments.repeats)
        results.append(row)
        for prompts in row["prompts"]:
            figures = "".join(f" {f['p50']:8.2f} (p99 {f['p99']:5.1f})" for f in prompts["ms"].values())
            print(f"{size:8} {prompts['words']:6} {prompts['tokens']:7.0f}{figures}")
        sizes = ", ".join(f"{name} {size_ / 1e6:.1f} MB" for name, size_ in row["bytes"].items())
        print(f"{'':8} {sizes}", flush=True)
    arguments.out.parent.mkdir(parents=True, exist_ok=True)
    arguments.out.write_text(json.dumps(results, indent=2) + "\n")
    print(f"\nms from text to prediction at batch 1 on one core; written to {arguments.out}")


if __name__ == "__main__":
    main()
