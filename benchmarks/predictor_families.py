"""Every family of predictors that trains in minutes on a CPU, side by side with trivial baselines.

    python benchmarks/predictor_families.py --set PROMPTS.jsonl.gz:MODEL,MODEL [--set ...] [--out FILE.json]

A set is a workload file with prompts and lengths per model. For each model: Kendall's tau-b, error and coverage on the
20 % of the prompts held out by split seeds 0, 1 and 2, of families trained on that model alone and on all models of
the set ("+ all": the same held-out prompts, unseen for every model). scikit-learn's ridge gets the better of several
penalties *on the test part*. Each family trained for the first model of a set also ranks the answers of the first model
in every other set, and tells how sure it is there. Latency is taken on prompts of 200 words made by joining those of
the first set, one core.
"""

import argparse
import json
import math
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

import numpy as np
from predictor_ngram import SKLEARN_PENALTIES, SklearnPredictor, latencies, mean_and_spread, show, tau_b

from ssjf.cli.prediction.samples import read_samples
from ssjf.core.types import Request
from ssjf.predict.artefact import Saveable, save_predictor
from ssjf.predict.base import Predictor
from ssjf.predict.training import Fitter, Sample, as_request, fit, measure, split_by_prompt
from ssjf.predict.trees.training import fit as fit_trees
from ssjf.workload.reader import ALL_MODELS

SEEDS = (0, 1, 2)
FAMILIES: dict[str, Fitter] = {"ngram": fit, "trees": fit_trees}
METRICS = ("tau_b", "mae", "log_mae", "coverage_0.1", "coverage_0.5", "coverage_0.9")


def of_model(samples: Sequence[Sample], model: str) -> list[Sample]:
    """The samples of one model."""
    return [sample for sample in samples if sample.model == model]


def accuracy(samples: Sequence[Sample], models: Sequence[str]) -> dict[str, dict[str, list[dict[str, float | None]]]]:
    """Metrics by model and predictor, one per split seed."""
    found: dict[str, dict[str, list[dict[str, float | None]]]] = {model: {} for model in models}

    def add(model: str, name: str, metrics: dict[str, float | None]) -> None:
        found[model].setdefault(name, []).append({key: metrics.get(key) for key in (*METRICS, "fit_s")})

    for seed in SEEDS:
        training, test = split_by_prompt(samples, share=0.2, seed=seed)
        for family, fitter in FAMILIES.items():
            whole, fit_s = timed(fitter, training, seed)
            for model in models:
                add(model, f"{family} + all", {**measure(whole, of_model(test, model)), "fit_s": fit_s})
        for model in models:
            # a prompt without a length of this model is nobody's: split anew, as `ssjf train` does
            mine, held_out = split_by_prompt(of_model(samples, model), share=0.2, seed=seed)
            for family, fitter in FAMILIES.items():
                alone, fit_s = timed(fitter, mine, seed)
                add(model, family, {**measure(alone, held_out), "fit_s": fit_s})
            lengths = [float(len(sample.prompt)) for sample in held_out]
            add(model, "prompt length", {"tau_b": tau_b(lengths, held_out)})
            constant = statistics.fmean(sample.num_output_tokens for sample in mine)
            errors = [abs(sample.num_output_tokens - constant) for sample in held_out]
            add(model, "constant", {"mae": statistics.fmean(errors)})
            for penalty, value in ridge(mine, held_out).items():
                add(model, f"ridge {penalty:g}", {"tau_b": value})
            print(f"split {seed}, {model}: done", file=sys.stderr)
    for by_name in found.values():
        ridges = [by_name.pop(f"ridge {penalty:g}") for penalty in SKLEARN_PENALTIES]
        by_name["scikit-learn ridge"] = max(ridges, key=lambda runs: sum(run["tau_b"] or 0 for run in runs))
    return found


def ridge(training: Sequence[Sample], test: Sequence[Sample]) -> dict[float, float]:
    """The reference's tau-b by penalty."""
    reference = SklearnPredictor()
    train_rows, test_rows = (reference.rows([sample.prompt for sample in part]) for part in (training, test))
    result = {}
    for penalty in SKLEARN_PENALTIES:
        reference.fit(training, penalty, train_rows)
        result[penalty] = tau_b(reference.predict(test_rows), test)
    return result


def quiet(step: str) -> None:
    """Tell nobody."""


def timed(fitter: Fitter, samples: Sequence[Sample], seed: int) -> tuple[Saveable, float]:
    """A predictor, and the seconds that it took to train."""
    begin = time.perf_counter()
    predictor, _ = fitter(samples, seed=seed, progress=quiet)
    return predictor, time.perf_counter() - begin


def abroad(predictor: Predictor, samples: Sequence[Sample]) -> dict[str, float]:
    """Ranking, and the median of the width of predictions: the 90 % quantile divided by the 10 % one."""
    predictions = predictor.predict([as_request(sample) for sample in samples])
    quantiles = [dict(prediction.quantiles) for prediction in predictions]
    return {
        "tau_b": tau_b([prediction.num_output_tokens for prediction in predictions], samples),
        "width": statistics.median(q[0.9] / q[0.1] for q in quantiles),
    }


def cost(predictor: Saveable, prompts: Sequence[str]) -> dict[str, float]:
    """Milliseconds for one prompt and for 32 at once, and megabytes on disk."""
    requests = [Request(request_id=str(i), prompt=p, arrival_time=0.0) for i, p in enumerate(prompts)]
    one = [t for request in requests for t in latencies(lambda request=request: predictor.predict([request]), 20)]
    batch = latencies(lambda: predictor.predict(requests[:32]), 100)
    with tempfile.TemporaryDirectory() as folder:
        save_predictor(predictor, Path(folder))
        size = sum(path.stat().st_size for path in Path(folder).iterdir())
    return {
        "p50_ms": float(np.median(one)),
        "p99_ms": float(np.quantile(one, 0.99)),
        "batch_32_p50_ms": float(np.median(batch)),
        "batch_32_p99_ms": float(np.quantile(batch, 0.99)),
        "size_mb": size / 1e6,
    }


def summary(runs: Sequence[dict[str, float | None]], key: str) -> str:
    """Mean and spread over the splits, or a dash."""
    values = [run[key] for run in runs if run[key] is not None and not math.isnan(run[key] or 0)]
    return show(mean_and_spread(values)) if len(values) > 1 else "-"


def main() -> None:
    """Measure, print, write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--set", action="append", required=True, dest="sets", metavar="FILE:MODEL,MODEL")
    parser.add_argument("--out", type=Path, default=Path("out/predictor_families.json"))
    arguments = parser.parse_args()
    sets: dict[Path, list[str]] = {}
    for text in arguments.sets:
        path, colon, models = text.rpartition(":")
        if not colon:
            sys.exit(f"--set {text}: give FILE:MODEL,MODEL")
        sets[Path(path)] = models.split(",")
    read = {path: read_samples(path, ALL_MODELS)[0] for path in sets}
    result: dict[str, Any] = {"seeds": SEEDS, "accuracy": {}, "abroad": {}, "cost": {}}

    parts = {path: split_by_prompt(of_model(read[path], sets[path][0]), share=0.2, seed=0) for path in sets}
    words = " ".join(sample.prompt for sample in next(iter(parts.values()))[0]).split()
    prompts = [" ".join(words[i : i + 200]) for i in range(0, 64 * 200, 200)]
    print(f"{'one core, prompts of 200 words':34} {'p50 ms':>8} {'p99 ms':>8} {'32: p50':>8} {'32: p99':>8} {'MB':>6}")
    alone = {
        (path, family): timed(fitter, parts[path][0], 0)[0] for path in sets for family, fitter in FAMILIES.items()
    }
    for (path, family), predictor in alone.items():
        figures = cost(predictor, prompts)
        result["cost"][f"{family}, {path.name}"] = figures
        print(
            f"{family + ', ' + path.name:34}"
            + "".join(f" {value:{6 if key == 'size_mb' else 8}.2f}" for key, value in figures.items())
        )

    print(f"\n{'trained on 80 % of one set, asked about 20 % of another':60} {'tau-b':>7} {'width':>7}")
    for (path, family), predictor in alone.items():
        for other, (_, held_out) in parts.items():
            figures = abroad(predictor, held_out)
            result["abroad"][f"{family}, {path.name}, {other.name}"] = figures
            label = f"{family}: {path.name} -> {'itself' if other == path else other.name}"
            print(f"{label:60} {figures['tau_b']:7.3f} {figures['width']:7.1f}")

    for path, models in sets.items():
        found = accuracy(read[path], models)
        result["accuracy"][path.name] = found
        for model, by_name in found.items():
            print(f"\n{model:20}" + "".join(f" {metric:>15}" for metric in METRICS) + f" {'fit_s':>12}")
            for name, runs in sorted(by_name.items()):
                print(f"{name:20}" + "".join(f" {summary(runs, metric):>15}" for metric in (*METRICS, "fit_s")))
    arguments.out.parent.mkdir(parents=True, exist_ok=True)
    arguments.out.write_text(json.dumps(result, indent=2) + "\n")
    print(f"\nwritten to {arguments.out}")


if __name__ == "__main__":
    main()
