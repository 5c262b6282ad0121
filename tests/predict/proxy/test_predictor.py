"""Serving without torch, from files that were made without it."""

import copy
import json
import pickle
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given

pytest.importorskip("tokenizers")
pytest.importorskip("onnxruntime")

from ssjf.core.types import Request
from ssjf.errors import ArtefactError, PluginError
from ssjf.predict.artefact import CARD, WEIGHTS, load_predictor, read_predictor, save_predictor
from ssjf.predict.proxy.predictor import FORMAT, INT8, SINGLE, TOKENIZER, TORCH, EmbeddingPredictor, ProxyPredictor
from tests.predict.made_up import ANY_TEXT, ask
from tests.predict.proxy.by_hand import graph, parts


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    save_predictor(ProxyPredictor.restore(*parts()), tmp_path / "saved", {"metrics": {"tau_b": 0.5}})
    return tmp_path / "saved"


def tokens(predictor: ProxyPredictor, prompt: str, model: str = "terse") -> float:
    return predictor.predict([ask(prompt, model=model)])[0].num_output_tokens


def test_a_prediction_is_what_the_graph_says_in_tokens() -> None:
    (prediction,) = ProxyPredictor.restore(*parts()).predict([ask("hello story", model="terse")])
    score = np.mean([2, 5, 6, 3])  # [CLS] hello story [SEP]
    spread = np.exp([-0.5, 0.0, 0.5])
    assert prediction.num_output_tokens == pytest.approx(np.exp(score) * spread.mean() - 1, rel=1e-5)
    assert dict(prediction.quantiles)[0.5] == pytest.approx(np.exp(score) - 1, rel=1e-5)
    assert prediction.source == f"proxy@{FORMAT}"


def test_models_differ_and_an_unknown_one_is_their_average() -> None:
    predictor = ProxyPredictor.restore(*parts())
    terse, wordy, unknown = (tokens(predictor, "hello", model) for model in ("terse", "wordy", "?"))
    assert terse < unknown < wordy
    # the graph is linear in log tokens, and so is the average
    assert np.log1p([terse, wordy]).mean() == pytest.approx(np.log1p(unknown), rel=1e-3)


def test_a_prediction_depends_on_no_other_request() -> None:
    predictor = ProxyPredictor.restore(*parts())
    requests = [ask("hello"), ask("a story " * 5), ask("")]
    assert predictor.predict(requests) == [predictor.predict([request])[0] for request in requests]
    assert predictor.predict([]) == []


def test_it_learns_nothing_online() -> None:
    predictor = ProxyPredictor.restore(*parts())
    before = tokens(predictor, "hello")
    predictor.observe(ask("hello", model="terse"), 9999)
    assert tokens(predictor, "hello") == before


PREDICTOR = ProxyPredictor.restore(*parts())


@given(ANY_TEXT)
def test_any_text_has_a_finite_prediction(text: str) -> None:
    assert 1 <= tokens(PREDICTOR, text) < 1e7


def test_it_is_saved_as_files_that_other_tools_read(folder: Path) -> None:
    assert {path.name for path in folder.iterdir()} == {CARD, WEIGHTS, TOKENIZER, SINGLE, INT8, TORCH}
    assert json.loads((folder / TOKENIZER).read_text())["model"]["type"] == "WordLevel"
    card = json.loads((folder / CARD).read_text())
    assert card["family"] == "proxy"
    assert set(card["files"]) == {TOKENIZER, SINGLE, INT8, TORCH}


def test_what_was_saved_predicts_as_before_and_can_be_copied(folder: Path) -> None:
    requests = [ask("hello", model="wordy"), ask("a story", model="?")]
    wanted = PREDICTOR.predict(requests)
    for twin in (load_predictor(str(folder)), copy.deepcopy(PREDICTOR), pickle.loads(pickle.dumps(PREDICTOR))):
        assert twin.predict(requests) == wanted


def test_the_family_embedding_is_restored_as_such(tmp_path: Path) -> None:
    save_predictor(EmbeddingPredictor.restore(*parts()), tmp_path / "saved")
    predictor = load_predictor(str(tmp_path / "saved"))
    assert isinstance(predictor, EmbeddingPredictor)
    assert predictor.predict([ask("hello")])[0].source.startswith("embedding@")


@pytest.mark.parametrize("family", ["proxy", "embedding"])
def test_without_a_folder_it_says_how_to_make_one(family: str) -> None:
    with pytest.raises(PluginError, match=f"ssjf train DATA --family {family}"):
        load_predictor(family)


def test_a_serving_process_imports_neither_torch_nor_transformers(folder: Path) -> None:
    program = f"""
import sys
from ssjf.core.types import Request
from ssjf.predict.artefact import load_predictor
(prediction,) = load_predictor({str(folder)!r}).predict([Request(request_id="r", prompt="hello", arrival_time=0.0)])
assert prediction.num_output_tokens > 1
heavy = {{"torch", "transformers", "accelerate", "onnx", "safetensors", "sklearn"}} & set(sys.modules)
assert not heavy, heavy
"""
    subprocess.run([sys.executable, "-c", program], check=True, timeout=60)


@pytest.mark.parametrize("name", [TOKENIZER, SINGLE, INT8, TORCH])
def test_a_file_that_was_changed_or_lost_is_noticed(folder: Path, name: str) -> None:
    (folder / name).write_bytes(b"something else")
    with pytest.raises(ArtefactError, match=f"{name} and card.json do not belong together"):
        read_predictor(folder)
    (folder / name).unlink()
    with pytest.raises(ArtefactError, match=f"damaged: {name}"):
        read_predictor(folder)


@pytest.mark.parametrize("files", [{"../elsewhere.onnx": "0"}, {"/etc/hostname": "0"}, ["model.onnx"]])
def test_a_card_cannot_have_files_elsewhere_read(folder: Path, files: object) -> None:
    card = json.loads((folder / CARD).read_text())
    (folder / CARD).write_text(json.dumps({**card, "files": files}))
    with pytest.raises(ArtefactError, match="does not list plain files"):
        read_predictor(folder)


@pytest.mark.parametrize(
    ("files", "state", "complaint"),
    [
        ({INT8: b"no graph"}, {}, "do not fit together"),
        ({TOKENIZER: b"{}"}, {}, "do not fit together"),
        ({INT8: graph(np.zeros((2, 1)))}, {}, "do not fit together"),
        ({INT8: graph(np.zeros((6, 2)))}, {}, "another question"),
        ({}, {"format": 99}, "format 99"),
        ({}, {"truncation": "middle"}, "unknown way"),
        ({}, {"max_length": 0}, "unknown way"),
        ({}, {"decoder": {"kind": "score"}}, "damaged"),
    ],
)
def test_a_card_that_vouches_for_nonsense_is_one_clear_line(
    tmp_path: Path, files: dict[str, bytes], state: dict, complaint: str
) -> None:
    class Forged(ProxyPredictor):
        def __init__(self) -> None:
            arrays, its_state = parts(**state)
            self._arrays = arrays | {name: np.frombuffer(content, np.uint8) for name, content in files.items()}
            self._state = its_state

    save_predictor(Forged(), tmp_path / "forged")
    with pytest.raises(ArtefactError, match=complaint) as caught:
        read_predictor(tmp_path / "forged")
    assert "\n" not in str(caught.value)
    assert str(tmp_path) in str(caught.value)


def test_a_missing_file_of_the_list_is_named() -> None:
    arrays, state = parts()
    with pytest.raises(ArtefactError, match=SINGLE):
        ProxyPredictor.restore({name: array for name, array in arrays.items() if name != SINGLE}, state)


def test_the_single_precision_graph_is_served_where_the_card_says_so() -> None:
    arrays, state = parts(precision="float32")
    arrays[INT8] = np.frombuffer(b"not looked at", np.uint8)
    assert ProxyPredictor.restore(arrays, state).predict([Request(request_id="r", arrival_time=0.0)])
