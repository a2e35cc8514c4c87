from __future__ import annotations

import json
from pathlib import Path

from benchmarks import coverage
from tests.benchmarks.helpers import read_checked


def test_lines_branches_and_gpu_statements_are_counted(tmp_path: Path) -> None:
    counts = {"num_statements": 8, "covered_lines": 7, "num_branches": 2, "covered_branches": 1, "missing_lines": 1}
    assert coverage.count_reached(counts)["fraction"] == 0.8
    code = f"def f():  {coverage.MARK}\n    if x:\n        return 1\n    return 2\n\n\ndef g():\n    return 3\n"
    (tmp_path / "a.py").write_text(code)
    assert coverage.count_gpu_statements(tmp_path) == 4

    report, out = tmp_path / "report.json", tmp_path / "out.json"
    report.write_text(json.dumps({"totals": counts, "files": {"a.py": {"summary": counts, "missing_lines": [3]}}}))
    coverage.main(coverage.Coverage(report=report, out=out))
    results = read_checked(out)
    assert results["figures"]["fraction"] == results["runs"][0]["fraction"] == 0.8
    assert results["figures"]["gpu_statements"] > 10
