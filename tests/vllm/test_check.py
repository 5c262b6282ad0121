"""`ssjf vllm check` in an environment that has a vLLM."""

import pytest
from typer.testing import CliRunner

from ssjf.cli.main import app
from ssjf.errors import UserError
from ssjf.integrations import vllm as integration
from ssjf.integrations.vllm.preflight import check_arguments


def test_a_vllm_that_works_is_told_with_the_command_lines_to_use() -> None:
    result = CliRunner().invoke(app, ["vllm", "check"])
    assert result.exit_code == 0
    assert "works with ssjf" in result.stdout
    assert "--scheduling-policy priority --middleware ssjf.integrations.vllm.SSJFMiddleware" in result.stdout
    assert "--scheduler-cls ssjf.integrations.vllm.SSJFScheduler" in result.stdout


@pytest.mark.parametrize(
    ("setting", "lines"),
    [
        ("POLICY", ["--scheduler-cls", "--middleware", "TOKENS_IN_PRIORITY=true both"]),
        ("TOKENS_IN_PRIORITY", ["both"]),
        ("ACCEPT_TIERS", ["--scheduler-cls", "--middleware"]),
    ],
)
def test_only_command_lines_that_fit_the_settings_are_printed(
    monkeypatch: pytest.MonkeyPatch, setting: str, lines: list[str]
) -> None:
    monkeypatch.setenv(f"SSJF_VLLM_{setting}", "ssjf" if setting == "POLICY" else "true")
    result = CliRunner().invoke(app, ["vllm", "check"])
    assert result.exit_code == 0
    found = [line for line in result.stdout.splitlines() if line.startswith("  ")]
    assert [_kind(line) for line in found] == lines
    for line in found:
        before, _, after = line.partition(" MODEL ")
        if "TOKENS_IN_PRIORITY" in before:
            monkeypatch.setenv("SSJF_VLLM_TOKENS_IN_PRIORITY", "true")
        check_arguments(after.split())


def _kind(line: str) -> str:
    flags = [flag for flag in ("--scheduler-cls", "--middleware") if flag in line]
    told = "TOKENS_IN_PRIORITY=true " if "SSJF_VLLM_TOKENS_IN_PRIORITY=true" in line else ""
    return told + (flags[0] if len(flags) == 1 else "both")


@pytest.mark.parametrize(
    ("variable", "value", "complaint"),
    [
        ("SSJF_VLLM_POLICY", "hrrn", "keys that move"),
        ("SSJF_VLLM_PREDICTOR", "/no/such", "no predictor and no folder"),
        ("SSJF_VLLM_LESSONS", "/no/such/file", "SSJF_VLLM_LESSONS: cannot use"),
    ],
)
def test_what_will_not_work_is_one_clear_error(
    monkeypatch: pytest.MonkeyPatch, variable: str, value: str, complaint: str
) -> None:
    monkeypatch.setenv(variable, value)
    result = CliRunner().invoke(app, ["vllm", "check"])
    assert isinstance(result.exception, UserError)
    assert complaint in str(result.exception)


def test_an_unknown_version_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("vllm.version.__version__", "0.99.1")
    result = CliRunner().invoke(app, ["vllm", "check"])
    assert "is not supported" in str(result.exception)


def test_the_front_door_too_refuses_a_version_when_vllm_asks_for_the_class(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("vllm.version.__version__", "0.99.1")
    with pytest.raises(UserError, match="is not supported"):
        _ = integration.SSJFMiddleware
    monkeypatch.setenv("SSJF_VLLM_ANY_VERSION", "true")
    assert integration.SSJFMiddleware.__name__ == "SSJFMiddleware"


def test_a_vllm_without_the_header_is_told_to_do_with_the_scheduler_class(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr("vllm.entrypoints.generate.base.serving.PRIORITY_HEADER")
    result = CliRunner().invoke(app, ["vllm", "check"])
    assert result.exit_code == 0
    assert "--scheduler-cls" in result.stdout
    assert "The front door does not work here: this vLLM lacks" in result.stdout
    assert "--middleware" not in result.stdout
    with pytest.raises(UserError, match="the header X-Vllm-Priority"):
        _ = integration.SSJFMiddleware
