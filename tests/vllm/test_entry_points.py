"""What others find of ours by name is there, in the environment of vLLM as well."""

import tomllib
from importlib.metadata import EntryPoint, distribution

import pytest

from tests.vllm.serving import ROOT

INSTALLED = [point for point in distribution("ssjf").entry_points if point.group != "console_scripts"]


def test_the_entry_points_are_those_of_the_project_as_it_is() -> None:
    declared = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["entry-points"]
    found = {(point.group, point.name): point.value for point in INSTALLED}
    wanted = {(group, name): value for group, points in declared.items() for name, value in points.items()}
    assert found == wanted, "stale: make .venv-vllm/.stamp-ssjf installs them again"


@pytest.mark.parametrize("point", INSTALLED, ids=lambda point: f"{point.group} {point.name}")
def test_every_entry_point_can_be_loaded(point: EntryPoint) -> None:
    assert callable(point.load())
