"""The ways to put the question "how long will the answer be?" to an encoder, as the paper lists them, and three more.

    regression-l1, -mse     the (log) number of tokens
    binary, multiclass      the class of the length, between percentiles of the training data
    ordinal-l1, -mse        the index of that class, as a number
    pairwise                which of two answers is longer (logistic loss on differences of scores, RankNet)
    listwise                in which order a batch's answers are (ListMLE; Xia et al., 2008)
    quantile                the quantiles of the length (pinball loss)

A formulation says what the network is trained towards; how its outputs are turned back into tokens is a decoder's
affair. Beside the formulations stand the recipes: how a network is trained. Numpy only; this module does not know any
network.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from ssjf.errors import DataError
from ssjf.predict.ngram.predictor import LEVELS

Float64 = npt.NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Formulation:
    """One way to ask.

    Attributes:
        loss: its name in `ssjf.predict.proxy.losses`.
        labels: "value" (scaled length), "class" or "index" (class, centred).
        decoder: kind of decoder that reads the outputs: "value", "rank", "class" or "quantile".
        percentiles: borders of the classes.
        paper_percentiles: those of the paper.
    """

    loss: str
    labels: str
    decoder: str
    percentiles: tuple[float, ...] = ()
    paper_percentiles: tuple[float, ...] = ()


_FIVE = (0.25, 0.5, 0.75, 0.99)

FORMULATIONS: dict[str, Formulation] = {
    "regression-l1": Formulation("l1", "value", "value"),
    "regression-mse": Formulation("mse", "value", "value"),
    "binary": Formulation("nll", "class", "class", (0.5,), (0.5, 0.99)),
    "multiclass": Formulation("nll", "class", "class", _FIVE, _FIVE),
    "ordinal-l1": Formulation("l1", "index", "rank", _FIVE, _FIVE),
    "ordinal-mse": Formulation("mse", "index", "rank", _FIVE, _FIVE),
    "pairwise": Formulation("pairwise", "value", "rank"),
    "listwise": Formulation("listwise", "value", "rank"),
    "quantile": Formulation("pinball", "value", "quantile"),
}


SCRATCH = "scratch"
"""In the place of an encoder's name: a new one of bert-tiny's size with a vocabulary of its own."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """How to train; `PRESETS` has good ones.

    Attributes:
        formulation: one of `FORMULATIONS`.
        encoder: see `ssjf.predict.proxy.network.load_encoder`.
        frozen: leave the encoder as it is (the family `embedding`).
        unit: of regression targets: "log" or "tokens".
        paper_classes: take the paper's class borders where it has other ones.
        hidden: widths of the head's layers.
        pooling: "cls" or "mean".
        truncation: of long texts, "tail" or "head-tail".
        learning_rate: at first, falling linearly to 0.
        epochs: at most.
        patience: epochs without a better validation ranking after which training ends.
        batch_size: in samples, on each device.
        by_length: make batches of texts of similar length, which wastes no time on padding.
        weight_decay: of AdamW.
        freeze_after: epochs after which the encoder is left as it is; None for never.
        frozen_learning_rate: from then on, falling on.
        validation: share of the prompts given that choose the best epoch and calibrate.
    """

    formulation: str = "regression-l1"
    encoder: str = SCRATCH
    frozen: bool = False
    unit: str = "log"
    paper_classes: bool = False
    hidden: tuple[int, ...] = (128, 128)
    pooling: str = "mean"
    truncation: str = "tail"
    learning_rate: float = 5e-4
    epochs: int = 8
    patience: int = 2
    batch_size: int = 32
    by_length: bool = True
    weight_decay: float = 0.01
    freeze_after: int | None = None
    frozen_learning_rate: float = 1e-4
    validation: float = 0.125


PRESETS = {
    "default": Settings(),
    # the paper's recipe; with a fifth held out for the test, a quarter of the rest makes 60/20/20
    "paper": Settings(
        encoder="bert-base-uncased",
        unit="tokens",
        paper_classes=True,
        pooling="cls",
        learning_rate=1e-5,
        epochs=6,
        patience=6,
        batch_size=16,
        by_length=False,
        freeze_after=3,
        validation=0.25,
    ),
}
EMBEDDING = Settings(frozen=True, hidden=(), learning_rate=3e-3, epochs=40, patience=5, weight_decay=0.1)
"""Of the family `embedding`: the encoder as it is, under a linear head."""


@dataclass(frozen=True, slots=True)
class Scale:
    """An affine map that gives the training data mean 0 and variance 1.

    Attributes:
        unit: "log" for log(1 + tokens), "tokens" as in the paper.
        centre: mean of the training data in that unit.
        spread: their standard deviation.
    """

    unit: str
    centre: float
    spread: float

    def __post_init__(self) -> None:
        """Refuse what maps nothing."""
        if self.unit not in ("log", "tokens") or not (math.isfinite(self.centre) and 0 < self.spread < math.inf):
            raise ValueError("a scale needs a unit, a finite centre and a positive spread")

    @classmethod
    def of(cls, num_output_tokens: npt.ArrayLike, unit: str) -> "Scale":
        """Learned from the training data's lengths."""
        values = _in_unit(num_output_tokens, unit)
        return cls(unit, float(values.mean()), float(values.std()) or 1.0)

    def labels(self, num_output_tokens: npt.ArrayLike) -> Float64:
        """Tokens, scaled."""
        return (_in_unit(num_output_tokens, self.unit) - self.centre) / self.spread

    def log_tokens(self, scaled: npt.ArrayLike) -> Float64:
        """log(1 + tokens) of scaled values; the inverse of `labels` up to the logarithm."""
        values = self.centre + self.spread * np.asarray(scaled, np.float64)
        return values if self.unit == "log" else np.log1p(np.maximum(values, 0.0))


def _in_unit(num_output_tokens: npt.ArrayLike, unit: str) -> Float64:
    tokens = np.asarray(num_output_tokens, np.float64)
    return np.log1p(tokens) if unit == "log" else tokens


class Targets:
    """What a network is trained towards, learned from the lengths in the training data.

    Args:
        name: of the formulation.
        num_output_tokens: lengths in the training data.
        unit: of regression: "log" or "tokens".
        percentiles: borders of the classes; those of the formulation if None.

    Attributes:
        formulation: the one named.
        scale: of lengths.
        thresholds: tokens at which the next class begins; empty where there are no classes.

    Raises:
        DataError: all lengths fall into one class.
    """

    def __init__(
        self,
        name: str,
        num_output_tokens: Sequence[int],
        *,
        unit: str = "log",
        percentiles: Sequence[float] | None = None,
    ) -> None:
        self.formulation = FORMULATIONS[name]
        self.scale = Scale.of(num_output_tokens, unit)
        self._lengths = np.asarray(num_output_tokens, np.float64)
        levels = self.formulation.percentiles if percentiles is None else percentiles
        # Borders are lengths that occur, and each is in the class above it: where many answers are equally long and
        # percentiles coincide, no class is empty. Where they all are the least, the next length tells classes apart.
        borders = np.unique(np.quantile(self._lengths, levels, method="higher"))
        longer = self._lengths[self._lengths > self._lengths.min()]
        self.thresholds: list[float] = [float(t) for t in borders if t > self._lengths.min()]
        if self.formulation.labels in {"class", "index"} and not self.thresholds:
            if not longer.size:
                raise DataError(f"{name}: all answers are equally long, so there is only one class to tell apart")
            self.thresholds = [float(longer.min())]

    @property
    def num_outputs(self) -> int:
        """How wide the network's output is."""
        return {"class": len(self.thresholds) + 1, "quantile": len(LEVELS)}.get(self.formulation.decoder, 1)

    def classes(self, num_output_tokens: npt.ArrayLike) -> npt.NDArray[np.int64]:
        """The class of each length, from 0 for the shortest."""
        return np.searchsorted(self.thresholds, np.asarray(num_output_tokens), side="right").astype(np.int64)

    def labels(self, num_output_tokens: npt.ArrayLike) -> Float64:
        """What the loss compares outputs with; one number for each length."""
        if self.formulation.labels == "value":
            return self.scale.labels(num_output_tokens)
        classes: Float64 = self.classes(num_output_tokens).astype(np.float64)
        if self.formulation.labels == "index":
            classes -= self.classes(self._lengths).mean()
        return classes

    def first_outputs(self) -> Float64:
        """What to answer before anything is known of a prompt: quantiles of all lengths, or 0."""
        if self.formulation.decoder == "quantile":
            return np.quantile(self.labels(self._lengths), LEVELS)
        return np.zeros(self.num_outputs)

    def by_class(self) -> list[Float64]:
        """Lengths in the training data, class by class; none is empty."""
        classes = self.classes(self._lengths)
        return [np.sort(self._lengths[classes == index]) for index in range(len(self.thresholds) + 1)]

    def class_weights(self) -> Float64:
        """Weights of the negative log-likelihood that make all classes count alike."""
        sizes = np.array([len(lengths) for lengths in self.by_class()], np.float64)
        weights: Float64 = sizes.mean() / sizes
        return weights

    def about(self) -> dict[str, Any]:
        """What a card tells of it."""
        return {"unit": self.scale.unit, "thresholds": self.thresholds}
