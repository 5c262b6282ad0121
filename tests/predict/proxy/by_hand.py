"""A predictor's files made without torch: an ONNX graph written byte by byte, and a tokenizer of a few words.

The graph's first output is the mean of the token ids, times a weight, plus the side features times theirs.
"""

from typing import Any

import numpy as np
from tokenizers import Tokenizer, models, pre_tokenizers, processors

from ssjf.predict.proxy.predictor import FORMAT, INT8, SINGLE, TOKENIZER, TORCH
from ssjf.predict.proxy.text import NUM_HISTORY_FEATURES

WORDS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "a", "hello", "story", "x"]
_FLOAT, _INT64, _INTS = 1, 7, 7


def _field(number: int, content: int | bytes | str) -> bytes:
    """One field of a protocol buffer."""
    if isinstance(content, int):
        return _varint(number << 3) + _varint(content)
    data = content.encode() if isinstance(content, str) else content
    return _varint(number << 3 | 2) + _varint(len(data)) + data


def _varint(value: int) -> bytes:
    out = bytearray()
    while value > 127:
        out.append(value & 127 | 128)
        value >>= 7
    return bytes([*out, value])


def _node(kind: str, inputs: list[str], output: str, *attributes: bytes) -> bytes:
    fields = [_field(1, name) for name in inputs] + [_field(2, output), _field(4, kind)]
    return _field(1, b"".join([*fields, *(_field(5, attribute) for attribute in attributes)]))


def _integer(name: str, value: int) -> bytes:
    return _field(1, name) + _field(3, value) + _field(20, 2)


def _tensor(name: str, values: np.ndarray) -> bytes:
    kind = _FLOAT if values.dtype == np.float32 else _INT64
    dims = b"".join(_field(1, size) for size in values.shape)
    return _field(5, dims + _field(2, kind) + _field(8, name) + _field(9, values.tobytes()))


def _value(field: int, name: str, kind: int, *sizes: int | str) -> bytes:
    dims = b"".join(_field(1, _field(2 if isinstance(size, str) else 1, size)) for size in sizes)
    return _field(field, _field(1, name) + _field(2, _field(1, _field(1, kind) + _field(2, dims))))


def graph(weights: np.ndarray) -> bytes:
    """A model; weights of shape (1 + side features, outputs)."""
    num_side, num_outputs = len(weights) - 1, weights.shape[1]
    nodes = [
        _node("Cast", ["input_ids"], "numbers", _integer("to", _FLOAT)),
        _node("ReduceMean", ["numbers", "axis"], "mean", _integer("keepdims", 1)),
        _node("Concat", ["mean", "side"], "row", _integer("axis", 1)),
        _node("MatMul", ["row", "weights"], "outputs"),
    ]
    content = [
        *nodes,
        _field(2, "by hand"),
        _tensor("axis", np.array([1], np.int64)),
        _tensor("weights", weights.astype(np.float32)),
        _value(11, "input_ids", _INT64, 1, "length"),
        _value(11, "side", _FLOAT, 1, num_side),
        _value(12, "outputs", _FLOAT, 1, num_outputs),
    ]
    return _field(1, 8) + _field(7, b"".join(content)) + _field(8, _field(1, "") + _field(2, 18))


def tokenizer() -> Tokenizer:
    """Words between blanks."""
    made = Tokenizer(models.WordLevel({word: place for place, word in enumerate(WORDS)}, unk_token="[UNK]"))
    made.pre_tokenizer = pre_tokenizers.Whitespace()
    made.post_processor = processors.BertProcessing(("[SEP]", 3), ("[CLS]", 2))
    return made


def parts(
    *, target_models: tuple[str, ...] = ("terse", "wordy"), **changes: Any
) -> tuple[dict[str, Any], dict[str, Any]]:
    """What `ProxyPredictor.restore` takes: the later a text's words stand in `WORDS`, the longer its answer."""
    weights = np.zeros((1 + len(target_models) + NUM_HISTORY_FEATURES, 1))
    weights[: 1 + len(target_models), 0] = [1.0, *np.arange(len(target_models))]
    files = {TOKENIZER: tokenizer().to_str().encode(), SINGLE: graph(weights), INT8: graph(weights), TORCH: b""}
    state = {
        "format": FORMAT,
        "target_models": list(target_models),
        "max_length": 16,
        "truncation": "tail",
        "precision": "int8",
        "decoder": {
            "kind": "score",
            "errors": [-0.5, 0.0, 0.5],
            "scale": {"unit": "log", "centre": 0.0, "spread": 1.0},
            "knots": None,
        },
    }
    return {name: np.frombuffer(content, np.uint8) for name, content in files.items()}, state | changes
