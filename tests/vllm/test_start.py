"""A server that cannot work says so in one line and ends, before it loads a model or opens its port."""

import subprocess
import sys
from pathlib import Path

import pytest

from ssjf.predict.artefact import CARD, save_predictor
from ssjf.predict.ngram.predictor import NgramPredictor
from tests.vllm.serving import FRONT_DOOR, ROOT, SCHEDULER, command, environment, free_port

_ANOTHER_VERSION = """
import runpy, vllm.version
vllm.version.__version__ = "0.99.1"
runpy.run_module("vllm.entrypoints.openai.api_server", run_name="__main__", alter_sys=True)
"""


def _start(model: Path, options: list[str], settings: dict[str, str], *, version: str = "") -> str:
    """Start a server that must end by itself with exit code 2; returns its last words."""
    words = command(model, free_port(), *options)
    if version:
        words = [sys.executable, "-c", version, *words[3:]]
    done = subprocess.run(
        words, env=environment(settings), cwd=ROOT, capture_output=True, text=True, timeout=240, check=False
    )
    output = done.stdout + done.stderr
    assert done.returncode == 2, output[-4000:]
    assert "Traceback" not in output
    assert "EngineCore" not in output, "a model was being loaded"
    return done.stderr.splitlines()[-1]


@pytest.mark.parametrize(
    ("options", "settings", "complaint"),
    [
        (SCHEDULER, {"policy": "hrrn"}, "ssjf: policy HRRN has keys that move"),
        (SCHEDULER, {"policy": "srpt"}, "ssjf: policy SRPT takes slots from running requests"),
        (FRONT_DOOR, {"policy": "ssfj"}, "ssjf: no policies named 'ssfj'; did you mean 'ssjf'?"),
        (FRONT_DOOR, {"predictor": "/no/such"}, "ssjf: no predictor and no folder named '/no/such'"),
        ([*FRONT_DOOR, *SCHEDULER], {}, "ssjf: the front door and the scheduler class together need"),
        (FRONT_DOOR[2:], {}, "ssjf: vLLM heeds no priorities unless it is told to: add --scheduling-policy priority"),
    ],
    ids=["moving keys", "preemptive", "unknown policy", "missing artefact", "apart", "no priorities"],
)
def test_what_cannot_work_is_one_clear_line(
    tiny_model: Path, options: list[str], settings: dict[str, str], complaint: str
) -> None:
    assert _start(tiny_model, options, settings).startswith(complaint)


def test_a_broken_artefact_is_one_clear_line(tiny_model: Path, tmp_path: Path) -> None:
    save_predictor(NgramPredictor(), tmp_path / "artefact")
    card = tmp_path / "artefact" / CARD
    card.write_text(card.read_text()[:-20])
    assert "damaged" in _start(tiny_model, FRONT_DOOR, {"predictor": str(tmp_path / "artefact")})


@pytest.mark.parametrize("options", [SCHEDULER, FRONT_DOOR], ids=["scheduler class", "front door"])
def test_another_version_of_vllm_is_one_clear_line(tiny_model: Path, options: list[str]) -> None:
    last = _start(tiny_model, options, {}, version=_ANOTHER_VERSION)
    assert last.startswith("ssjf: vLLM 0.99.1 is not supported")


def test_a_vllm_that_does_not_name_us_is_left_alone() -> None:
    words = [sys.executable, "-c", "from vllm.plugins import load_general_plugins; load_general_plugins()"]
    subprocess.run(words, env=environment({"policy": "no such"}), cwd=ROOT, timeout=240, check=True)
