from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tests.robustness.shapes import ROOT, check_shape, written


@pytest.mark.slow
def test_a_fault_in_a_write_leaves_the_old_files_or_the_new(tmp_path: Path) -> None:
    out = tmp_path / "out.json"
    command = [sys.executable, "-m", "tests.robustness.faults", "--every", "29", "--out", str(out)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=580, check=False)
    assert done.returncode == 0, done.stderr
    results = written(out)
    check_shape(results, "faults")
    assert len(results["runs"]) == 6
    for run in results["runs"]:
        assert run["faults"] >= 1
        assert run.keys() <= {"part", "faults", "an error", "no error", "killed", "old", "new"}, run
        assert run.get("old", 0) + run.get("new", 0) == run["faults"]
        assert run.get("killed", 0) == (run["faults"] if run["part"].endswith("kills") else 0)
