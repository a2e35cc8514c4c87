"""How much of the package its tests reach, line by line and branch by branch.

    python -m benchmarks.coverage --out benchmarks/results/coverage-cpu.json

Runs all the tests under coverage.py, which pyproject.toml sets up. What only a GPU reaches is marked so in the code,
left out of the share, and counted apart.
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
from fastcifar import get_recipe
from fastcifar.data.manifest import open_beton
from fastcifar.runs.folder import describe_environment
from fastcifar.device import resolve_runtime

ROOT = Path(__file__).parent.parent
MARK = "# only on a GPU"


@dataclass(frozen=True, kw_only=True)
class Coverage:
    """Run the tests and count what they reach."""

    report: Path | None = None
    """The JSON report of tests that passed under coverage.py on this commit; without it, they are run."""
    out: Path = RESULTS / "coverage.json"
    """The JSON to write."""


def main(settings: Coverage) -> None:
    with tempfile.TemporaryDirectory() as name:
        measured = json.loads((settings.report or _run_tests(Path(name))).read_text())
        _, manifest = open_beton(write_test_betons(Path(name)))
    results: dict[str, Any] = {
        "benchmark": "coverage",
        **describe_environment(resolve_runtime(get_recipe("era", device="cpu")), manifest),
        "figures": {**derive(measured["totals"]), "gpu_statements": count_gpu_statements(ROOT / "fastcifar")},
        "runs": [{"file": file, **derive(values["summary"])} for file, values in measured["files"].items()],
    }
    for run in results["runs"]:
        print(f"{run['share']:7.1%}  {run['file']}  {measured['files'][run['file']]['missing_lines'] or ''}")
    print(results["figures"])
    write_results(settings.out, results)


def _run_tests(folder: Path) -> Path:
    """coverage.py's report of all the tests."""
    report = folder / "coverage.json"
    command = [sys.executable, "-m", "pytest", "-q", "--cov", f"--cov-report=json:{report}"]
    if subprocess.run(command, cwd=ROOT, check=False).returncode:
        sys.exit("the tests failed: what they reach is not written down")
    return report


def derive(summary: dict[str, Any]) -> dict[str, Any]:
    """Statements and branches, how many of them were reached, and the share of both together."""
    counts = {name: summary[name] for name in ("num_statements", "covered_lines", "num_branches", "covered_branches")}
    reached, all_of_them = (
        counts["covered_lines"] + counts["covered_branches"],
        counts["num_statements"] + counts["num_branches"],
    )
    return {**counts, "share": reached / all_of_them if all_of_them else 1.0}


def count_gpu_statements(package: Path) -> int:
    """Statements in the blocks that are marked as reached only on a GPU."""
    lines = set()
    for path in package.rglob("*.py"):
        text = path.read_text()
        for node in ast.walk(ast.parse(text)):
            if isinstance(node, ast.stmt) and MARK in text.splitlines()[node.lineno - 1]:
                lines |= {(path, inner.lineno) for inner in ast.walk(node) if isinstance(inner, ast.stmt)}
    return len(lines)


if __name__ == "__main__":
    run_command(main, Coverage, __doc__)
