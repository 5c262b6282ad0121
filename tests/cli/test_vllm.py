"""`ssjf vllm check` where there is no vLLM."""

import sys

import pytest
from typer.testing import CliRunner

from ssjf.cli.main import app
from ssjf.errors import ConfigError


def test_without_vllm_the_error_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "vllm", None)  # also where there is one
    result = CliRunner().invoke(app, ["vllm", "check"])
    assert isinstance(result.exception, ConfigError)
    assert "vLLM cannot be imported here" in str(result.exception)


def test_settings_are_checked_before_anything_is_imported(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SSJF_VLLM_POLICI", "ssjf")
    result = CliRunner().invoke(app, ["vllm", "check"])
    assert "did you mean 'SSJF_VLLM_POLICY'" in str(result.exception)
