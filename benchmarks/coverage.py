"""Test coverage of the package, by line and branch.

    python -m benchmarks.coverage --out benchmarks/results/coverage-cpu.json

Runs all tests under coverage.py, which pyproject.toml configures. Code that only a GPU reaches is marked in the source,
not included in the fraction, and counted separately.
"""

from __future__ import annotations

import ast
import json
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.common import RESULTS, run_command, write_results
from benchmarks.reliability import write_test_betons
from fastcifar.data.manifest import open_beton
from fastcifar.device import resolve_runtime
from fastcifar.runs.folder import describe_environment
from fastcifar.settings import RuntimeSettings

ROOT = Path(__file__).parent.parent
MARK = "# only on a GPU"


@dataclass(frozen=True, kw_only=True)
class Coverage:
    """Run the tests and count the lines and branches that they reach."""

    report: Path | None = None
    """coverage.py's JSON report of passed tests on this commit; the tests are run if not given."""
    out: Path = RESULTS / "coverage.json"
    """The JSON to write."""


def main(settings: Coverage) -> None:
    with tempfile.TemporaryDirectory() as name:
        measured = json.loads((settings.report or _run_tests(Path(name))).read_text())
        _, manifest = open_beton(write_test_betons(Path(name)))
    results: dict[str, Any] = {
        "benchmark": "coverage",
        **describe_environment(resolve_runtime(RuntimeSettings(device="cpu")), manifest),
        "figures": {**count_reached(measured["totals"]), "gpu_statements": count_gpu_statements(ROOT / "fastcifar")},
        "runs": [{"file": file, **count_reached(values["summary"])} for file, values in measured["files"].items()],
    }
    for run in results["runs"]:
        print(f"{run['fraction']:7.1%}  {run['file']}  {measured['files'][run['file']]['missing_lines'] or ''}")
    print(results["figures"])
    write_results(settings.out, results)


def _run_tests(folder: Path) -> Path:
    """Run all tests, and return the path of coverage.py's report."""
    report = folder / "coverage.json"
    command = [sys.executable, "-m", "pytest", "-q", "--cov", f"--cov-report=json:{report}"]
    if subprocess.run(command, cwd=ROOT, check=False).returncode:
        sys.exit("the tests failed; no coverage was recorded")
    return report


def count_reached(summary: dict[str, Any]) -> dict[str, Any]:
    """The numbers of statements and branches, those that were reached, and the fraction of both together."""
    counts = {name: summary[name] for name in ("num_statements", "covered_lines", "num_branches", "covered_branches")}
    reached = counts["covered_lines"] + counts["covered_branches"]
    total = counts["num_statements"] + counts["num_branches"]
    return {**counts, "fraction": reached / total if total else 1.0}


def count_gpu_statements(package: Path) -> int:
    """The number of statements in blocks that are marked as reached only on a GPU."""
    lines = set()
    for path in package.rglob("*.py"):
        text = path.read_text()
        for node in ast.walk(ast.parse(text)):
            if isinstance(node, ast.stmt) and MARK in text.splitlines()[node.lineno - 1]:
                lines |= {(path, inner.lineno) for inner in ast.walk(node) if isinstance(inner, ast.stmt)}
    return len(lines)


if __name__ == "__main__":
    run_command(main, Coverage, __doc__)
