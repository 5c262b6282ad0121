"""Every family and every formulation on the same prompts: how well they rank.

    python benchmarks/predictor_formulations.py --set PROMPTS.jsonl.gz:MODEL,MODEL [--prompts 2000] [--epochs 4]

No pretrained weights: this compares questions put to the same small encoder, made from scratch, and shows what a
fine-tuned encoder has to beat. `--encoder FOLDER` takes any Hugging Face encoder instead. Of larger sets a part of the
prompts is taken, chosen by hash. Prints Kendall's tau-b on the 20 % held out by split seeds 0, 1, ..., and the
seconds of a training. What is in the file of figures already is not computed again.
"""

import argparse
import hashlib
import itertools
import json
import os
import statistics
import sys
import tempfile
import time
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")

from predictor_families import of_model

from ssjf.cli.prediction.samples import read_samples
from ssjf.predict.proxy.formulations import FORMULATIONS
from ssjf.predict.proxy.training import fitter
from ssjf.predict.training import Fitter, Sample, measure, split_by_prompt
from ssjf.predict.training import fit as fit_ngram
from ssjf.predict.trees.training import fit as fit_trees
from ssjf.workload.reader import ALL_MODELS

OTHERS: dict[str, Fitter] = {"trees": fit_trees, "ngram": fit_ngram}


def part_of(samples: list[Sample], num_prompts: int) -> list[Sample]:
    """The samples of so many prompts."""
    order = sorted({sample.prompt for sample in samples}, key=lambda text: hashlib.sha256(text.encode()).digest())
    kept = set(order[:num_prompts])
    return [sample for sample in samples if sample.prompt in kept]


def main() -> None:
    """Train, measure, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--set", action="append", required=True, dest="sets", metavar="FILE:MODEL,MODEL")
    parser.add_argument("--encoder", default="scratch")
    parser.add_argument("--epochs", type=int, default=4)
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--prompts", type=int, default=2000, help="at most, of each set")
    parser.add_argument("--out", type=Path, default=Path("out/predictor_formulations.json"))
    arguments = parser.parse_args()
    figures: dict[str, dict[str, list[dict[str, float | None]]]] = {}
    if arguments.out.exists():
        figures = json.loads(arguments.out.read_text())
    arguments.out.parent.mkdir(parents=True, exist_ok=True)
    for text in arguments.sets:
        path, _, models = text.rpartition(":")
        samples = read_samples(Path(path), ALL_MODELS)[0]
        for model in models.split(","):
            mine = part_of(of_model(samples, model), arguments.prompts)
            for seed, name in itertools.product(range(arguments.seeds), (*OTHERS, "embedding", *FORMULATIONS)):
                runs = figures.setdefault(model, {}).setdefault(name, [])
                if len(runs) > seed:
                    continue
                training, test = split_by_prompt(mine, share=0.2, seed=seed)
                given = {"encoder": arguments.encoder, "epochs": arguments.epochs}
                with tempfile.TemporaryDirectory() as folder:
                    checkpoints = Path(folder) / "checkpoints"
                    if name in OTHERS:
                        fit = OTHERS[name]
                    elif name == "embedding":
                        fit = fitter(name, None, given, checkpoints=checkpoints)
                    else:
                        fit = fitter("proxy", None, given | {"formulation": name}, checkpoints=checkpoints)
                    began = time.perf_counter()
                    predictor, _ = fit(training, seed=seed, progress=lambda _: None)
                found = measure(predictor, test) | {"fit_s": time.perf_counter() - began}
                runs.append(found)
                arguments.out.write_text(json.dumps(figures, indent=2) + "\n")
                tau = found["tau_b"]
                print(f"{model}, {name}, seed {seed}: {tau if tau is None else round(tau, 3)}", file=sys.stderr)
    for model, by_name in figures.items():
        print(f"\n{model:28} {'tau-b':>24} {'log MAE':>9} {'accuracy of 5':>14} {'fit s':>7}")
        for name, runs in by_name.items():
            taus = [run["tau_b"] or 0.0 for run in runs]
            rest = [statistics.fmean(run[key] or 0.0 for run in runs) for key in ("log_mae", "accuracy_5", "fit_s")]
            spread = f"{statistics.fmean(taus):.3f} ({min(taus):.3f}-{max(taus):.3f})"
            print(f"{name:28} {spread:>24} {rest[0]:9.2f} {rest[1]:14.2f} {rest[2]:7.0f}")


if __name__ == "__main__":
    main()
