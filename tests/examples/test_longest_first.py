"""A stranger's policy in a package of its own is found by name, by every command, and passes the contract."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
from examples.longest_first import LongestFirst

from ssjf.testing import check_policy

PACKAGE = """Metadata-Version: 2.1
Name: longest-first
Version: 1.0
"""
ENTRY_POINTS = """[ssjf.policies]
longest-first = longest_first:LongestFirst
"""


@pytest.fixture
def site(tmp_path: Path) -> Path:
    """A folder in which the example is installed."""
    site = tmp_path / "site"
    information = site / "longest_first-1.0.dist-info"
    information.mkdir(parents=True)
    (information / "METADATA").write_text(PACKAGE)
    (information / "entry_points.txt").write_text(ENTRY_POINTS)
    source = Path(__file__).parents[2] / "examples" / "longest_first.py"
    (site / "longest_first.py").write_text(source.read_text())
    return site


def ssjf(site: Path, *words: str | Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "ssjf", *map(str, words)]
    environment = {"PYTHONPATH": str(site), "PATH": "", "HOME": str(site)}
    return subprocess.run(command, check=False, env=environment, capture_output=True, text=True)


def test_it_passes_the_contract() -> None:
    check_policy(LongestFirst())


def test_an_installed_package_of_it_serves_a_simulation_by_name(site: Path, tmp_path: Path) -> None:
    workload = tmp_path / "workload.csv"
    workload.write_text("arrival_s,output_tokens,predicted_tokens\n0,10,10\n0,20,20\n0,30,30\n")
    done = ssjf(site, "simulate", "--workload", workload, "--policy", "longest-first", "--out", tmp_path / "out")
    assert done.returncode == 0, done.stderr
    rows = (tmp_path / "out" / "jobs.csv").read_text().splitlines()[1:]
    starts = [float(row.split(",")[4]) for row in rows]
    assert starts == sorted(starts, reverse=True)


def test_it_is_compared_without_being_named(site: Path, tmp_path: Path) -> None:
    words = ["--lengths", "paper", "--jobs", "60", "--seeds", "1", "--slots", "1", "--loads", "0.9", "--workers", "2"]
    done = ssjf(site, "compare", *words, "--out", tmp_path / "out")
    assert done.returncode == 0, done.stderr
    assert "longest-first" in done.stdout
    gains = {row["policy"]: row["gain"] for row in json.loads((tmp_path / "out" / "summary.json").read_text())}
    assert gains["longest-first"] < 0 < gains["ssjf"]


def test_the_gateway_takes_it_by_name(site: Path, tmp_path: Path) -> None:
    nobody = tmp_path / "nobody"  # what is wrong beside the policy is all that is said
    done = ssjf(site, "serve", "--policy", "longest-first", "--predictor", nobody)
    assert (done.returncode, "policy" in done.stderr) == (2, False)
    assert f"no predictor and no folder named '{nobody}'" in done.stderr
    done = ssjf(site, "serve", "--policy", "longest-frist")
    assert (done.returncode, "did you mean 'longest-first'?" in done.stderr) == (2, True)
