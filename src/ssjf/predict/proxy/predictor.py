"""The proxy model at serving time: tokenizers and onnxruntime, no torch.

One request costs one run of the encoder on one core. Predictions depend on the request alone. Nothing is learned
online: `observe` does nothing.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from ssjf.core.types import Prediction, Request
from ssjf.errors import ArtefactError, PluginError
from ssjf.predict.proxy.decoders import decoder_from
from ssjf.predict.proxy.text import TRUNCATIONS, Encoder, side_features

FORMAT = 1
"""Of what a request is turned into, and of the outputs; raise it with any change to either."""

TOKENIZER, SINGLE, INT8, TORCH = "tokenizer.json", "model.onnx", "model-int8.onnx", "model.safetensors"
_FILES = (TOKENIZER, SINGLE, INT8, TORCH)


class Runner:
    """An exported network with its tokenizer: requests to raw outputs.

    Args:
        model: an ONNX graph from ``input_ids`` and ``side`` to ``outputs``.
        tokenizer: the content of a tokenizer.json.
        target_models: in the order of the one-hot columns.
        max_length: of a row of token ids.
        truncation: one of `ssjf.predict.proxy.text.TRUNCATIONS`.

    Raises:
        ArtefactError: either is damaged, or they do not fit together, or the libraries are missing.
    """

    def __init__(
        self, model: bytes, tokenizer: bytes, *, target_models: Sequence[str], max_length: int, truncation: str
    ) -> None:
        try:
            import onnxruntime as ort  # noqa: PLC0415 - an extra
            from tokenizers import Tokenizer  # noqa: PLC0415
        except ImportError:
            raise ArtefactError("needs onnxruntime and tokenizers: pip install 'ssjf[proxy]'") from None
        options = ort.SessionOptions()
        # a predictor must not take the cores of the engine beside it
        options.intra_op_num_threads = options.inter_op_num_threads = 1
        options.log_severity_level = 4
        if truncation not in TRUNCATIONS or not 4 <= max_length <= 1 << 16:
            raise ArtefactError(f"cuts texts in an unknown way: {truncation!r}, {max_length!r}")
        self._target_models = tuple(target_models)
        try:
            self._session = ort.InferenceSession(model, options, providers=["CPUExecutionProvider"])
            self._encoder = Encoder.around(
                Tokenizer.from_buffer(tokenizer), max_length=max_length, truncation=truncation
            )
            self.num_outputs = self.outputs([Request(request_id="probe", prompt="a", arrival_time=0.0)]).shape[1]
        except Exception as error:  # noqa: BLE001 - both libraries raise classes of their own, and plain Exception
            reason = " ".join(str(error).split())
            raise ArtefactError(f"is damaged: graph, tokenizer and card do not fit together: {reason}") from None

    def outputs(self, requests: Sequence[Request]) -> npt.NDArray[np.float32]:
        """Raw outputs; shape (n, num_outputs). Each request is run alone."""
        rows = []
        for request in requests:
            ids = np.array([self._encoder.ids(request.prompt)], np.int64)
            side = side_features(request.prompt, request.model, self._target_models)[None]
            rows.append(self._session.run(["outputs"], {"input_ids": ids, "side": side})[0])
        return np.concatenate(rows)


class ProxyPredictor:
    """Predicts output lengths by a fine-tuned encoder; made by training, and by `restore`.

    Args:
        arrays: the bytes of the artefact's files.
        state: the card's part.

    Raises:
        ArtefactError: parts are missing, damaged or of another version.
        PluginError: nothing was given, for there is no untrained proxy.
    """

    family = "proxy"
    frozen = True

    def __init__(
        self, arrays: Mapping[str, npt.NDArray[Any]] | None = None, state: Mapping[str, Any] | None = None
    ) -> None:
        if arrays is None or state is None:
            raise PluginError(
                f"there is no untrained {self.family!r}: ssjf train DATA --family {self.family} --out FOLDER, "
                "then name the folder"
            )
        if state.get("format") != FORMAT:
            raise ArtefactError(f"is of format {state.get('format')!r}, not {FORMAT}: train it anew")
        missing = [name for name in _FILES if name not in arrays]
        if missing:
            raise ArtefactError(f"is damaged: it has no {', '.join(missing)}")
        self._arrays, self._state = dict(arrays), dict(state)
        self._runner = Runner(
            arrays[INT8 if state["precision"] == "int8" else SINGLE].tobytes(),
            arrays[TOKENIZER].tobytes(),
            target_models=state["target_models"],
            max_length=state["max_length"],
            truncation=state["truncation"],
        )
        self._decoder = decoder_from(state["decoder"])
        if self._decoder.num_outputs != self._runner.num_outputs:
            raise ArtefactError("is damaged: its graph answers another question than its card asks")
        self._source = f"{self.family}@{FORMAT}"

    def predict(self, requests: Sequence[Request]) -> list[Prediction]:
        """One prediction for each request; it depends on no other request."""
        if not requests:
            return []
        return self._decoder.predictions(self._runner.outputs(requests), self._source)

    def observe(self, request: Request, num_output_tokens: int) -> None:
        """Does nothing: the weights stay as they were trained."""

    def state(self) -> tuple[dict[str, npt.NDArray[Any]], dict[str, Any]]:
        """The files' bytes, and the card's part: what `restore` takes."""
        return dict(self._arrays), dict(self._state)

    @classmethod
    def restore(cls, arrays: Mapping[str, npt.NDArray[Any]], state: Mapping[str, Any]) -> "ProxyPredictor":
        """The predictor that `state` described.

        Raises:
            ArtefactError: parts are missing, damaged or of another version.
        """
        return cls(arrays, state)

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self._arrays, self._state)


class EmbeddingPredictor(ProxyPredictor):
    """The same with an encoder that was left as it is, under a linear head."""

    family = "embedding"
