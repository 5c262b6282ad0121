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
    check_arguments(["--middleware", MIDDLEWARE, "--config", "it may say so.yaml"])


BOTH = ["--middleware", MIDDLEWARE, "--scheduler-cls", SCHEDULER]


@pytest.mark.usefixtures("any_vllm")
@pytest.mark.parametrize(
    ("arguments", "settings", "complaint"),
    [
        (BOTH, [], "together need SSJF_VLLM_TOKENS_IN_PRIORITY=true"),
        (BOTH, ["ACCEPT_TIERS"], "together cannot heed SSJF_VLLM_ACCEPT_TIERS"),
        ([*BOTH[:2], "--scheduling-policy", "priority"], ["TOKENS_IN_PRIORITY"], "together; use both, or do not"),
        (BOTH[2:], ["TOKENS_IN_PRIORITY"], "together; use both, or do not"),
    ],
)
def test_settings_under_which_the_two_would_not_work_together_are_refused(
    monkeypatch: pytest.MonkeyPatch, arguments: list[str], settings: list[str], complaint: str
) -> None:
    for name in settings:
        monkeypatch.setenv(f"SSJF_VLLM_{name}", "true")
    with pytest.raises(UserError, match=complaint):
        check_arguments(arguments)


@pytest.mark.usefixtures("any_vllm")
def test_both_together_work_where_they_understand_each_other(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SSJF_VLLM_TOKENS_IN_PRIORITY", "true")
    check_arguments(BOTH)
    check_arguments([*BOTH[2:], "--config", "the other may be there.yaml"])
    check_arguments(["serve", "model", "--headless", *BOTH[2:]])  # the API servers are on another machine


def test_what_cannot_work_ends_the_server_with_one_line(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["vllm", "--middleware", MIDDLEWARE])
    monkeypatch.setenv("SSJF_VLLM_PREDICTOR", "/no/such")
    with pytest.raises(SystemExit) as ended:
        preflight.preflight()
    assert ended.value.code == 2
    assert capsys.readouterr().err.startswith("ssjf: no predictor and no folder named '/no/such'")
