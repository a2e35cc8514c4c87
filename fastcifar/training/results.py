"""The values that a training hands out: one a step for progress, one an epoch for everything else."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any, Literal


@dataclass(frozen=True, kw_only=True)
class StepProgress:
    """How far an epoch is. The device may still be at work on the step."""

    epoch: int
    """From 1."""
    step: int
    """Steps of this epoch that were started, from 1."""
    steps: int
    """Steps in an epoch."""
    lr: float
    """Rate that this step used."""


@dataclass(frozen=True, kw_only=True)
class EpochResult:
    """What one epoch gave. Losses are mean cross-entropies in nats, accuracies from 0 to 1, times in seconds."""

    epoch: int
    """From 1."""
    epochs: int
    """Epochs of the whole run."""
    train_loss: float
    train_accuracy: float
    """Over the epoch's augmented batches, as the weights moved."""
    skipped_steps: int = 0
    """Of the epoch, whose loss or gradient was not finite; `train_loss` leaves them out."""
    test_loss: float
    test_accuracy: float
    """On the images that `held_out` names, each looked at once, as it is."""
    tta_accuracy: float | None = None
    """The same with the run's test-time augmentation; None where it has none, or before the last epoch."""
    held_out: Literal["test", "validation"]
    """'validation' if the run keeps a part of the training set aside (val_fraction); the test set is not used then."""
    lr_start: float
    lr_end: float
    """Rates of the epoch's first and last step."""
    train_seconds: float
    """This epoch's training, from its first byte read until its last step has finished on the device."""
    eval_seconds: float
    """Of the evaluation that gave `test_accuracy`."""
    tta_seconds: float | None = None
    """Of the one that gave `tta_accuracy`."""
    images_per_second: float
    """Training images by `train_seconds`."""
    total_train_seconds: float
    """Of all epochs up to this one."""
    warmup_seconds: float
    """Compilation before the clock started, on made-up data; the same in every epoch's result."""
    best_accuracy: float
    best_epoch: int
    """The highest `test_accuracy` so far, and where: chosen on the images it is measured on."""
    peak_memory_bytes: int
    """Largest resident memory of the process so far."""

    @property
    def quoted_accuracy(self) -> float:
        """The one that the run is judged by: with its test-time augmentation where that was used."""
        return self.test_accuracy if self.tta_accuracy is None else self.tta_accuracy

    def to_json(self) -> dict[str, Any]:
        """The fields by name, as plain JSON values."""
        return dataclasses.asdict(self)
