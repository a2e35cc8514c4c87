"""The folder of a configuration's runs from many seeds: a run folder per seed, and seeds.json with all accuracies."""

from __future__ import annotations

import dataclasses
import math
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from fastcifar.checks import AT_LEAST_1, POSITIVE, check
from fastcifar.config import SETTINGS, TrainConfig
from fastcifar.errors import CheckpointError
from fastcifar.files import lock_folder, write_json
from fastcifar.intervals import MeanInterval, mean_interval
from fastcifar.migrations import migrate_config
from fastcifar.runs.json_files import check_types, read_json
from fastcifar.runs.read import read_metrics
from fastcifar.runs.results import EpochResult

FILE = "seeds.json"
MAY_DIFFER = {"run_dir", "data_dir", "verify", "loader", "workers", "cache_on_device", "checkpoint_every"}
"""Settings that may differ when more seeds are trained: they do not change any number."""
MIN_RUNS = 5
"""Runs before `until` can end the training: fewer can agree by chance."""


@dataclass(frozen=True, kw_only=True)
class SeedOptions:
    """How many runs to train."""

    runs: int
    """Runs, from the configuration's seed and the ones after it."""
    until: float | None = None
    """Stop earlier, when half the width of the mean's confidence interval is at most this many points (percent)."""
    keep_checkpoints: Literal["none", "last"] = "none"
    """Checkpoints that a finished run keeps."""

    def __post_init__(self) -> None:
        check(self, runs=AT_LEAST_1, until=POSITIVE)

    def runs_needed(self, interval: MeanInterval | None) -> int:
        """Return the number of runs, estimated from the spread of those that `interval` describes."""
        if self.until is None or interval is None or interval.half_width is None:
            return self.runs
        needed = math.ceil(interval.count * (100 * interval.half_width / self.until) ** 2)
        return min(self.runs, max(needed, MIN_RUNS))

    def enough(self, interval: MeanInterval | None) -> bool:
        """Return whether all runs are done, or the mean of those that `interval` describes is precise enough."""
        if interval is None or interval.half_width is None or self.until is None:
            return interval is not None and interval.count >= self.runs
        precise = interval.count >= MIN_RUNS and 100 * interval.half_width <= self.until
        return precise or interval.count >= self.runs


@dataclass(frozen=True, kw_only=True)
class SeedRun:
    """The result of the run from one seed: its last epoch. Accuracies are from 0 to 1, times in seconds."""

    seed: int
    folder: str
    accuracy: float
    """The accuracy to quote: with the run's test-time augmentation if that was used."""
    test_accuracy: float
    """Without test-time augmentation."""
    test_loss: float
    epoch: int
    train_seconds: float
    eval_seconds: float
    """The evaluation that gave `accuracy`."""


class SeedsFolder:
    """The runs of one configuration from many seeds, each in its own run folder."""

    def __init__(self, path: Path, config: TrainConfig, content_sha256: str) -> None:
        """`content_sha256` is that of the training set's manifest."""
        self.path, self.config, self._content_sha256 = path, config, content_sha256

    @contextmanager
    def open(self) -> Iterator[None]:
        """Create the folder, or continue in it, and keep other processes out of it during the block.

        Raises:
            CheckpointError: the folder holds runs with other settings or data, or something else, or another process
                trains in it.
        """
        self.path.mkdir(parents=True, exist_ok=True)
        held = CheckpointError(f"{self.path}: another process trains in this folder; wait, or choose another one")
        with lock_folder(self.path, held):
            if (self.path / FILE).exists():
                self._require_same_runs()
            elif any(self.path.glob("[!.]*")):
                raise CheckpointError(f"{self.path}: is not empty; choose another --run-dir")
            yield

    def run_dir(self, seed: int) -> Path:
        """Return the run folder of a seed."""
        return self.path / f"seed-{seed:04d}"

    def finished(self, seed: int) -> SeedRun | None:
        """Return the result of the run from a seed; None if it is not finished.

        Raises:
            CheckpointError: its metrics are damaged.
        """
        run = self.run_dir(seed)
        if not (run / "metrics.jsonl").exists():
            return None
        results = read_metrics(run)
        return self._describe(seed, results[-1]) if results and is_last(results[-1], self.config) else None

    def discard(self, seed: int) -> None:
        """Remove the folder of a run that cannot go on: it was killed, and has no checkpoint to resume from."""
        shutil.rmtree(self.run_dir(seed), ignore_errors=True)

    def write(self, runs: Sequence[SeedRun], options: SeedOptions) -> MeanInterval | None:
        """Write seeds.json: the settings, the options, the runs and their mean accuracy, which is returned."""
        interval = mean_interval([run.accuracy for run in runs]) if runs else None
        values = {
            "config": self.config.to_json(),
            "content_sha256": self._content_sha256,
            "options": dataclasses.asdict(options),
            "accuracy": None if interval is None else dataclasses.asdict(interval),
            "runs": [dataclasses.asdict(run) for run in runs],
        }
        write_json(self.path / FILE, values, only_writer=True)
        return interval

    def _describe(self, seed: int, last: EpochResult) -> SeedRun:
        return SeedRun(
            seed=seed,
            folder=self.run_dir(seed).name,
            accuracy=last.final_accuracy,
            test_accuracy=last.test_accuracy,
            test_loss=last.test_loss,
            epoch=last.epoch,
            train_seconds=last.total_train_seconds,
            eval_seconds=last.eval_seconds if last.tta_seconds is None else last.tta_seconds,
        )

    def _require_same_runs(self) -> None:
        before = read_seeds(self.path)
        other = f"; continue them with `fastcifar seeds --resume {self.path}`, or choose another --run-dir"
        if before.content_sha256 != self._content_sha256:
            raise CheckpointError(f"{self.path}: its runs have other data than {self.config.data.data_dir}{other}")
        old, new = before.config.to_json(), self.config.to_json()
        for name in [name for name in SETTINGS if name not in MAY_DIFFER and old[name] != new[name]]:
            flag = f"--{name.replace('_', '-')}"
            raise CheckpointError(f"{self.path}: its runs have {old[name]} for {flag}, not {new[name]}{other}")


def is_last(result: EpochResult, config: TrainConfig) -> bool:
    """Return whether an epoch was the last of its run: all epochs are done, or the target accuracy is met."""
    target = config.target_accuracy
    return result.epoch >= result.epochs or (target is not None and result.best_accuracy >= target)


@dataclass(frozen=True, kw_only=True)
class SeedsRecord:
    """The content of seeds.json."""

    config: TrainConfig
    content_sha256: str
    options: SeedOptions
    runs: tuple[SeedRun, ...]


def read_seeds(folder: Path) -> SeedsRecord:
    """Read seeds.json in the folder of many runs.

    Raises:
        CheckpointError: the folder has no seeds.json, or that is damaged.
    """

    def convert(values: dict[str, Any]) -> SeedsRecord:
        return SeedsRecord(
            config=TrainConfig.from_json(migrate_config(values["config"])),
            content_sha256=str(values["content_sha256"]),
            options=check_types(values["options"], SeedOptions),
            runs=tuple(check_types(run, SeedRun) for run in values["runs"]),
        )

    return read_json(folder, FILE, convert, "a folder of `fastcifar seeds`")
