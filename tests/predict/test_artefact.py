import copy
import hashlib
import json
import pickle
import shutil
from pathlib import Path

import numpy as np
import pytest

from ssjf.errors import ArtefactError, PluginError
from ssjf.predict.artefact import (
    CARD,
    WEIGHTS,
    load_predictor,
    read_card,
    read_predictor,
    read_seen,
    refuse_foreign,
    save_predictor,
)
from ssjf.predict.ngram.features import digest
from ssjf.predict.ngram.predictor import NgramPredictor
from ssjf.predict.simple import Constant
from ssjf.predict.training import as_request, fit
from tests.predict.made_up import ask, make_samples


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> tuple[NgramPredictor, Path]:
    """Trained offline, then online, also on a target model that training never saw; and saved."""
    trained, _ = fit(make_samples(60, model="old"))
    for sample in make_samples(20, seed=5, model="new"):
        trained.observe(as_request(sample), sample.num_output_tokens)
    folder = tmp_path_factory.mktemp("artefact") / "saved"
    save_predictor(trained, folder, {"metrics": {"tau_b": 0.5}})
    return trained, folder


@pytest.fixture
def predictor(saved: tuple[NgramPredictor, Path]) -> NgramPredictor:
    return copy.deepcopy(saved[0])


@pytest.fixture
def folder(saved: tuple[NgramPredictor, Path], tmp_path: Path) -> Path:
    return Path(shutil.copytree(saved[1], tmp_path / "saved"))


def test_a_saved_predictor_predicts_and_learns_on_exactly_as_before(predictor: NgramPredictor, folder: Path) -> None:
    requests = [ask(f"Write a story {i}", model=model) for i in range(5) for model in ("old", "new", "other", "")]
    twins = [read_predictor(folder), pickle.loads(pickle.dumps(predictor))]
    for _ in range(2):
        wanted = predictor.predict(requests)
        for twin in twins:
            assert twin.predict(requests) == wanted
        for learner in (predictor, *twins):
            learner.observe(requests[1], 321)
    assert {path.name for path in folder.iterdir()} == {CARD, WEIGHTS}


def test_the_card_tells_what_was_said_about_it(folder: Path) -> None:
    card = read_card(folder)
    assert card["family"] == "ngram"
    assert card["metrics"] == {"tau_b": 0.5}
    assert card["state"]["target_models"] == ["old", "new"]


def test_an_older_artefact_is_replaced_but_nothing_else(folder: Path, tmp_path: Path) -> None:
    save_predictor(NgramPredictor(), folder)
    (prediction,) = read_predictor(folder).predict([ask("hello", model="old")])
    assert prediction == NgramPredictor().predict([ask("hello")])[0]
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "cat.png").write_bytes(b"cat")
    with pytest.raises(ArtefactError, match="holds other files"):
        save_predictor(NgramPredictor(), tmp_path / "photos")
    with pytest.raises(ArtefactError, match="cannot write"):
        save_predictor(NgramPredictor(), tmp_path / "photos" / "cat.png")


def test_files_of_the_family_that_was_there_before_go(folder: Path) -> None:
    (folder / "model.onnx").write_bytes(b"of an encoder")
    (folder / "notes.txt").write_text("mine")
    save_predictor(NgramPredictor(), folder, openings=["hello"])
    assert {path.name for path in folder.iterdir()} == {CARD, WEIGHTS, "seen.bin", "notes.txt"}
    assert read_seen(str(folder)) == {digest("hello")}
    (folder / "seen.bin").write_bytes(b"12345678")
    with pytest.raises(ArtefactError, match=r"seen\.bin"):
        read_seen(str(folder))


def test_a_file_in_the_folder_s_place_is_noticed_before_training(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(ArtefactError, match="is a file"):
        refuse_foreign(tmp_path / "file")


def _edit_card(folder: Path, **changes: object) -> None:
    card = json.loads((folder / CARD).read_text())
    (folder / CARD).write_text(json.dumps({**card, **changes}))


def _edit_weights(folder: Path, **changes: np.ndarray) -> None:
    """Other arrays under a card that vouches for them."""
    with np.load(folder / WEIGHTS) as archive:
        arrays = {**archive, **changes}
    np.savez(folder / WEIGHTS, **arrays)
    _edit_card(folder, weights_sha256=hashlib.sha256((folder / WEIGHTS).read_bytes()).hexdigest())


@pytest.mark.parametrize(
    ("damage", "complaint"),
    [
        (lambda f: (f / CARD).unlink(), "no predictor folder"),
        (lambda f: (f / CARD).write_text("{"), "not JSON"),
        (lambda f: (f / CARD).write_bytes(b"\xff\xfe"), "not JSON"),
        (lambda f: (f / CARD).write_text("[]"), "not written by"),
        (lambda f: _edit_card(f, format="pickle"), "not written by"),
        (lambda f: _edit_card(f, version=99), "version 99"),
        (lambda f: _edit_card(f, family="tea-leaves"), "unknown family"),
        (lambda f: _edit_card(f, family="constant"), "damaged"),
        (lambda f: _edit_card(f, state=None), "damaged"),
        (lambda f: _edit_card(f, state={"features": 0}), "format 0"),
        (lambda f: _edit_card(f, state={"features": 1, "target_models": ["old"]}), "no levels of shape"),
        (lambda f: (f / WEIGHTS).unlink(), "weights.npz"),
        (lambda f: (f / WEIGHTS).write_bytes(b"PK"), "do not belong together"),
        (lambda f: _edit_weights(f, weights_table=np.zeros(7)), "no weights_table of shape"),
        (lambda f: _edit_weights(f, levels=np.full(3, np.nan)), "no levels"),
        (lambda f: _edit_weights(f, errors=np.zeros(2)), "spread"),
        (lambda f: _edit_weights(f, errors=np.array([{}], dtype=object)), "damaged"),
    ],
)
def test_a_damaged_or_foreign_folder_is_one_clear_line(folder: Path, damage, complaint: str) -> None:
    damage(folder)
    with pytest.raises(ArtefactError, match=complaint) as caught:
        read_predictor(folder)
    assert str(folder) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_predictor_is_loaded_by_name_or_by_folder(folder: Path) -> None:
    assert isinstance(load_predictor("constant"), Constant)
    assert isinstance(load_predictor("ngram"), NgramPredictor)
    assert isinstance(load_predictor(str(folder)), NgramPredictor)
    with pytest.raises(PluginError, match="did you mean 'ngram'"):
        load_predictor("ngrams")
