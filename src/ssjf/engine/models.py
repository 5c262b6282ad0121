"""Model files: find them, check them, and know from their metadata what they need.

The inference library crashes the whole process on a damaged or foreign GGUF file, so the file is checked here, before
the library sees it. This module reads headers only; it does not know how a model is run, and loads no weights.

GGUF layout: https://github.com/ggml-org/ggml/blob/master/docs/gguf.md
"""

import json
import math
import os
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

from ssjf.errors import ConfigError, UserError

KV_BLOCK_TOKENS = 32
"""Tokens per block of the KV cache on CPU."""

_KV_BYTES_PER_VALUE = 2  # the cache is kept in 16 bit; a cache quantised further only needs less
_ARCHITECTURES = ("llama", "qwen2", "qwen3")
# Tensor types that the inference library reads: (weights per block, bytes per block) by the number GGUF gives them.
_TENSOR_TYPES = {0: (1, 4), 1: (1, 2), 2: (32, 18), 3: (32, 20), 8: (32, 34), 12: (256, 144), 14: (256, 210)}
_SCALARS = {0: "<B", 1: "<b", 2: "<H", 3: "<h", 4: "<I", 5: "<i", 6: "<f", 7: "<?", 10: "<Q", 11: "<q", 12: "<d"}
_STRING, _ARRAY = 8, 9
_IR_FILES = ("openvino_model.xml", "openvino_model.bin", "openvino_tokenizer.xml", "openvino_detokenizer.xml")


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelFiles:
    """A model on disk that can be loaded.

    Attributes:
        path: a GGUF file or an OpenVINO IR folder.
        name: how clients call it.
        context_length: tokens of prompt and answer together that the model was made for.
        vocab_size: token ids are below it.
        kv_bytes_per_token: memory that one token takes in the KV cache, in bytes, over all layers.
    """

    path: Path
    name: str
    context_length: int
    vocab_size: int
    kv_bytes_per_token: int


@dataclass(frozen=True, slots=True)
class CachePlan:
    """How much the engine can hold at once.

    Attributes:
        max_model_len: longest prompt and answer together, in tokens.
        num_kv_blocks: blocks of `KV_BLOCK_TOKENS` tokens that all running sequences share.
    """

    max_model_len: int
    num_kv_blocks: int


def find_model(model: str) -> ModelFiles:
    """The model that a person named: a GGUF file, an OpenVINO IR folder, or the hub id of one.

    A hub id is ``owner/name`` for an IR folder and ``owner/name/file.gguf`` for a GGUF file.

    Raises:
        UserError: there is no such model, or it is damaged, or of a kind that cannot be run.
    """
    try:
        path = Path(model).expanduser()
        exists = path.exists()
    except (OSError, RuntimeError) as error:  # a name too long, a home of nobody
        raise UserError(f"--model {model[:80]!r} is no model: {error}") from None
    name = path.name
    if not exists:
        path, name = _download(model), model
    if path.is_dir():
        return _from_ir_folder(path, name=name)
    return _from_gguf(path, name=name.removesuffix(".gguf"))


def plan_cache(
    files: ModelFiles, *, max_num_seqs: int, kv_cache_gib: float, max_model_len: int | None = None
) -> CachePlan:
    """Room for `max_num_seqs` sequences of full length, or as much of that as `kv_cache_gib` allows.

    With less than full room the engine still serves everybody: it preempts sequences and computes them again.
    A single sequence must fit, or it could never be served.

    Raises:
        ConfigError: `max_model_len` exceeds the model's context or the cache.
    """
    if not 0 < kv_cache_gib < math.inf:
        raise ConfigError(f"--kv-cache-gib must be a positive number, not {kv_cache_gib:g}")
    affordable = int(kv_cache_gib * 2**30 / (files.kv_bytes_per_token * KV_BLOCK_TOKENS))
    if affordable < 1:
        raise ConfigError(f"--kv-cache-gib {kv_cache_gib:g} is less than one block of model {files.name!r}; raise it")
    if max_model_len is None:
        max_model_len = min(files.context_length, affordable * KV_BLOCK_TOKENS)
    if max_model_len > files.context_length:
        raise ConfigError(f"--max-model-len {max_model_len} exceeds the model's context of {files.context_length}")
    blocks_per_seq = math.ceil(max_model_len / KV_BLOCK_TOKENS)
    if blocks_per_seq > affordable:
        needed = blocks_per_seq * KV_BLOCK_TOKENS * files.kv_bytes_per_token / 2**30
        raise ConfigError(f"--max-model-len {max_model_len} needs --kv-cache-gib {needed:.2g} or more")
    return CachePlan(max_model_len, min(max_num_seqs * blocks_per_seq, affordable))


def _download(model: str) -> Path:
    """Fetch a model by its hub id, or find it in the local hub cache."""
    owner, _, rest = model.partition("/")
    name, _, file = rest.partition("/")
    looks_like_id = owner and name and not model.startswith((".", "~")) and (not file or file.endswith(".gguf"))
    if not looks_like_id:
        raise UserError(f"no model at {model!r}: give a GGUF file, an OpenVINO IR folder or a hub id of one")
    os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
    try:
        import huggingface_hub  # noqa: PLC0415 - optional
    except ImportError:
        raise UserError(
            f"no file or folder {model!r}; to fetch it from the hub, `pip install huggingface_hub`, "
            "or download it and give its path"
        ) from None
    repo = f"{owner}/{name}"
    try:
        if file:
            return Path(huggingface_hub.hf_hub_download(repo, file))
        patterns = ["*.xml", "*.bin", "*.json", "*.jinja"]
        return Path(huggingface_hub.snapshot_download(repo, allow_patterns=patterns))
    except Exception as error:  # the hub client raises a dozen kinds: no network, no such repository, no permission
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise UserError(f"no file or folder {model!r}, and the hub has no answer: {reason}") from error


def _from_ir_folder(path: Path, *, name: str) -> ModelFiles:
    missing = [file for file in (*_IR_FILES, "config.json") if not (path / file).is_file()]
    if missing:
        raise UserError(f"{path} is not an OpenVINO IR folder: {', '.join(missing)} missing")
    try:
        config = json.loads((path / "config.json").read_text(encoding="utf-8"))
        heads = config["num_attention_heads"]
        head_dim = config.get("head_dim") or config["hidden_size"] // heads
        values_per_token = 2 * config["num_hidden_layers"] * (config.get("num_key_value_heads") or heads) * head_dim
        return ModelFiles(
            path=path,
            name=name,
            context_length=int(config["max_position_embeddings"]),
            vocab_size=int(config["vocab_size"]),
            kv_bytes_per_token=values_per_token * _KV_BYTES_PER_VALUE,
        )
    except (ValueError, TypeError, KeyError, ZeroDivisionError, AttributeError) as error:
        raise UserError(f"{path / 'config.json'} does not describe a language model: {error!r}") from None


def _from_gguf(path: Path, *, name: str) -> ModelFiles:
    try:
        with path.open("rb") as file:
            metadata = _read_gguf_header(file, path.stat().st_size)
    except OSError as error:
        raise UserError(f"cannot read model {path}: {error.strerror}") from None
    except (ValueError, struct.error, OverflowError, MemoryError) as error:
        reason = "it ends too early" if isinstance(error, struct.error) else error
        raise UserError(f"{path} is not a usable GGUF model: {reason}") from None
    architecture = metadata.get("general.architecture")
    if architecture not in _ARCHITECTURES:
        raise UserError(f"{path}: architecture {architecture!r} is not supported ({', '.join(_ARCHITECTURES)} are)")

    def number(key: str, default: int | None = None) -> int:
        value = metadata.get(f"{architecture}.{key}", default)
        if not isinstance(value, int) or value < 1:
            raise UserError(f"{path} is not a usable GGUF model: its {architecture}.{key} is {value!r}")
        return value

    heads = number("attention.head_count")
    head_dim = number("attention.key_length", number("embedding_length") // heads)
    vocab = metadata.get("tokenizer.ggml.tokens")
    if not isinstance(vocab, int) or vocab < 1:
        raise UserError(f"{path} is not a usable GGUF model: it has no tokenizer")
    return ModelFiles(
        path=path,
        name=name,
        context_length=number("context_length"),
        vocab_size=vocab,
        kv_bytes_per_token=2
        * number("block_count")
        * number("attention.head_count_kv", heads)
        * head_dim
        * _KV_BYTES_PER_VALUE,
    )


def _read_gguf_header(file: BinaryIO, size: int) -> Mapping[str, Any]:
    """The metadata, arrays replaced by their lengths, after checking that every tensor is there and readable.

    Raises:
        ValueError: not a GGUF file, or a tensor is of an unknown type or not (wholly) in the file.
        struct.error: the file ends within the header.
    """
    magic = file.read(4)
    if magic != b"GGUF":
        raise ValueError("it does not begin with 'GGUF'")
    version = _scalar(file, "<I")
    if version not in (2, 3):
        raise ValueError(f"GGUF version {version} is unknown")
    num_tensors, num_entries = _scalar(file, "<Q"), _scalar(file, "<Q")
    metadata: dict[str, Any] = {}
    for _ in range(num_entries):
        key = _string(file)
        metadata[key] = _value(file, _scalar(file, "<I"))
    end_of_data = 0
    for _ in range(num_tensors):
        name = _string(file)
        num_weights = math.prod(_scalar(file, "<Q") for _ in range(_scalar(file, "<I")))
        tensor_type, offset = _scalar(file, "<I"), _scalar(file, "<Q")
        if tensor_type not in _TENSOR_TYPES:
            raise ValueError(f"tensor {name!r} is of type {tensor_type}; use F16, Q8_0 or Q4_0")
        weights, num_bytes = _TENSOR_TYPES[tensor_type]
        end_of_data = max(end_of_data, offset + num_weights // weights * num_bytes)
    alignment = metadata.get("general.alignment", 32)
    if not isinstance(alignment, int) or alignment < 1:
        raise ValueError(f"its alignment is {alignment!r}")
    start_of_data = math.ceil(file.tell() / alignment) * alignment
    if not num_tensors or start_of_data + end_of_data > size:
        raise ValueError("tensors are missing at its end; download it again")
    return metadata


def _scalar(file: BinaryIO, layout: str) -> Any:
    return struct.unpack(layout, file.read(struct.calcsize(layout)))[0]


def _string(file: BinaryIO) -> str:
    length = _scalar(file, "<Q")
    data = file.read(length)
    if len(data) < length:
        raise ValueError("it ends too early")
    return data.decode("utf-8", "replace")


def _value(file: BinaryIO, kind: int) -> Any:
    if kind == _STRING:
        return _string(file)
    if kind == _ARRAY:
        element, length = _scalar(file, "<I"), _scalar(file, "<Q")
        if element == _STRING:
            for _ in range(length):
                file.seek(_scalar(file, "<Q"), os.SEEK_CUR)
        elif element in _SCALARS:
            file.seek(length * struct.calcsize(_SCALARS[element]), os.SEEK_CUR)
        else:
            raise ValueError(f"an array of unknown type {element}")
        return length
    if kind not in _SCALARS:
        raise ValueError(f"a value of unknown type {kind}")
    return _scalar(file, _SCALARS[kind])
