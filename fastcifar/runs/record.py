"""What a run's folder says of the run, read for a page."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fastcifar.config import TrainConfig
from fastcifar.errors import CheckpointError
from fastcifar.runs.folder import read_config, read_metrics
from fastcifar.runs.results import EpochResult


@dataclass(frozen=True, kw_only=True)
class RunRecord:
    """A run without its weights."""

    path: Path
    config: TrainConfig
    environment: dict[str, Any]
    """Device, precision, versions, commit and data, as `runs.folder.describe_environment` gives them."""
    results: tuple[EpochResult, ...]
    """One an epoch that is done, at least one."""

    @property
    def name(self) -> str:
        """The folder's own name."""
        return self.path.resolve().name

    @property
    def last(self) -> EpochResult:
        """The last epoch that is done."""
        return self.results[-1]

    @property
    def goal(self) -> float:
        """The accuracy to mark: the run's target, or the exercise's 90 %."""
        return self.config.target_accuracy if self.config.target_accuracy is not None else 0.90

    def passes(self, result: EpochResult) -> float:
        """Passes over the training set up to an epoch's end; the last epoch may be a part of one."""
        return min(result.epoch, self.config.epochs)

    def first_at(self, accuracy: float) -> EpochResult | None:
        """The first epoch whose quoted accuracy is at least this."""
        return next((result for result in self.results if result.final_accuracy >= accuracy), None)


def read_record(run: Path) -> RunRecord:
    """Read a run's folder.

    Raises:
        CheckpointError: it is no run's folder, is damaged, or has no finished epoch.
    """
    config, lines = read_config(run), read_metrics(run)
    try:
        environment = json.loads((run / "environment.json").read_text())
        if not isinstance(environment, dict):
            raise TypeError("environment.json holds no object")
        results = tuple(EpochResult(**line) for line in lines)
    except (OSError, TypeError, ValueError) as error:
        raise CheckpointError(f"{run}: is no folder of a run, or of another version's ({error})") from error
    if not results:
        raise CheckpointError(f"{run}: has no finished epoch yet; go on with it by `fastcifar train --resume {run}`")
    return RunRecord(path=run, config=config, environment=environment, results=results)
