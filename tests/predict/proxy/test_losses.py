"""Each loss against its definition, worked out another way."""

import itertools
import math

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from ssjf.predict.ngram.predictor import LEVELS  # noqa: E402
from ssjf.predict.proxy.formulations import FORMULATIONS, Targets  # noqa: E402
from ssjf.predict.proxy.losses import Loss  # noqa: E402

LENGTHS = [5, 9, 20, 40, 80, 160, 320, 640]


def loss(name: str, outputs: object, labels: object) -> float:
    return float(Loss(Targets(name, LENGTHS))(torch.tensor(outputs), torch.tensor(labels)))


def test_regression() -> None:
    assert loss("regression-l1", [[1.0], [2.0]], [0.0, 4.0]) == pytest.approx(1.5)
    assert loss("regression-mse", [[1.0], [2.0]], [0.0, 4.0]) == pytest.approx(2.5)


def test_classes_count_alike_however_rare_they_are() -> None:
    targets = Targets("multiclass", [1] * 90 + [100] * 10, percentiles=(0.95,))
    outputs = torch.tensor([[2.0, 0.0]] * 10)
    labels = torch.tensor([0.0] * 9 + [1.0])
    surprises = [math.log1p(math.exp(-2)), 2 + math.log1p(math.exp(-2))]
    assert float(Loss(targets)(outputs, labels)) == pytest.approx(sum(surprises) / 2, rel=1e-5)


def test_pairwise_is_the_mean_logistic_loss_of_pairs_of_different_length() -> None:
    scores, labels = [0.3, -1.0, 2.0, 0.5], [1.0, 1.0, 3.0, 2.0]
    pairs = [(a, b) for a, b in itertools.permutations(range(4), 2) if labels[a] > labels[b]]
    expected = sum(math.log(1 + math.exp(scores[b] - scores[a])) for a, b in pairs) / len(pairs)
    assert loss("pairwise", [[s] for s in scores], labels) == pytest.approx(expected, rel=1e-5)
    assert loss("pairwise", [[1.0], [2.0]], [3.0, 3.0]) == 0.0


def test_listwise_is_the_likelihood_of_drawing_the_longest_first() -> None:
    scores, labels = [0.3, -1.0, 2.0], [1.0, 3.0, 2.0]
    ordered = [-1.0, 2.0, 0.3]
    chance = math.prod(math.exp(s) / sum(map(math.exp, ordered[i:])) for i, s in enumerate(ordered))
    assert loss("listwise", [[s] for s in scores], labels) == pytest.approx(-math.log(chance) / 3, rel=1e-5)


def test_pinball_is_least_at_the_quantiles() -> None:
    labels = np.random.default_rng(0).normal(size=1000).tolist()
    best = np.quantile(labels, LEVELS)

    def at(outputs: np.ndarray) -> float:
        return loss("quantile", np.tile(outputs, (1000, 1)), labels)

    for place in range(len(LEVELS)):
        for step in (-0.1, 0.1):
            assert at(best) < at(best + step * np.eye(len(LEVELS))[place])


@pytest.mark.parametrize("name", FORMULATIONS)
def test_a_batch_of_one_gives_a_finite_loss_and_gradient(name: str) -> None:
    targets = Targets(name, LENGTHS)
    outputs = torch.zeros((1, targets.num_outputs), requires_grad=True)
    Loss(targets)(outputs, torch.tensor(targets.labels([40]), dtype=torch.float32)).backward()
    assert bool(torch.isfinite(outputs.grad).all())
