"""Speed and ranking of the n-gram predictor, beside scikit-learn's HashingVectorizer + Ridge in the same process.

    python benchmarks/predictor_ngram.py --set PROMPTS.jsonl.gz:MODEL,MODEL [--set ...] [--out out/predictor_ngram.json]

A set is a workload file with prompts and lengths per model. For each model: Kendall's tau-b on the 20 % of the prompts
held out by split seeds 0, 1 and 2; scikit-learn gets the better of several penalties *on the test part*, ours chooses
its own from the training part. Then the online predictor, untrained, sees each set's prompts in random order, asked
before it is told, and its ranking of late requests is compared with that of the model trained offline; half-way the
target model changes. Speed is taken on prompts of 200 words made by joining those of the first set, one core.
"""

import argparse
import json
import os
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

import numpy as np
from scipy.sparse import hstack, spmatrix
from scipy.stats import kendalltau
from sklearn.feature_extraction.text import HashingVectorizer
from sklearn.linear_model import Ridge

from ssjf.core.types import Request
from ssjf.openai import render_messages
from ssjf.predict.ngram.predictor import NgramPredictor
from ssjf.predict.training import Sample, as_request, fit, split_by_prompt
from ssjf.workload.reader import read_workload

SEEDS = (0, 1, 2)
SKLEARN_PENALTIES = (0.1, 0.3, 1.0, 3.0, 6.0)
WINDOW = 500  # requests of a stream before ranking is looked at; and how many are looked at


class SklearnPredictor:
    """The reference: word 1-2-grams and within-word 2-5-grams, hashed; ridge on log(1 + tokens)."""

    def __init__(self) -> None:
        self._words = HashingVectorizer(ngram_range=(1, 2), n_features=2**18)
        self._characters = HashingVectorizer(analyzer="char_wb", ngram_range=(2, 5), n_features=2**18)

    def rows(self, prompts: Sequence[str]) -> spmatrix:
        """Hashed features; both vectorizers normalise each prompt."""
        return hstack([self._words.transform(prompts), self._characters.transform(prompts)]).tocsr()

    def fit(self, samples: Sequence[Sample], penalty: float, rows: spmatrix) -> None:
        """Learn from samples, whose rows are given."""
        self._ridge = Ridge(alpha=penalty).fit(rows, np.log1p([sample.num_output_tokens for sample in samples]))

    def predict(self, rows: spmatrix) -> np.ndarray:
        """Predicted log(1 + tokens)."""
        return self._ridge.predict(rows)


def read_samples(path: Path, model: str) -> list[Sample]:
    """What can be learned from a file about one model."""
    items = read_workload(path, target_model=model)
    return [
        Sample(item.prompt if isinstance(item.prompt, str) else render_messages(item.prompt), item.output_tokens, model)
        for item in items
        if item.prompt is not None and item.output_tokens is not None
    ]


def points(predictor: NgramPredictor, samples: Sequence[Sample]) -> list[float]:
    """Point predictions in tokens."""
    return [p.num_output_tokens for p in predictor.predict([as_request(sample) for sample in samples])]


def tau_b(predicted: Sequence[float], samples: Sequence[Sample]) -> float:
    """How alike the predicted order and the true one are, by scipy."""
    return float(kendalltau(predicted, [sample.num_output_tokens for sample in samples])[0])


def mean_and_spread(values: Sequence[float]) -> dict[str, float]:
    """Over seeds."""
    return {"mean": statistics.fmean(values), "stdev": statistics.stdev(values)}


def accuracy(samples: Sequence[Sample]) -> dict[str, Any]:
    """Ranking of held-out prompts, ours and the reference's, and the seconds that our slowest fit took."""
    ours, fit_s = [], []
    theirs: dict[float, list[float]] = {penalty: [] for penalty in SKLEARN_PENALTIES}
    reference = SklearnPredictor()
    for seed in SEEDS:
        training, test = split_by_prompt(samples, share=0.2, seed=seed)
        begin = time.perf_counter()
        predictor, _ = fit(training, seed=seed)
        fit_s.append(time.perf_counter() - begin)
        ours.append(tau_b(points(predictor, test), test))
        train_rows = reference.rows([sample.prompt for sample in training])
        test_rows = reference.rows([sample.prompt for sample in test])
        for penalty in SKLEARN_PENALTIES:
            reference.fit(training, penalty, train_rows)
            theirs[penalty].append(tau_b(reference.predict(test_rows), test))
    best = max(SKLEARN_PENALTIES, key=lambda penalty: statistics.fmean(theirs[penalty]))
    return {
        "ngram_tau_b": mean_and_spread(ours),
        "sklearn_tau_b": mean_and_spread(theirs[best]),
        "sklearn_penalty": best,
        "fit_s": max(fit_s),
    }


def progressive(stream: Sequence[Sample]) -> list[float]:
    """Predictions of an untrained predictor, each made before its truth was told."""
    predictor, predicted = NgramPredictor(), []
    for sample in stream:
        predicted += points(predictor, [sample])
        predictor.observe(as_request(sample), sample.num_output_tokens)
    return predicted


def online(samples: Sequence[Sample], other: Sequence[Sample]) -> dict[str, Any]:
    """Ranking of requests 500 to 1000 of a stream: online, offline, and after a change of the target model."""
    results: dict[str, list[float]] = {"online": [], "offline": [], "switched": [], "switched_early": []}
    other_of = {sample.prompt: sample for sample in other}
    for seed in SEEDS:
        shuffled = [samples[i] for i in np.random.default_rng(seed).permutation(len(samples))]
        stream = shuffled[: 2 * WINDOW]
        late = stream[WINDOW:]
        seen = {sample.prompt for sample in late}
        predictor, _ = fit([sample for sample in samples if sample.prompt not in seen], seed=seed)
        results["offline"].append(tau_b(points(predictor, late), late))
        results["online"].append(tau_b(progressive(stream)[WINDOW:], late))
        # the first half was answered by the other model; what is learned there has to be unlearned
        switched = [other_of.get(sample.prompt, sample) for sample in stream[:WINDOW]] + late
        predicted = progressive(switched)
        early, rest = slice(WINDOW, WINDOW + 300), slice(WINDOW + 300, None)
        results["switched_early"].append(tau_b(predicted[early], switched[early]))
        results["switched"].append(tau_b(predicted[rest], switched[rest]))
    return {name: mean_and_spread(values) for name, values in results.items()}


def latencies(call: Callable[[], object], repeats: int) -> list[float]:
    """Milliseconds that each of several calls takes."""
    times = []
    for _ in range(repeats):
        begin = time.perf_counter()
        call()
        times.append((time.perf_counter() - begin) * 1e3)
    return times


def speed(samples: Sequence[Sample]) -> dict[str, Any]:
    """Milliseconds per prompt of 200 words, ours and scikit-learn's in turns."""
    words = " ".join(sample.prompt for sample in samples[:1000]).split()
    prompts = [" ".join(words[i : i + 200]) for i in range(0, 64 * 200, 200)]
    requests = [Request(request_id=str(i), prompt=p, arrival_time=0.0) for i, p in enumerate(prompts)]
    predictor, _ = fit(samples[:500])
    reference = SklearnPredictor()
    reference.fit(samples[:500], 1.0, reference.rows([sample.prompt for sample in samples[:500]]))
    one: dict[str, list[float]] = {"ngram": [], "sklearn": [], "observe": []}
    batch: dict[str, list[float]] = {"ngram": [], "sklearn": []}
    ratios = []
    for _ in range(10):
        for i, request in enumerate(requests):
            ours = latencies(lambda request=request: predictor.predict([request]), 5)
            theirs = latencies(lambda i=i: reference.predict(reference.rows([prompts[i]])), 1)
            one["ngram"] += ours
            one["sklearn"] += theirs
            ratios.append(theirs[0] / statistics.median(ours))
        batch["ngram"] += [t / 64 for t in latencies(lambda: predictor.predict(requests), 5)]
        batch["sklearn"] += [t / 64 for t in latencies(lambda: reference.predict(reference.rows(prompts)), 1)]
    for request in requests:
        one["observe"] += latencies(lambda request=request: predictor.observe(request, 100), 5)
    quantiles = statistics.quantiles(ratios, n=20)
    return {
        "one_ms": {who: {"p50": float(np.median(t)), "p99": float(np.quantile(t, 0.99))} for who, t in one.items()},
        "batch_64_ms_each": {
            who: {"p50": float(np.median(t)), "p99": float(np.quantile(t, 0.99))} for who, t in batch.items()
        },
        "one_ratio": {"p50": statistics.median(ratios), "p5": quantiles[0], "p95": quantiles[-1]},
    }


def main() -> None:
    """Measure, print, write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--set", action="append", required=True, dest="sets", metavar="FILE:MODEL,MODEL")
    parser.add_argument("--out", type=Path, default=Path("out/predictor_ngram.json"))
    arguments = parser.parse_args()
    sets = []
    for text in arguments.sets:
        path, colon, models = text.rpartition(":")
        if not colon or len(models.split(",")) < 2:
            sys.exit(f"--set {text}: give FILE:MODEL,MODEL (two models at least)")
        sets.append((Path(path), models.split(",")))

    read = {(path, model): read_samples(path, model) for path, models in sets for model in models}
    result: dict[str, Any] = {"seeds": SEEDS, "speed": speed(next(iter(read.values()))), "sets": []}
    for name, unit in (("one_ms", "ms, one prompt of 200 words"), ("batch_64_ms_each", "ms each in a batch of 64")):
        for who, figures in result["speed"][name].items():
            print(f"{who:8} {unit:28} p50 {figures['p50']:7.4f}   p99 {figures['p99']:7.4f}")
    ratio = result["speed"]["one_ratio"]
    print(f"scikit-learn takes {ratio['p50']:.0f} times as long ({ratio['p5']:.0f} to {ratio['p95']:.0f})\n")

    print(f"{'tau-b (mean ± stdev over splits)':40} {'ngram':>15} {'scikit-learn':>15} {'fit':>7}")
    for (path, model), samples in read.items():
        row = {"file": path.name, "model": model, **accuracy(samples)}
        result["sets"].append(row)
        print(f"{model:40} {show(row['ngram_tau_b']):>15} {show(row['sklearn_tau_b']):>15} {row['fit_s']:6.1f}s")

    columns = ("offline", "online", "switched_early", "switched")
    titles = ("offline", "online", "<300 after switch", "then")
    print(f"\n{'tau-b of requests 500-1000':40}" + "".join(f" {title:>17}" for title in titles))
    for path, models in sets:
        for model, other in zip(models, [*models[1:], models[0]], strict=True):
            row = next(r for r in result["sets"] if (r["file"], r["model"]) == (path.name, model))
            row["online"] = online(read[path, model], read[path, other])
            print(f"{model:40}" + "".join(f" {show(row['online'][column]):>17}" for column in columns))
    arguments.out.parent.mkdir(parents=True, exist_ok=True)
    arguments.out.write_text(json.dumps(result, indent=2) + "\n")
    print(f"\nwritten to {arguments.out}")


def show(figures: dict[str, float]) -> str:
    """Mean and standard deviation for the table."""
    return f"{figures['mean']:.3f} ± {figures['stdev']:.3f}"


if __name__ == "__main__":
    main()
