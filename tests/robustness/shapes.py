"""The shape of a result file, compared with that of the committed one."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]
OPTIONAL = {"note"}
"""Fields that a person adds to a result file."""
OUTCOMES = {"old", "new", "an error", "no error", "killed", "loaded", "refused", "before the first checkpoint"}
OUTCOMES |= {"resumed from last", "resumed from previous"}
OUTCOMES |= {f"{way} manifest: {end}" for way in ("with", "without") for end in ("refused", "passed", "unchanged")}
"""Counts that a run has only if they are not 0."""


def written(out: Path) -> dict[str, Any]:
    """Return the JSON that a program wrote."""
    results: dict[str, Any] = json.loads(out.read_text())
    return results


def check_shape(results: dict[str, Any], name: str) -> None:
    """Check that results have the fields of the committed ones, of the same types, and the same parts."""
    committed = json.loads((ROOT / "benchmarks" / "results" / f"{name}-cpu.json").read_text())
    assert results.keys() == committed.keys() - OPTIONAL
    assert results["benchmark"] == committed["benchmark"]
    for field in ("versions", "data", "settings", "figures"):
        assert results.get(field, {}).keys() == committed.get(field, {}).keys(), field
    for run, other in zip(results["runs"], committed["runs"], strict=name != "soak"):
        assert run.get("part") == other.get("part")
        assert run.keys() ^ other.keys() <= OUTCOMES, run
        assert {key: type(value) for key, value in run.items() if key in other} == {
            key: type(value) for key, value in other.items() if key in run
        }
