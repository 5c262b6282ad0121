"""What a command line names of ours is checked, and nothing else is looked at."""

import sys

import pytest

from ssjf.errors import UserError
from ssjf.integrations.vllm import preflight
from ssjf.integrations.vllm.preflight import MIDDLEWARE, SCHEDULER, check_arguments


def test_a_command_line_without_us_is_not_looked_at(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SSJF_VLLM_POLICY", "no such")
    check_arguments(["--model", "m", "--scheduling-policy", "priority"])


@pytest.mark.parametrize("arguments", [["--scheduler-cls", SCHEDULER], [f"--scheduler-cls={SCHEDULER}"]])
def test_the_scheduler_class_is_recognised_in_both_spellings(
    monkeypatch: pytest.MonkeyPatch, arguments: list[str]
) -> None:
    monkeypatch.setenv("SSJF_VLLM_POLICY", "hrrn")
    with pytest.raises(UserError, match="keys that move"):
        check_arguments(arguments)


@pytest.fixture
def any_vllm(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(preflight, "check", lambda *_, **__: "0.32.0")


@pytest.mark.usefixtures("any_vllm")
def test_a_front_door_that_vllm_would_not_heed_is_refused() -> None:
    with pytest.raises(UserError, match="add --scheduling-policy priority"):
        check_arguments(["--middleware", MIDDLEWARE])
    check_arguments(["--middleware", MIDDLEWARE, "--scheduling-policy=priority"])
    check_arguments(["--middleware", MIDDLEWARE, "--scheduler-cls", SCHEDULER])
    check_arguments(["--middleware", MIDDLEWARE, "--config", "it may say so.yaml"])


def test_what_cannot_work_ends_the_server_with_one_line(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["vllm", "--middleware", MIDDLEWARE])
    monkeypatch.setenv("SSJF_VLLM_PREDICTOR", "/no/such")
    with pytest.raises(SystemExit) as ended:
        preflight.preflight()
    assert ended.value.code == 2
    assert capsys.readouterr().err.startswith("ssjf: no predictor and no folder named '/no/such'")
