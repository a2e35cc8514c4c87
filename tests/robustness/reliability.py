"""Damaged and hostile files, and killed processes: a robustness test of the code that reads and writes files.

    python -m tests.robustness.reliability --out benchmarks/results/reliability-cpu.json

Runs the parts of mutations.py, hostile_files.py and kills.py, and counts their outcomes. Nothing may crash, hang, run
code, write outside of its folder, train on other images than those that the manifest names, or lose an epoch that was
reported.
"""

from __future__ import annotations

import tempfile
from dataclasses import dataclass
from pathlib import Path

from tests.helpers import write_pair
from tests.robustness.hostile_files import open_hostile
from tests.robustness.kills import kill_trainings, kill_writers
from tests.robustness.mutations import check_mutants, load_mutants
from tests.robustness.results import describe_results, run_command, write_results


@dataclass(frozen=True, kw_only=True)
class Reliability:
    """Read damaged and hostile .betons, checkpoints and archives, and kill processes that write."""

    mutants: int = 10_000
    """Damaged .betons."""
    loaded: int = 200
    """Number of mutants to load that the checker passes without the manifest."""
    hostile: int = 1_000
    """Hostile checkpoints and archives."""
    kills: int = 100
    """Processes that are killed while they write .betons or train."""
    seed: int = 0
    """Seed of the damage and of the moments of the kills."""
    out: Path = Path("reliability.json")
    """The JSON to write."""


def main(settings: Reliability) -> None:
    """Run all parts, and write the counts of their outcomes."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        beton = write_pair(folder, train=60, test=10) / "train.beton"
        checked, passed = check_mutants(beton, settings.mutants, settings.seed)
        parts = {
            "mutants through the checker": checked,
            "mutants through the loader": load_mutants(beton, passed[: settings.loaded]),
            "hostile checkpoints and archives": open_hostile(folder / "hostile", settings.hostile, settings.seed),
            "killed while writing .betons": kill_writers(folder / "written", settings.kills // 2, settings.seed),
            "killed while training": kill_trainings(
                folder / "trained", settings.kills - settings.kills // 2, settings.seed
            ),
        }
        results = describe_results(settings, beton, [{"part": part, **counts} for part, counts in parts.items()])
    for run in results["runs"]:
        print(run)
    write_results(settings.out, results)


if __name__ == "__main__":
    run_command(main, Reliability, __doc__)
