"""The values that a training yields: one per step for progress bars, one per epoch for everything else."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True, kw_only=True)
class StepProgress:
    """The progress of an epoch. The device may still be computing the step."""

    epoch: int
    """From 1."""
    step: int
    """Steps of this epoch that were started, from 1."""
    steps: int
    """Steps in this epoch."""
    lr: float
    """Learning rate of this step."""


@dataclass(frozen=True, kw_only=True)
class EpochResult:
    """The result of one epoch. Losses are mean cross-entropies in nats, accuracies from 0 to 1, times in seconds."""

    epoch: int
    """From 1."""
    epochs: int
    """Epochs of the whole run."""
    train_loss: float
    train_accuracy: float
    """Over the epoch's augmented batches, while the weights changed."""
    skipped_steps: int = 0
    """Steps whose loss or gradient was not finite; `train_loss` leaves them out."""
    test_loss: float
    test_accuracy: float
    """On the split that `eval_split` names, without test-time augmentation."""
    tta_accuracy: float | None = None
    """The same with the run's test-time augmentation; None for a run without it, and before the last epoch."""
    eval_split: Literal["test", "validation"]
    """'validation' if the run holds out part of the training set (val_fraction); the test set is then not used."""
    lr_start: float
    lr_end: float
    """Learning rates of the epoch's first and last step."""
    train_seconds: float
    """This epoch's training, from the first byte read until the last step has finished on the device."""
    eval_seconds: float
    """The evaluation that gave `test_accuracy`."""
    tta_seconds: float | None = None
    """The evaluation that gave `tta_accuracy`."""
    images_per_second: float
    """Training images divided by `train_seconds`."""
    total_train_seconds: float
    """Training time of all epochs up to this one."""
    warmup_seconds: float
    """Compilation before the clock started, on synthetic batches; the same in the result of every epoch."""
    best_accuracy: float
    best_epoch: int
    """The highest `test_accuracy` so far, and its epoch: chosen on the images that it is measured on."""
    peak_memory_bytes: int
    """Largest resident memory of the process so far."""

    @property
    def final_accuracy(self) -> float:
        """The accuracy to quote: with the run's test-time augmentation if that was used."""
        return self.test_accuracy if self.tta_accuracy is None else self.tta_accuracy

    to_json = dataclasses.asdict
    """Return the fields by name, as plain JSON values."""
