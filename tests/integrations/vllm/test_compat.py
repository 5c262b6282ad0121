"""Versions of vLLM are told apart, and what is missing is named; none is needed for these tests."""

import pytest

from ssjf.errors import ConfigError
from ssjf.integrations.vllm.compat import Probe, check_names, check_version


@pytest.mark.parametrize("version", ["0.20.0", "0.33.0", "0.32.1+cpu", "0.20.0rc1"])
def test_a_supported_version_passes(version: str) -> None:
    check_version(version)


@pytest.mark.parametrize("version", ["0.19.2", "0.34.0", "1.0.0", "dev", ""])
def test_another_version_is_refused_with_the_range_and_a_way_out(version: str) -> None:
    with pytest.raises(ConfigError, match=r"0\.20 to 0\.33 are; SSJF_VLLM_ANY_VERSION=true"):
        check_version(version)


def _moved() -> bool:
    raise ImportError("moved")


def test_everything_that_is_missing_is_named_at_once() -> None:
    probes = (Probe("one", lambda: False), Probe("two", lambda: True), Probe("three", _moved))
    with pytest.raises(ConfigError, match="relies on: one; three; use a supported version"):
        check_names(probes)
