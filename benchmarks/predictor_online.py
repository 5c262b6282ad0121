"""Learning online from nothing, in order of arrival: how good after 500 requests, and after a switch of the model.

    python benchmarks/predictor_online.py --set PROMPTS.jsonl.gz:MODEL,OTHER_MODEL [--set ...]

For each set and seed: 80 % of the prompts arrive in random order, each is predicted and then learned from; ranking,
and what it gains in the mean completion time of one slot at load .8, is measured on the other 20 %. "Offline" is the
n-gram model trained on all of the 80 % at once. "Switch": after 500 answers of the first model come those of the
second, under the second's name ("told") or the first's ("not told").
"""

import argparse
import random
import statistics
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from predictor_families import of_model
from predictor_ngram import tau_b

from ssjf.cli.prediction.samples import read_samples
from ssjf.predict.base import Predictor
from ssjf.predict.ngram.predictor import NgramPredictor
from ssjf.predict.online import OnlinePredictor
from ssjf.predict.training import Sample, as_request, fit, split_by_prompt
from ssjf.sim.ranking import ranking_gain
from ssjf.workload.reader import ALL_MODELS

SEEDS = (0, 1, 2)
KINDS: dict[str, Callable[[], Predictor]] = {"ngram": NgramPredictor, "online": OnlinePredictor}
STEPS = (100, 200, 300, 500, 1000)


def quality(predictor: Predictor, samples: Sequence[Sample], name: str) -> tuple[float, float]:
    """tau-b, and gain of the shortest predicted first, on samples that it has not seen, asked under a name."""
    asked = [as_request(Sample(sample.prompt, sample.num_output_tokens, name)) for sample in samples]
    predicted = [prediction.num_output_tokens for prediction in predictor.predict(asked)]
    gain = ranking_gain(predicted, [sample.num_output_tokens for sample in samples])["gain"]
    return tau_b(predicted, samples), gain


def learn(predictor: Predictor, samples: Sequence[Sample], name: str) -> None:
    """Predict, then learn, one after the other."""
    for sample in samples:
        predictor.observe(as_request(Sample(sample.prompt, sample.num_output_tokens, name)), sample.num_output_tokens)


def shuffled(samples: Sequence[Sample], seed: int) -> list[Sample]:
    """In order of arrival."""
    order = list(samples)
    random.Random(seed).shuffle(order)
    return order


def one(samples: Sequence[Sample], models: Sequence[str], seed: int) -> dict[str, tuple[float, float]]:
    """All figures of a seed."""
    first, second = models
    training, test = split_by_prompt(of_model(samples, first), share=0.2, seed=seed)
    new_training, new_test = split_by_prompt(of_model(samples, second), share=0.2, seed=seed)
    stream, after = shuffled(training, seed), shuffled(new_training, seed + 100)
    offline, _ = fit(training, seed=seed)
    new_offline, _ = fit(new_training, seed=seed)
    found = {"offline": quality(offline, test, first), "offline second": quality(new_offline, new_test, second)}
    for kind, make in KINDS.items():
        predictor = make()
        done = 0
        for step in STEPS:
            if step <= len(stream):
                learn(predictor, stream[done:step], first)
                done = step
                found[f"{kind} {step}"] = quality(predictor, test, first)
        for told in (True, False):
            predictor = make()
            learn(predictor, stream[:500], first)
            name = second if told else first
            for step in (0, 100, 200, 300):
                learn(predictor, after[max(step - 100, 0) : step], name)
                found[f"{kind} switch, {'told' if told else 'not told'}, {step}"] = quality(predictor, new_test, name)
        predictor = make()
        learn(predictor, after[:300], second)
        found[f"{kind} second alone, 300"] = quality(predictor, new_test, second)
    return found


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--set", action="append", required=True, dest="sets", metavar="FILE:MODEL,MODEL")
    parser.add_argument("--seeds", type=int, default=len(SEEDS))
    arguments = parser.parse_args()
    for text in arguments.sets:
        path, _, models = text.rpartition(":")
        samples = read_samples(Path(path), ALL_MODELS)[0]
        runs = []
        for seed in range(arguments.seeds):
            runs.append(one(samples, models.split(","), seed))
            print(f"{path}: seed {seed} done", file=sys.stderr)
        print(f"\n{Path(path).name}: {models}")
        for name in runs[0]:
            reference = "offline second" if "second" in name or "switch" in name else "offline"
            line = f"{name:36}"
            for which, what in enumerate(("tau-b", "gain")):
                values = [run[name][which] for run in runs]
                share = statistics.fmean(run[name][which] / run[reference][which] for run in runs)
                spread = f"{statistics.fmean(values):.3f} ({min(values):.3f}-{max(values):.3f})"
                line += f"  {what} {spread} {share:4.0%}"
            print(f"{line} of {reference}")


if __name__ == "__main__":
    main()
