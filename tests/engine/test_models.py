"""A file that would crash the inference library is refused before the library sees it."""

import json
import struct
import sys
import types
from pathlib import Path
from typing import Any

import pytest

from ssjf.engine.models import CachePlan, ModelFiles, find_model, plan_cache
from ssjf.errors import ConfigError, UserError

UINT32, STRING, ARRAY = 4, 8, 9


def text(value: str) -> bytes:
    return struct.pack("<Q", len(value)) + value.encode()


def gguf(*, architecture: str = "llama", tensor_type: int = 1, without: str = "", **replaced: bytes) -> bytes:
    """A GGUF file with one tensor of 64 weights, written by hand from the format's description."""
    numbers = {"context_length": 512, "embedding_length": 96, "block_count": 2, "attention.head_count": 6,
               "attention.head_count_kv": 3}  # fmt: skip
    entries = {"general.architecture": struct.pack("<I", STRING) + text(architecture)}
    entries |= {f"{architecture}.{key}": struct.pack("<II", UINT32, value) for key, value in numbers.items()}
    tokens = b"".join(text(token) for token in ("a", "b", "longer"))
    entries["tokenizer.ggml.tokens"] = struct.pack("<IIQ", ARRAY, STRING, 3) + tokens
    entries["tokenizer.ggml.token_type"] = struct.pack("<IIQ3i", ARRAY, 5, 3, 1, 1, 1)
    entries = {key: value for key, value in (entries | replaced).items() if not without or without not in key}
    header = b"GGUF" + struct.pack("<IQQ", 3, 1, len(entries))
    header += b"".join(text(key) + value for key, value in entries.items())
    header += text("w") + struct.pack("<IQQIQ", 2, 32, 2, tensor_type, 0)
    return header + b"\0" * (-len(header) % 32) + b"\0" * 128


def test_a_model_file_tells_what_it_needs(tmp_path: Path) -> None:
    path = tmp_path / "small.gguf"
    path.write_bytes(gguf())
    # 2 (key, value) x 2 layers x 3 heads x 96/6 values x 2 bytes
    expected = ModelFiles(path=path, name="small", context_length=512, vocab_size=3, kv_bytes_per_token=384)
    assert find_model(str(path)) == expected


BROKEN = {
    "empty": b"",
    "text": b"this is no model",
    "version": gguf()[:4] + b"\1" + gguf()[5:],
    "cut in the header": gguf()[:150],
    "cut in the data": gguf()[:-1],
    "huge counts": b"GGUF" + struct.pack("<IQQ", 3, 2**63, 2**63),
    "huge string": b"GGUF" + struct.pack("<IQQQ", 3, 1, 1, 2**62),
    "architecture": gguf(architecture="mamba"),
    "tensor type": gguf(tensor_type=30),
    "no tokenizer": gguf(without="tokenizer"),
    "no context length": gguf(without="context_length"),
    "no heads": gguf(**{"llama.attention.head_count": struct.pack("<II", UINT32, 0)}),
    "value of unknown type": gguf(**{"general.name": struct.pack("<I", 99)}),
    "alignment of zero": gguf(**{"general.alignment": struct.pack("<II", UINT32, 0)}),
}


@pytest.mark.parametrize("name", BROKEN)
def test_a_broken_file_is_refused_with_its_name(name: str, tmp_path: Path) -> None:
    path = tmp_path / "broken.gguf"
    path.write_bytes(BROKEN[name])
    with pytest.raises(UserError, match=r"broken\.gguf"):
        find_model(str(path))


def ir_folder(path: Path, **config: Any) -> Path:
    path.mkdir()
    for file in ("openvino_model.xml", "openvino_model.bin", "openvino_tokenizer.xml", "openvino_detokenizer.xml"):
        (path / file).touch()
    sizes = {"num_attention_heads": 8, "num_key_value_heads": 2, "hidden_size": 64, "num_hidden_layers": 3,
             "max_position_embeddings": 4096, "vocab_size": 100}  # fmt: skip
    (path / "config.json").write_text(json.dumps(sizes | config))
    return path


def test_an_ir_folder_is_a_model(tmp_path: Path) -> None:
    files = find_model(str(ir_folder(tmp_path / "ir")))
    assert (files.name, files.context_length, files.vocab_size, files.kv_bytes_per_token) == ("ir", 4096, 100, 192)
    assert find_model(str(ir_folder(tmp_path / "wide", head_dim=32))).kv_bytes_per_token == 768


def test_an_incomplete_ir_folder_is_refused(tmp_path: Path) -> None:
    folder = ir_folder(tmp_path / "ir", hidden_size="many")
    with pytest.raises(UserError, match=r"config\.json"):
        find_model(str(folder))
    (folder / "openvino_tokenizer.xml").unlink()
    with pytest.raises(UserError, match=r"openvino_tokenizer\.xml missing"):
        find_model(str(folder))


@pytest.mark.parametrize("model", ["missing.gguf", "./a/b", "/no/such/file.gguf", "nothing"])
def test_a_path_to_nothing_is_refused(model: str) -> None:
    with pytest.raises(UserError, match="no model at"):
        find_model(model)


def test_a_hub_id_is_fetched(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "model.gguf"
    path.write_bytes(gguf())
    hub = types.ModuleType("huggingface_hub")
    hub.hf_hub_download = lambda repo, file: {("owner/name", "model.gguf"): path}[repo, file]  # type: ignore[attr-defined]
    hub.snapshot_download = lambda *_, **__: 1 / 0  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "huggingface_hub", hub)
    monkeypatch.setenv("HF_HUB_DISABLE_TELEMETRY", "1")
    assert find_model("owner/name/model.gguf").path == path
    with pytest.raises(UserError, match="the hub has no answer: division by zero"):
        find_model("owner/name")


def test_without_the_hub_client_a_hub_id_says_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    monkeypatch.setenv("HF_HUB_DISABLE_TELEMETRY", "1")
    with pytest.raises(UserError, match="pip install huggingface_hub"):
        find_model("owner/name")


MODEL = ModelFiles(path=Path("m"), name="m", context_length=1000, vocab_size=3, kv_bytes_per_token=2**15)  # 1 MiB/block


def test_there_is_room_for_all_sequences_at_full_length() -> None:
    assert plan_cache(MODEL, max_num_seqs=4, kv_cache_gib=1) == CachePlan(1000, 4 * 32)
    assert plan_cache(MODEL, max_num_seqs=4, kv_cache_gib=1, max_model_len=64) == CachePlan(64, 8)


def test_memory_limits_the_cache_and_then_the_context() -> None:
    assert plan_cache(MODEL, max_num_seqs=64, kv_cache_gib=1) == CachePlan(1000, 1024)
    assert plan_cache(MODEL, max_num_seqs=4, kv_cache_gib=1 / 128) == CachePlan(8 * 32, 8)


@pytest.mark.parametrize(("max_model_len", "kv_cache_gib"), [(1001, 1.0), (1000, 1 / 128), (None, 1e-6)])
def test_what_does_not_fit_is_refused(max_model_len: int | None, kv_cache_gib: float) -> None:
    with pytest.raises(ConfigError):
        plan_cache(MODEL, max_num_seqs=1, kv_cache_gib=kv_cache_gib, max_model_len=max_model_len)
