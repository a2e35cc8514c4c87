"""Run folders as one result file.

    fastcifar train --recipe era --amp --run-dir runs/era
    python -m benchmarks.record runs/era --benchmark era --out benchmarks/results/era-cpu.json

All values come from the folders: settings, environment, and one entry per epoch. The accuracy is the last epoch's; the
best one is recorded beside it. Times are those that the runs measured.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import tyro

from benchmarks.common import describe_run, run_command, write_results
from fastcifar.errors import CheckpointError
from fastcifar.runs.folder import read_config, read_metrics


@dataclass(frozen=True, kw_only=True)
class Record:
    """Collect runs into a result file."""

    runs: Annotated[tuple[Path, ...], tyro.conf.Positional]
    """Folders of finished runs on one machine, with one commit and the same data."""
    benchmark: str
    """Name of the benchmark."""
    out: Path
    """The JSON to write."""
    note: str = ""
    """Circumstances that a reader has to know, such as other work on the machine."""


def main(settings: Record) -> None:
    environments = [_environment(run) for run in settings.runs]
    if any(environment != environments[0] for environment in environments):
        raise CheckpointError("the runs differ in machine, versions, commit or data; record each in its own file")
    note = {"note": settings.note} if settings.note else {}
    runs = [describe(run) for run in settings.runs]
    write_results(settings.out, {"benchmark": settings.benchmark, **environments[0], **note, "runs": runs})


def _environment(run: Path) -> dict[str, Any]:
    try:
        values = json.loads((run / "environment.json").read_text())
        return {key: values[key] for key in ("device", "precision", "versions", "commit", "data")}
    except (OSError, ValueError, KeyError) as error:
        raise CheckpointError(f"{run}: is not a run folder ({error})") from error


def describe(run: Path) -> dict[str, Any]:
    """One run's entry in a result file."""
    config, history = read_config(run), [result.to_json() for result in read_metrics(run)]
    if not history:
        raise CheckpointError(f"{run}: has no finished epoch")
    return describe_run(config, history)


if __name__ == "__main__":
    run_command(main, Record, __doc__)
