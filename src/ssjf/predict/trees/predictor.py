"""The predictor of the family `trees`: what it is made of, and how a request goes through it.

    prompt -> hashed n-grams and a description of what it asks for
           -> linear models: a few components
           -> boosted trees on description, components and traits of the target model: a score
           -> curves of the target model: tokens and quantiles

It is frozen: it does not learn from finished requests. A prompt unlike those it was trained on, by how many features
lie outside their range, is drawn towards the mean and gets wide quantiles. This module does not know how any part was
trained (`ssjf.predict.trees.training`), and needs numpy only.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from ssjf.core.types import Prediction, Request
from ssjf.errors import ArtefactError
from ssjf.predict.ngram import features
from ssjf.predict.ngram.features import Float64
from ssjf.predict.trees import prompt
from ssjf.predict.trees.forest import Forest
from ssjf.predict.trees.linear import LinearModels
from ssjf.predict.trees.targets import NUM_TRAITS, NUM_VIEWS, TargetModels

NUM_FEATURES = len(prompt.NAMES) + 2 * NUM_VIEWS + NUM_TRAITS
"""Columns of what the trees look at."""

_TAIL = 0.005  # share of the training prompts beyond each end of a feature's range
_PROMPTS_AT_ONCE = 64
_FAMILIAR = 2  # features outside their range that mean nothing: of one prompt in 20 like the training set's
_UNFAMILIAR = 10  # and at which nothing is believed: exam questions have 8 beyond the range of chats, and vice versa


@dataclass(frozen=True, slots=True)
class Range:
    """Where the features of nearly all training prompts lie.

    Attributes:
        lowest: shape (len(NAMES),).
        highest: likewise.
    """

    lowest: Float64
    highest: Float64

    @classmethod
    def measure(cls, described: Float64) -> "Range":
        """From the training prompts."""
        lowest, highest = np.quantile(described, (_TAIL, 1 - _TAIL), axis=0)
        return cls(lowest - 1e-9, highest + 1e-9)

    def unfamiliarity(self, described: Float64) -> Float64:
        """From 0, a prompt like those, to 1; shape (n,)."""
        outside = ((described < self.lowest) | (described > self.highest)).sum(axis=1)
        unfamiliarity: Float64 = np.clip((outside - _FAMILIAR) / (_UNFAMILIAR - _FAMILIAR), 0.0, 1.0)
        return unfamiliarity


class TreesPredictor:
    """Predicts output lengths by boosted trees over linear n-gram models and features of the prompt.

    Args:
        linear: the first stage.
        forest: the second.
        targets: known target models.
        training_range: of the training prompts' features.

    Raises:
        ArtefactError: parts are missing: this family has to be trained.
    """

    family = "trees"
    frozen = True

    def __init__(
        self,
        linear: LinearModels | None = None,
        forest: Forest | None = None,
        targets: TargetModels | None = None,
        training_range: Range | None = None,
    ) -> None:
        if linear is None or forest is None or targets is None or training_range is None:
            raise ArtefactError("the family 'trees' knows nothing untrained: name a folder that ssjf train wrote")
        self._linear = linear
        self._forest = forest
        self._targets = targets
        self._range = training_range
        self._source = f"{self.family}@{prompt.FORMAT}"

    @property
    def target_models(self) -> tuple[str, ...]:
        """Names of the target models that were told apart in training."""
        return self._targets.names[1:]

    def predict(self, requests: Sequence[Request]) -> list[Prediction]:
        """One prediction for each request; it depends on neither the other requests nor their order."""
        predictions: list[Prediction] = []
        for start in range(0, len(requests), _PROMPTS_AT_ONCE):
            predictions += self._predict(requests[start : start + _PROMPTS_AT_ONCE])
        return predictions

    def _predict(self, requests: Sequence[Request]) -> list[Prediction]:
        prompts = [request.prompt for request in requests]
        described = prompt.describe(prompts)
        components = self._linear.apply(features.featurize(prompts), described)
        places = self._targets.places([request.model for request in requests])
        scores = self._forest.apply(self._targets.rows(described, components, places)).tolist()
        unfamiliarity = self._range.unfamiliarity(described).tolist()
        curves, source = self._targets.curves, self._source
        return [
            curves[place].prediction(score, strange, source)
            for place, score, strange in zip(places.tolist(), scores, unfamiliarity, strict=True)
        ]

    def observe(self, request: Request, num_output_tokens: int) -> None:
        """Does nothing: trees are not grown one request at a time."""

    def state(self) -> tuple[dict[str, npt.NDArray[Any]], dict[str, Any]]:
        """Everything learned, as arrays and as JSON: what `restore` takes."""
        arrays = {
            **self._linear.arrays(),
            **self._forest.arrays(),
            **self._targets.arrays(),
            "range_lowest": self._range.lowest,
            "range_highest": self._range.highest,
        }
        return arrays, {"features": _FORMATS, "target_models": list(self.target_models)}

    @classmethod
    def restore(cls, arrays: Mapping[str, npt.NDArray[Any]], state: Mapping[str, Any]) -> "TreesPredictor":
        """The predictor that `state` described.

        Raises:
            ArtefactError: it is of another version, or parts are missing or of the wrong shape.
        """
        if state.get("features") != _FORMATS:
            raise ArtefactError(f"has features of format {state.get('features')!r}, not {_FORMATS}: train it anew")
        linear = LinearModels.restore(arrays)
        names = ("", *state["target_models"])
        targets = TargetModels.restore(arrays, names, num_components=len(linear.intercepts))
        forest = Forest.restore(arrays, num_features=NUM_FEATURES)
        lowest, highest = arrays["range_lowest"], arrays["range_highest"]
        if {lowest.shape, highest.shape} != {(len(prompt.NAMES),)}:
            raise ArtefactError(f"has no range of {len(prompt.NAMES)} features")
        return cls(linear, forest, targets, Range(lowest, highest))


_FORMATS = [features.FORMAT, prompt.FORMAT]
