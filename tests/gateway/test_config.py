import pytest

from ssjf.cli.serve import _help
from ssjf.config import load_settings
from ssjf.errors import ConfigError


def test_flags_win_over_the_environment_and_that_over_defaults(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SSJF_PORT", "9000")
    monkeypatch.setenv("SSJF_SLOTS", "3")
    monkeypatch.setenv("SSJF_ACCEPT_HINTS", "true")
    settings = load_settings(port=9001, slots=None)
    assert (settings.port, settings.slots, settings.accept_hints) == (9001, 3, True)
    assert settings.host == "127.0.0.1"


def test_how_many_an_engine_takes_is_learned_unless_it_is_told() -> None:
    assert load_settings(backend=["http://gpu:8000"]).slots == "auto"
    assert _help("slots").endswith("(default: auto)")


@pytest.mark.parametrize(
    ("name", "value"),
    [("slots", 0), ("port", 70_000), ("max_wait_s", float("nan")), ("max_body_mb", float("inf")), ("drain_s", -1.0)],
)
def test_a_value_out_of_range_is_named(name: str, value: float) -> None:
    with pytest.raises(ConfigError, match=name):
        load_settings(**{name: value})


def test_a_misspelt_variable_is_an_error_that_knows_the_nearest_name(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SSJF_SLOT", "3")
    with pytest.raises(ConfigError, match="did you mean 'SSJF_SLOTS'"):
        load_settings()
