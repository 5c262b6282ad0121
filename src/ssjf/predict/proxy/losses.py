"""Losses of the formulations: outputs of shape (n, num_outputs) and labels of shape (n,) to one number.

Pairs and lists are made of whatever is in a batch, so these losses need batches of two at least; a batch of one, the
last of an epoch perhaps, costs nothing and teaches nothing. This module does not know where outputs come from.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional

from ssjf.predict.ngram.predictor import LEVELS
from ssjf.predict.proxy.formulations import Targets


class Loss(nn.Module):
    """The loss of a formulation.

    Args:
        targets: which one, and the class weights where it has classes.
    """

    def __init__(self, targets: Targets) -> None:
        super().__init__()
        self._function = {
            "l1": _l1,
            "mse": _mse,
            "nll": self._weighted_nll,
            "pairwise": _pairwise,
            "listwise": _listwise,
            "pinball": _pinball,
        }[targets.formulation.loss]
        # a buffer, so that it moves to the device with the network; not persistent, for serving needs no loss
        self.register_buffer(
            "class_weights", torch.tensor(targets.class_weights(), dtype=torch.float32), persistent=False
        )

    def forward(self, outputs: Tensor, labels: Tensor) -> Tensor:
        """The loss of a batch."""
        loss: Tensor = self._function(outputs, labels)
        return loss

    def _weighted_nll(self, outputs: Tensor, labels: Tensor) -> Tensor:
        return functional.cross_entropy(outputs, labels.long(), weight=self.class_weights)


def _l1(outputs: Tensor, labels: Tensor) -> Tensor:
    return functional.l1_loss(outputs[:, 0], labels)


def _mse(outputs: Tensor, labels: Tensor) -> Tensor:
    return functional.mse_loss(outputs[:, 0], labels)


def _pairwise(outputs: Tensor, labels: Tensor) -> Tensor:
    """Logistic loss of all pairs of different lengths (RankNet; Burges et al., 2005)."""
    scores = outputs[:, 0]
    longer = labels[:, None] > labels[None, :]
    margins = (scores[:, None] - scores[None, :])[longer]
    # a sum divided by hand: the mean of no pairs at all would not be a number
    return functional.softplus(-margins).sum() / max(len(margins), 1)


def _listwise(outputs: Tensor, labels: Tensor) -> Tensor:
    """Minus the log-likelihood of the true order, longest first (ListMLE), per item."""
    scores = outputs[torch.argsort(labels, descending=True, stable=True), 0]
    rest = torch.logcumsumexp(scores.flip(0), dim=0).flip(0)
    return (rest - scores).mean()


def _pinball(outputs: Tensor, labels: Tensor) -> Tensor:
    """Koenker and Bassett, 1978: minimal where each output is the quantile of its level."""
    levels = torch.tensor(LEVELS, dtype=outputs.dtype, device=outputs.device)
    errors = labels[:, None] - outputs
    return torch.maximum(levels * errors, (levels - 1) * errors).mean()
