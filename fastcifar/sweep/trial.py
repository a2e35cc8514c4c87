"""Train one run of a sweep in its folder, or the rest of it."""

from __future__ import annotations

import shutil
import time
from collections.abc import Generator, Iterator
from pathlib import Path

from fastcifar.config import TrainConfig
from fastcifar.device import apply_process_settings
from fastcifar.errors import CheckpointError, ConfigError, TrainingError
from fastcifar.files import is_locked
from fastcifar.runs.checkpoint import has_checkpoint
from fastcifar.runs.folder import RunFolder
from fastcifar.runs.results import EpochResult
from fastcifar.sweep.folder import read_outcome, read_results, write_outcome
from fastcifar.training.loop import fit_epochs
from fastcifar.training.resume import restore
from fastcifar.training.state import create_state

WAIT_SECONDS = 60.0
"""Longest wait for the process that trained in the folder before, which Ray ends when its driver was killed."""


def train_trial(config: TrainConfig, keep_checkpoints: str) -> Generator[EpochResult]:
    """Yield the result of each epoch: those that the run folder has already, and then those that are left to train.

    A run whose settings are wrong or whose loss is not finite is marked as failed in its folder. Of a run that was
    stopped early, nothing is left to train.

    Raises:
        ConfigError, TrainingError: the run failed.
        FastCifarError: something else is wrong, as one of its other subclasses; the run can be tried again.
    """
    run_dir = config.run_dir
    assert run_dir is not None
    _wait_for_lock(run_dir)
    if read_outcome(run_dir) != "unfinished":
        yield from read_results(run_dir)
        return
    try:
        yield from _train(config, run_dir)
    except (ConfigError, TrainingError) as error:
        write_outcome(run_dir, "failed", str(error))
        raise
    RunFolder(run_dir).keep_checkpoints([keep_checkpoints])


def _train(config: TrainConfig, run_dir: Path) -> Iterator[EpochResult]:
    apply_process_settings(config.runtime)
    with create_state(config) as state:
        if has_checkpoint(run_dir):
            restore(run_dir, state)
        if not state.is_finished:
            yield from read_results(run_dir)[: state.epochs_done]
            yield from fit_epochs(state)
            return
    shutil.rmtree(run_dir)  # it was killed between its last checkpoint and its last result: train it again
    yield from _train(config, run_dir)


def _wait_for_lock(run_dir: Path) -> None:
    end = time.monotonic() + WAIT_SECONDS
    while is_locked(run_dir):
        if time.monotonic() > end:
            raise CheckpointError(f"{run_dir}: another process trains in this folder")
        time.sleep(0.2)
