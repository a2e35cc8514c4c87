"""The record of a run, read from its folder for reports."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from fastcifar.config import TrainConfig
from fastcifar.errors import CheckpointError
from fastcifar.runs.read import Environment, read_config, read_environment, read_metrics
from fastcifar.runs.results import EpochResult


@dataclass(frozen=True, kw_only=True)
class RunRecord:
    """The configuration, the environment and the results of a run."""

    path: Path
    """The run folder."""
    config: TrainConfig
    environment: Environment
    results: tuple[EpochResult, ...]
    """One result per finished epoch, at least one unless the record was read with `allow_empty`."""

    @property
    def name(self) -> str:
        """The name of the run folder."""
        return self.path.resolve().name

    @property
    def last(self) -> EpochResult:
        """The result of the last finished epoch."""
        return self.results[-1]

    @property
    def target_accuracy(self) -> float:
        """The target accuracy, from 0 to 1: the run's `target_accuracy`, or the exercise's 90 % if that is None."""
        return self.config.target_accuracy if self.config.target_accuracy is not None else 0.90

    @property
    def is_finished(self) -> bool:
        """Whether nothing is left to train: all epochs are done, or an evaluation has met the target accuracy."""
        target = self.config.target_accuracy
        if not self.results:
            return False
        return self.last.epoch >= self.last.epochs or (target is not None and self.last.best_accuracy >= target)

    def passes(self, result: EpochResult) -> float:
        """Return the number of passes over the training set at an epoch's end; the last epoch may be partial."""
        return min(result.epoch, self.config.epochs)

    def first_at(self, accuracy: float) -> EpochResult | None:
        """Return the first result whose `final_accuracy` is at least `accuracy`; None if there is none."""
        return next((result for result in self.results if result.final_accuracy >= accuracy), None)


def find_runs(folders: Iterable[Path]) -> tuple[list[Path], list[CheckpointError]]:
    """Return the folders whose runs `read_record` can read, and the errors of the others."""
    runs, errors = [], []
    for folder in folders:
        try:
            runs.append(read_record(folder).path)
        except CheckpointError as error:
            errors.append(error)
    return runs, errors


def read_record(run: Path, *, allow_empty: bool = False) -> RunRecord:
    """Read a run folder, without its checkpoints.

    Raises:
        CheckpointError: it is not a run folder, is damaged or of another version, or has no finished epoch. With
            `allow_empty`, it may have none.
    """
    config, environment, results = read_config(run), read_environment(run), tuple(read_metrics(run))
    if not results and not allow_empty:
        raise CheckpointError(f"{run}: has no finished epoch yet; resume it with `fastcifar train --resume {run}`")
    return RunRecord(path=run, config=config, environment=environment, results=results)
