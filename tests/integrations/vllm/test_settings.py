"""Settings come from the environment, and what cannot work is refused by name."""

import logging
from pathlib import Path

import pytest

from ssjf.config import load_settings as load_serve_settings
from ssjf.core.policies import AutoStatic
from ssjf.core.service import LinearServiceModel
from ssjf.errors import ConfigError
from ssjf.integrations.vllm.settings import load_settings


@pytest.mark.parametrize(
    ("variables", "complaint"),
    [
        ({"POLICYY": "ssjf"}, "did you mean 'SSJF_VLLM_POLICY'"),
        ({"PREDICT_BUDGET_MS": "-1"}, "predict_budget_ms"),
        ({"ACCEPT_HINTS": "perhaps"}, "accept_hints"),
        ({"SECONDS_PER_TOKEN": "0.02"}, "set both"),
        ({"BASE_SECONDS": "0.1"}, "set all three"),
        ({"TOKENS_IN_PRIORITY": "true", "ACCEPT_TIERS": "true"}, "both want the priority field"),
    ],
)
def test_what_cannot_work_is_refused(
    monkeypatch: pytest.MonkeyPatch, variables: dict[str, str], complaint: str
) -> None:
    for name, value in variables.items():
        monkeypatch.setenv(f"SSJF_VLLM_{name}", value)
    with pytest.raises(ConfigError, match=complaint):
        load_settings()


def test_the_service_model_is_measured_unless_it_is_given(monkeypatch: pytest.MonkeyPatch) -> None:
    assert load_settings().service is None
    monkeypatch.setenv("SSJF_VLLM_SECONDS_PER_TOKEN", "0.02")
    monkeypatch.setenv("SSJF_VLLM_SECONDS_PER_INPUT_TOKEN", "0.001")
    assert load_settings().service == LinearServiceModel(0.0, 0.001, 0.02)


def test_auto_becomes_auto_static_and_the_log_says_so(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("SSJF_VLLM_POLICY", "auto")
    with caplog.at_level(logging.WARNING):
        assert isinstance(load_settings().make_policy(limits_waits=False), AutoStatic)
    assert "at the front door it is auto-static" in caplog.text


@pytest.mark.parametrize("limits_waits", [False, True])
def test_a_policy_of_deadlines_is_refused_as_requests_have_none(
    monkeypatch: pytest.MonkeyPatch, limits_waits: bool
) -> None:
    monkeypatch.setenv("SSJF_VLLM_POLICY", "edf")
    with pytest.raises(ConfigError, match="no deadlines inside vLLM"):
        load_settings().make_policy(limits_waits=limits_waits)


@pytest.mark.parametrize("policy", ["aged-ssjf:rate=1e300", "boost:gamma=1e-9"])
def test_a_policy_whose_keys_no_priority_can_hold_is_refused(monkeypatch: pytest.MonkeyPatch, policy: str) -> None:
    monkeypatch.setenv("SSJF_VLLM_POLICY", policy)
    with pytest.raises(ConfigError, match="too large for priorities"):
        load_settings().make_policy(limits_waits=False)


def test_settings_for_vllm_are_no_mistake_of_the_gateway_s(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SSJF_VLLM_POLICY", "ssjf")
    assert load_serve_settings().policy == "auto"


def test_a_file_may_hold_the_settings_and_variables_win(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    file = tmp_path / "ssjf.toml"
    file.write_text('policy = "ssjf"\nlessons = "lessons.sqlite"\naccept_hints = true\n')
    monkeypatch.setenv("SSJF_VLLM_CONFIG", str(file))
    settings = load_settings()
    assert (settings.policy, settings.lessons, settings.accept_hints) == ("ssjf", Path("lessons.sqlite"), True)
    monkeypatch.setenv("SSJF_VLLM_POLICY", "fcfs")
    assert load_settings().policy == "fcfs"
    file.write_text('polcy = "ssjf"')
    with pytest.raises(ConfigError, match="did you mean 'policy'"):
        load_settings()
