"""Train the length predictor that ships with the package, and write its card.

    python training/default_predictor.py MMLU_PRO.jsonl.gz JUST_EVAL.jsonl.gz --out src/ssjf/predict/default

Both files are prompt sets as `ssjf train` reads them, with recorded answer lengths of many models: exam questions
(answers published with MMLU-Pro, Apache-2.0) and chat instructions (just-eval-instruct, MIT). One fifth of the prompts
of each is held out to measure, and then everything is trained on. Some 10 minutes on one core.
"""

import argparse
import hashlib
import json
import os
import statistics
import sys
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")

from ssjf.cli.prediction.samples import read_samples
from ssjf.predict.artefact import save_predictor
from ssjf.predict.ngram.features import opening
from ssjf.predict.training import Sample, measure, split_by_prompt
from ssjf.predict.trees.training import fit
from ssjf.workload.reader import ALL_MODELS

ATTRIBUTION = [
    {
        "data": "lengths of the answers of 15 models to MMLU-Pro",
        "source": "https://github.com/TIGER-AI-Lab/MMLU-Pro (eval_results)",
        "licence": "Apache-2.0",
    },
    {
        "data": "lengths of the answers of 13 models to just-eval-instruct",
        "source": "https://github.com/Re-Align/just-eval",
        "licence": "MIT",
    },
]
MAX_PROMPTS = 6000  # of the larger set, so that it does not drown the other


def thinned(samples: list[Sample]) -> list[Sample]:
    """At most so many prompts, the same for the same file."""
    prompts = sorted({sample.prompt for sample in samples}, key=lambda text: hashlib.sha256(text.encode()).digest())
    kept = set(prompts[:MAX_PROMPTS])
    return [sample for sample in samples if sample.prompt in kept]


def main() -> None:
    """Measure, train, write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("files", type=Path, nargs="+")
    parser.add_argument("--out", type=Path, required=True)
    arguments = parser.parse_args()
    sets = {path: thinned(read_samples(path, ALL_MODELS)[0]) for path in arguments.files}

    def tell(step: str) -> None:
        print(step, file=sys.stderr, flush=True)

    training: list[Sample] = []
    held_out: dict[Path, list[Sample]] = {}
    for path, samples in sets.items():
        inner, held_out[path] = split_by_prompt(samples, share=0.2, seed=0)
        training += inner
    predictor, settings = fit(training, seed=0, progress=tell)
    metrics: dict[str, Any] = {}
    for path, samples in held_out.items():
        by_model = {
            model: measure(predictor, [sample for sample in samples if sample.model == model])
            for model in sorted({sample.model for sample in samples})
        }
        nameless = [Sample(sample.prompt, sample.num_output_tokens) for sample in samples]
        metrics[path.name] = {
            "tau_b": {model: figures["tau_b"] for model, figures in by_model.items()},
            "mean_tau_b": statistics.fmean(figures["tau_b"] or 0.0 for figures in by_model.values()),
            # nobody's name: the average model
            "unknown_model_tau_b": measure(predictor, nameless)["tau_b"],
        }
        print(f"{path.name}: mean tau-b over target models {metrics[path.name]['mean_tau_b']:.3f}")
    predictor, settings = fit([sample for samples in sets.values() for sample in samples], seed=0, progress=tell)
    save_predictor(
        predictor,
        arguments.out,
        {
            "data": [
                {
                    "file": path.name,
                    "sha256": hashlib.sha256(path.read_bytes()).hexdigest(),
                    "rows": len(samples),
                    "prompts": len({sample.prompt for sample in samples}),
                }
                for path, samples in sets.items()
            ],
            "attribution": ATTRIBUTION,
            "settings": settings,
            "split": {"by": "prompt", "seed": 0, "holdout": 0.2, "then": "trained on everything"},
            "metrics": metrics,
        },
        openings=(opening(sample.prompt) for samples in sets.values() for sample in samples),
    )
    size = sum(path.stat().st_size for path in arguments.out.iterdir())
    print(json.dumps({"megabytes": round(size / 1e6, 2)}))


if __name__ == "__main__":
    main()
