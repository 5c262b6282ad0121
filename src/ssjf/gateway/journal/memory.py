"""What a predictor has learned from finished requests, as bytes for the journal and back.

Predictors that keep anything have `learned`, which returns arrays and JSON, and `resume`, which takes them.
"""

import io
import json
import logging
import zipfile
from typing import Any, Protocol, runtime_checkable

import numpy as np
import numpy.typing as npt

from ssjf.errors import ArtefactError

_log = logging.getLogger(__name__)
_JSON = "json"


@runtime_checkable
class Learner(Protocol):
    """A predictor whose lessons can be kept."""

    def learned(self) -> tuple[dict[str, npt.NDArray[Any]], dict[str, Any]]:
        """All that finished requests have taught, as arrays and JSON."""
        ...

    def resume(self, arrays: dict[str, npt.NDArray[Any]], state: dict[str, Any]) -> None:
        """Go on from there.

        Raises:
            ArtefactError: it was learned by another kind or version.
        """
        ...


def snapshot(learner: Learner) -> tuple[dict[str, npt.NDArray[Any]], dict[str, Any]]:
    """A copy that no later lesson changes; quick, to be made in the predictor's thread."""
    arrays, state = learner.learned()
    return {name: np.array(array) for name, array in arrays.items()}, json.loads(json.dumps(state))


def to_bytes(arrays: dict[str, npt.NDArray[Any]], state: dict[str, Any]) -> bytes:
    """For the journal; takes some 20 ms, so not on the event loop."""
    buffer = io.BytesIO()
    text = np.frombuffer(json.dumps(state).encode(), np.uint8)
    np.savez_compressed(buffer, **{_JSON: text}, **arrays)  # type: ignore[arg-type]  # the stub's own keywords
    return buffer.getvalue()


def remember(learner: Learner, kept: bytes) -> bool:
    """Go on from what was kept; returns whether it fits."""
    try:
        with np.load(io.BytesIO(kept), allow_pickle=False) as archive:
            arrays = {name: archive[name] for name in archive.files}
        state = json.loads(arrays.pop(_JSON).tobytes())
        learner.resume(arrays, state)
    except (ArtefactError, KeyError, TypeError, ValueError, zipfile.BadZipFile) as error:
        _log.warning("what was learned before does not fit this predictor, which starts anew: %s", error)
        return False
    return True
