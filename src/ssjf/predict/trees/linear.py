"""Several linear models on hashed n-grams and on what a prompt asks for, applied together.

Their outputs are the *components*: a few numbers per prompt from which the expected answer of every target model can
be put together (`ssjf.predict.trees.targets`). This module does not know what the outputs mean, nor how the weights
were found.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from ssjf.errors import ArtefactError
from ssjf.predict.ngram.features import NUM_COUNTS, TABLE_SIZE, Float64, Rows
from ssjf.predict.trees.prompt import NAMES

_SCALE = 0.08  # of a described feature beside the hashed parts of a row: half their squared norm, all of them together
_FARTHEST = 4.0  # standard deviations from the mean at which a described feature is cut off

NUM_DENSE = NUM_COUNTS + len(NAMES)


@dataclass(frozen=True, slots=True)
class Scaler:
    """Brings what `describe` returns to the scale of the hashed features.

    Attributes:
        mean: shape (len(NAMES),).
        deviation: likewise, positive.
    """

    mean: Float64
    deviation: Float64

    @classmethod
    def measure(cls, described: Float64) -> "Scaler":
        """From the prompts to be trained on."""
        deviation = described.std(axis=0)
        return cls(described.mean(axis=0), np.where(deviation > 0, deviation, 1.0))

    def dense(self, rows: Rows, described: Float64) -> Float64:
        """The counts of the rows and the scaled description; shape (n, NUM_DENSE)."""
        scaled = np.clip((described - self.mean) / self.deviation, -_FARTHEST, _FARTHEST) * _SCALE
        return np.hstack([rows.counts, scaled])


@dataclass(frozen=True, slots=True)
class LinearModels:
    """K linear models of one matrix of features.

    Attributes:
        scaler: of the described features.
        table: weights per place of the hash table; float16, shape (TABLE_SIZE, K).
        dense: weights of the other features; shape (NUM_DENSE, K).
        intercepts: shape (K,).
    """

    scaler: Scaler
    table: npt.NDArray[np.float16]
    dense: Float64
    intercepts: Float64

    def apply(self, rows: Rows, described: Float64) -> Float64:
        """Outputs of all models; shape (n, K). A prompt's do not depend on the other prompts, to the bit."""
        taken = self.table.take(rows.indices, axis=0).astype(np.float32)
        sums = np.add.reduceat(taken, rows.starts, axis=0) * rows.values[:, None]
        # no matrix product: BLAS sums in another order for another number of rows
        dense = np.add.reduce(self.scaler.dense(rows, described)[:, :, None] * self.dense, axis=1)
        outputs: Float64 = sums[::2] + sums[1::2] + dense + self.intercepts
        return outputs

    def arrays(self) -> dict[str, npt.NDArray[Any]]:
        """What `restore` takes."""
        return {
            "scaler_mean": self.scaler.mean,
            "scaler_deviation": self.scaler.deviation,
            "linear_table": self.table,
            "linear_dense": self.dense,
            "linear_intercepts": self.intercepts,
        }

    @classmethod
    def restore(cls, arrays: Mapping[str, npt.NDArray[Any]]) -> "LinearModels":
        """The models that `arrays` described.

        Raises:
            ArtefactError: parts are of the wrong shape or not finite.
        """
        num = len(arrays["linear_intercepts"])
        shapes = {
            "scaler_mean": (len(NAMES),),
            "scaler_deviation": (len(NAMES),),
            "linear_table": (TABLE_SIZE, num),
            "linear_dense": (NUM_DENSE, num),
            "linear_intercepts": (num,),
        }
        for name, shape in shapes.items():
            if arrays[name].shape != shape or not np.isfinite(arrays[name]).all():
                raise ArtefactError(f"has no {name} of shape {shape}")
        mean, deviation, table, dense, intercepts = (arrays[name] for name in shapes)
        return cls(Scaler(mean, deviation), table.astype(np.float16), dense, intercepts)
