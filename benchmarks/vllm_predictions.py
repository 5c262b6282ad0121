"""A prompt set with a prediction for every prompt, each by a predictor that has not seen it: cross-fitting.

    python benchmarks/vllm_predictions.py PROMPTS.jsonl.gz --target-model NAME [--also OTHER.jsonl.gz] [--family trees]

The prompts are dealt into five parts, those with the same opening into the same one. Five predictors are trained, each
on the lengths by all models of four parts, and on all of `--also`; each predicts its fifth part. Prints Kendall's tau-b
and writes a workload file for `benchmarks/vllm_gain.py`. Training `trees` needs the extra `train`.
"""

import argparse
from pathlib import Path

import numpy as np
import orjson
from predictor_families import FAMILIES

from ssjf.cli.prediction.samples import read_samples
from ssjf.openai import render_messages
from ssjf.predict.evaluation import evaluate
from ssjf.predict.ngram.features import opening
from ssjf.predict.training import Sample, as_request
from ssjf.workload.reader import ALL_MODELS, read_workload

NUM_PARTS = 5


def main() -> None:
    """Train, predict, write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("prompts", type=Path)
    parser.add_argument("--target-model", required=True)
    parser.add_argument("--also", type=Path, help="another prompt set to learn from")
    parser.add_argument("--also-prompts", type=int, default=2500, help="how many prompts of it, from its beginning")
    parser.add_argument("--family", choices=tuple(FAMILIES), default="trees")
    parser.add_argument("--out", type=Path, default=Path("out/vllm_predictions.jsonl"))
    arguments = parser.parse_args()

    items = read_workload(arguments.prompts, target_model=arguments.target_model)
    samples = read_samples(arguments.prompts, ALL_MODELS)[0]
    more: list[Sample] = []
    if arguments.also is not None:
        more = read_samples(arguments.also, ALL_MODELS)[0]
        kept = set(list(dict.fromkeys(sample.prompt for sample in more))[: arguments.also_prompts])
        # a model of the same name answers another kind of question there: its level is another
        more = [Sample(s.prompt, s.num_output_tokens, f"{s.model}, other set") for s in more if s.prompt in kept]
    prompts = [item.prompt if isinstance(item.prompt, str) else render_messages(item.prompt or []) for item in items]
    openings = sorted({opening(prompt) for prompt in prompts})
    dealt = np.random.default_rng(0).permutation(len(openings)) % NUM_PARTS
    part = dict(zip(openings, dealt.tolist(), strict=True))

    predictions = {}
    for unseen in range(NUM_PARTS):
        training = [sample for sample in samples if part[opening(sample.prompt)] != unseen]
        predictor, _ = FAMILIES[arguments.family](training + more, seed=0)
        asked = [i for i, prompt in enumerate(prompts) if part[opening(prompt)] == unseen]
        requests = [as_request(Sample(prompts[i], 1, arguments.target_model)) for i in asked]
        predictions.update(zip(asked, predictor.predict(requests), strict=True))
        print(f"part {unseen + 1} of {NUM_PARTS}: {len(training + more)} samples", flush=True)

    truth = [item.output_tokens or 1 for item in items]
    tau_b = evaluate([predictions[i] for i in range(len(items))], truth)["tau_b"]
    print(f"{len(items)} prompts, tau-b {tau_b:.3f}")
    arguments.out.parent.mkdir(parents=True, exist_ok=True)
    with arguments.out.open("wb") as file:
        for i, item in enumerate(items):
            row = {"input_tokens": item.input_tokens, "output_tokens": item.output_tokens}
            row |= {"predicted_tokens": round(predictions[i].num_output_tokens, 3), "prompt": prompts[i]}
            file.write(orjson.dumps(row) + b"\n")


if __name__ == "__main__":
    main()
