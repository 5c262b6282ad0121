"""A stranger's policy in a package of its own is found by name and passes the contract."""

import subprocess
import sys
from pathlib import Path

from examples.longest_first import LongestFirst

from ssjf.testing import check_policy

PACKAGE = """Metadata-Version: 2.1
Name: longest-first
Version: 1.0
"""
ENTRY_POINTS = """[ssjf.policies]
longest-first = longest_first:LongestFirst
"""


def test_it_passes_the_contract() -> None:
    check_policy(LongestFirst())


def test_an_installed_package_of_it_serves_a_simulation_by_name(tmp_path: Path) -> None:
    site = tmp_path / "site"
    information = site / "longest_first-1.0.dist-info"
    information.mkdir(parents=True)
    (information / "METADATA").write_text(PACKAGE)
    (information / "entry_points.txt").write_text(ENTRY_POINTS)
    source = Path(__file__).parents[2] / "examples" / "longest_first.py"
    (site / "longest_first.py").write_text(source.read_text())
    workload = tmp_path / "workload.csv"
    workload.write_text("arrival_s,output_tokens,predicted_tokens\n0,10,10\n0,20,20\n0,30,30\n")
    words = ["simulate", "--workload", str(workload), "--policy", "longest-first", "--out", str(tmp_path / "out")]
    environment = {"PYTHONPATH": str(site), "PATH": "", "HOME": str(tmp_path)}
    subprocess.run([sys.executable, "-m", "ssjf", *words], check=True, env=environment, capture_output=True)
    rows = (tmp_path / "out" / "jobs.csv").read_text().splitlines()[1:]
    starts = [float(row.split(",")[4]) for row in rows]
    assert starts == sorted(starts, reverse=True)
