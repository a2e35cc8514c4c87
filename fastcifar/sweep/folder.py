"""The folder of a sweep: sweep.json with its plan and configurations, and a run folder per trial in trials/."""

from __future__ import annotations

import importlib.metadata
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from fastcifar.errors import CheckpointError
from fastcifar.files import lock_folder, write_json
from fastcifar.runs.json_files import read_json
from fastcifar.runs.read import read_config, read_metrics
from fastcifar.runs.results import EpochResult
from fastcifar.runs.seeds import is_last
from fastcifar.sweep.plan import SweepPlan, Trial, Values
from fastcifar.version import __version__

FILE = "sweep.json"
OUTCOME = "trial.json"
"""The file in a trial's run folder that says why it ended before its last epoch."""
PACKAGES = ("ray", "optuna", "torch")

Outcome = Literal["finished", "stopped", "failed", "unfinished"]
"""'stopped' for a run that the sweep stopped early, since others were better."""


@dataclass(frozen=True, kw_only=True)
class TrialResult:
    """How far a run of a sweep has come, as its run folder says."""

    trial: Trial
    outcome: Outcome
    last: EpochResult | None
    """The result of the last finished epoch."""
    error: str | None = None

    @property
    def accuracy(self) -> float | None:
        """The accuracy to quote, from 0 to 1, of the last finished epoch."""
        return None if self.last is None else self.last.final_accuracy


class SweepFolder:
    """A folder with a sweep's plan, its configurations and its runs."""

    def __init__(self, path: Path, plan: SweepPlan, configurations: Sequence[Values] = ()) -> None:
        self.path, self.plan, self.configurations = path, plan, list(configurations)

    @contextmanager
    def open(self, *, is_new: bool) -> Iterator[None]:
        """Create the folder, or continue in it, and keep other processes out of it during the block.

        Raises:
            CheckpointError: a new sweep is to use a folder that is not empty, or another process runs a sweep in it.
        """
        self.path.mkdir(parents=True, exist_ok=True)
        held = CheckpointError(f"{self.path}: another process runs a sweep in this folder; wait, or choose another one")
        with lock_folder(self.path, held):
            if is_new and (self.path / FILE).exists():
                raise CheckpointError(
                    f"{self.path}: already has a sweep; continue it with `fastcifar sweep --resume {self.path}`, or "
                    "choose another --run-dir"
                )
            if is_new and any(self.path.glob("[!.]*")):
                raise CheckpointError(f"{self.path}: is not empty; choose another --run-dir")
            self.write()
            yield

    def write(self) -> None:
        """Write sweep.json."""
        values = {"versions": _versions(), **self.plan.to_json(), "configurations": self.configurations}
        write_json(self.path / FILE, values, only_writer=True)

    def add(self, values: Values) -> int:
        """Add a configuration to sweep.json, and return its number."""
        self.configurations.append(values)
        self.write()
        return len(self.configurations) - 1

    @property
    def trials(self) -> list[Trial]:
        """The runs of all configurations so far."""
        return [trial for number in range(len(self.configurations)) for trial in self.plan.trials_of(number)]

    def run_dir(self, trial: Trial) -> Path:
        """Return the run folder of a trial."""
        return self.path.absolute() / "trials" / trial.name

    def result(self, trial: Trial) -> TrialResult:
        """Read how far a trial has come.

        Raises:
            CheckpointError: its files are damaged.
        """
        run_dir = self.run_dir(trial)
        results = read_results(run_dir)
        outcome, error = _read_end(run_dir, results)
        return TrialResult(trial=trial, outcome=outcome, last=results[-1] if results else None, error=error)


def read_results(run_dir: Path) -> list[EpochResult]:
    """Read the results of a run's epochs; none if it has not begun. Raises as `SweepFolder.result` does."""
    return read_metrics(run_dir) if (run_dir / "metrics.jsonl").exists() else []


def read_outcome(run_dir: Path) -> Outcome:
    """Read how the run in a folder has ended. Raises as `SweepFolder.result` does."""
    return _read_end(run_dir, read_results(run_dir))[0]


def _read_end(run_dir: Path, results: Sequence[EpochResult]) -> tuple[Outcome, str | None]:
    """Return how a run has ended, and its error."""
    if results and is_last(results[-1], read_config(run_dir)):
        return "finished", None
    if not (run_dir / OUTCOME).exists():
        return "unfinished", None
    values = read_json(run_dir, OUTCOME, dict)
    return "failed" if values.get("outcome") == "failed" else "stopped", values.get("error")


def write_outcome(run_dir: Path, outcome: Outcome, error: str | None = None) -> None:
    """Write why a trial ended before its last epoch."""
    run_dir.mkdir(parents=True, exist_ok=True)
    write_json(run_dir / OUTCOME, {"outcome": outcome, "error": error})


def read_sweep(path: Path) -> SweepFolder:
    """Read the sweep in a folder.

    Raises:
        CheckpointError: the folder has no sweep.json, or that is damaged.
    """

    def convert(values: dict[str, Any]) -> SweepFolder:
        configurations = values["configurations"]
        if not all(isinstance(each, dict) and each["recipe"] in values["recipes"] for each in configurations):
            raise ValueError("a configuration is not one of its recipes")
        return SweepFolder(path, SweepPlan.from_json(values), configurations)

    return read_json(path, FILE, convert, "a folder of `fastcifar sweep`")


def _versions() -> dict[str, Any]:
    """Return the versions of the packages that a sweep depends on; None for one that is not installed."""
    versions: dict[str, Any] = {"fastcifar": __version__}
    for name in PACKAGES:
        try:
            versions[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            versions[name] = None
    return versions
