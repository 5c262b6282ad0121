"""Predictors on disk: one folder with `card.json`, for people and for checks, and `weights.npz`.

The card names the family; its class is found through the entry points `ssjf.predictors` and rebuilds the predictor
from arrays and JSON alone: nothing in the folder is ever executed. An array of bytes whose name has a suffix, such as
``tokenizer.json``, lies in the folder as the file of that name, for other tools to read. `seen.bin` tells by 64 bits
each what the conversations began with that it learned from, so that nobody takes them for unseen. This module does not
know what the arrays mean.
"""

import hashlib
import io
import json
import zipfile
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from ssjf.errors import ArtefactError, PluginError, did_you_mean
from ssjf.plugins import PREDICTORS, find, names
from ssjf.predict.base import Predictor
from ssjf.predict.ngram.features import digest

CARD, WEIGHTS, SEEN = "card.json", "weights.npz", "seen.bin"
SHIPPED = Path(__file__).with_name("default")
FORMAT, VERSION = "ssjf-predictor", 1
_FILES = {SEEN, "model.safetensors", "model.onnx", "model-int8.onnx", "tokenizer.json"}


class Saveable(Predictor, Protocol):
    """A predictor that can be written down; its class also has `restore`, which takes what `state` returns."""

    @property
    def family(self) -> str:
        """Its name among the entry points."""
        ...

    def state(self) -> tuple[dict[str, npt.NDArray[Any]], dict[str, Any]]:
        """Everything learned, as arrays and as JSON. Arrays named like a file hold its bytes (uint8)."""
        ...


def save_predictor(
    predictor: Saveable, folder: Path, about: Mapping[str, Any] | None = None, *, openings: Iterable[str] = ()
) -> None:
    """Write a predictor with all it has learned, online too; an older artefact in the folder is replaced.

    Args:
        predictor: what to save.
        folder: made if it does not exist.
        about: what else the card tells: data, settings, split, metrics. JSON.
        openings: what the conversations began with that it was fitted on.

    Raises:
        ArtefactError: the folder holds other files, or cannot be written.
    """
    arrays, state = predictor.state()
    files = {name: arrays.pop(name).tobytes() for name in list(arrays) if "." in name}
    buffer = io.BytesIO()
    np.savez_compressed(buffer, **arrays)  # type: ignore[arg-type]  # the stub takes the names for its own keywords
    weights = buffer.getvalue()
    seen = np.array(sorted({digest(opening) for opening in openings}), "<u8").tobytes()
    card = {
        "format": FORMAT,
        "version": VERSION,
        "family": predictor.family,
        **(about or {}),
        "state": state,
        "weights_sha256": hashlib.sha256(weights).hexdigest(),
        **({"seen_sha256": hashlib.sha256(seen).hexdigest()} if seen else {}),
        **({"files": {name: hashlib.sha256(content).hexdigest() for name, content in files.items()}} if files else {}),
    }
    try:
        folder.mkdir(parents=True, exist_ok=True)
        refuse_foreign(folder)
        content = {**files, WEIGHTS: weights, **({SEEN: seen} if seen else {})}
        # the card comes last: a folder that was half written fails the checks
        for name, data in {**content, CARD: json.dumps(card, indent=2).encode() + b"\n"}.items():
            _replace(folder / name, data)
        for path in folder.iterdir():
            if path.name not in content and path.name in _FILES:  # of the family that was here before
                path.unlink()
    except OSError as error:
        raise ArtefactError(f"cannot write {folder}: {error.strerror or error}") from None


def refuse_foreign(folder: Path) -> None:
    """Find out before a long training that its result could not be saved there.

    Raises:
        ArtefactError: the folder holds other files.
    """
    if folder.exists() and not folder.is_dir():
        raise ArtefactError(f"{folder} is a file; name a new or empty folder")
    if folder.is_dir() and any(folder.iterdir()) and not (folder / CARD).exists():
        raise ArtefactError(f"{folder} holds other files; name a new or empty folder")


def _replace(path: Path, content: bytes) -> None:
    partial = path.with_name(path.name + ".partial")
    partial.write_bytes(content)
    partial.replace(path)


def read_card(folder: Path) -> dict[str, Any]:
    """The card of an artefact.

    Raises:
        ArtefactError: there is none, or it is not one of ours or of another version.
    """
    try:
        card = json.loads((folder / CARD).read_text(encoding="utf-8"))
    except OSError as error:
        raise ArtefactError(f"{folder} is no predictor folder: {CARD}: {error.strerror or error}") from None
    except (ValueError, RecursionError):
        raise ArtefactError(f"{folder / CARD} is damaged: not JSON") from None
    if not isinstance(card, dict) or card.get("format") != FORMAT:
        raise ArtefactError(f"{folder / CARD} was not written by ssjf train")
    if card.get("version") != VERSION:
        raise ArtefactError(f"{folder} is of version {card.get('version')!r}; this ssjf reads {VERSION}: train it anew")
    return card


def read_predictor(folder: Path) -> Predictor:
    """The predictor in a folder, as it was when it was saved.

    Raises:
        ArtefactError: the folder is damaged, foreign or of another version.
    """
    card = read_card(folder)
    files = card.get("files", {})
    if not isinstance(files, dict) or any(Path(name).name != name for name in files):
        raise ArtefactError(f"{folder} is damaged: {CARD} does not list plain files")
    try:
        content = _read(folder / WEIGHTS, card.get("weights_sha256"))
        family = find(PREDICTORS, str(card.get("family")))
        with np.load(io.BytesIO(content), allow_pickle=False) as archive:
            arrays = {name: archive[name] for name in archive.files}
        arrays |= {name: np.frombuffer(_read(folder / name, expected), np.uint8) for name, expected in files.items()}
        predictor: Predictor = family.restore(arrays, card["state"])
    except PluginError as error:
        raise ArtefactError(f"{folder} is of an unknown family: {error}") from None
    except ArtefactError as error:
        raise ArtefactError(f"{folder} {error}") from None
    except (AttributeError, KeyError, TypeError, ValueError, zipfile.BadZipFile) as error:
        raise ArtefactError(f"{folder} is damaged: {error!r}") from None
    return predictor


def read_seen(name_or_path: str) -> frozenset[int]:
    """Digests of what the conversations began with that a predictor was fitted on; none for an untrained one.

    Raises:
        ArtefactError: the folder is damaged, foreign or of another version.
    """
    folder = SHIPPED if name_or_path == "default" else Path(name_or_path)
    if not folder.is_dir():
        return frozenset()
    expected = read_card(folder).get("seen_sha256")
    if expected is None:
        return frozenset()
    try:
        return frozenset(np.frombuffer(_read(folder / SEEN, expected), "<u8").tolist())
    except (ArtefactError, ValueError) as error:
        raise ArtefactError(f"{folder} {error}") from None


def _read(path: Path, expected: object) -> bytes:
    """A file's bytes, if they are those that the card vouches for."""
    try:
        content = path.read_bytes()
    except OSError as error:
        raise ArtefactError(f"is damaged: {path.name}: {error.strerror or error}") from None
    if hashlib.sha256(content).hexdigest() != expected:
        raise ArtefactError(f"is damaged: {path.name} and {CARD} do not belong together")
    return content


def load_predictor(name_or_path: str) -> Predictor:
    """A new predictor by the name of its entry point, or a saved one by its folder.

    Raises:
        PluginError: it is neither, or the plugin cannot be loaded.
        ArtefactError: the folder is damaged, foreign or of another version.
    """
    known = names(PREDICTORS)
    if name_or_path in known:
        predictor: Predictor = find(PREDICTORS, name_or_path)()
        return predictor
    if Path(name_or_path).is_dir():
        return read_predictor(Path(name_or_path))
    raise PluginError(f"no predictor and no folder named {name_or_path!r}; {did_you_mean(name_or_path, known)}")
