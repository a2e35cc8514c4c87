"""The result of a learning-rate range test, and the learning rates that it suggests."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from fastcifar.config import MIN_POINTS, LrFinderSettings, TrainConfig
from fastcifar.errors import TrainingError

START_OF_DESCENT = 0.05
"""The descent of the loss starts where this fraction of the way from the first losses to the lowest is done."""
MIN_DESCENT = 0.01
"""The smallest relative decrease of the loss that counts as a descent; noise decreases it by less."""

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True, kw_only=True)
class LrCurve:
    """The loss at each learning rate of a range test, one entry per step, all finite."""

    settings: LrFinderSettings
    lrs: tuple[float, ...]
    losses: tuple[float, ...]
    """Smoothed, in nats."""
    raw: tuple[float, ...]
    """The loss of each batch, not smoothed, in nats."""
    diverged_at: float | None
    """Learning rate at which the loss diverged or was no longer finite; None if neither happened."""

    to_json = dataclasses.asdict
    """Return the fields by name, as plain JSON values."""


@dataclass(frozen=True, kw_only=True)
class Suggestion:
    """Learning rates for a one-cycle schedule.

    LRMAX is a tenth of the learning rate with the lowest loss. We do not use the steepest slope, which is only shown
    beside it: the initial logits of `custom_resnet` are far too large, so the steepest drop of the loss only shrinks
    them; it happens at learning rates far too low for learning.
    """

    minimum_tenth: float
    """LRMAX: a tenth of the learning rate with the lowest loss."""
    steepest: float
    """Shown beside LRMAX: where the loss decreases fastest per log(learning rate), after the start of the descent."""
    valley: float
    """Shown beside LRMAX: the middle of the longest descent of the curve."""
    descent_start: float
    """The last learning rate before the loss has decreased by 5 % of the way from its first values to its lowest."""

    @property
    def max_lr(self) -> float:
        """LRMAX."""
        return self.minimum_tenth

    @property
    def min_lr(self) -> float:
        """LRMIN: where the loss starts to decrease, but at most LRMAX."""
        return min(self.descent_start, self.max_lr)

    @property
    def max_lr_tenth(self) -> float:
        """Shown beside LRMIN: LRMAX / 10."""
        return self.max_lr / 10

    def to_json(self) -> dict[str, float]:
        """Return the suggestions by name; a training uses max_lr and min_lr."""
        return {
            "max_lr": self.max_lr, "min_lr": self.min_lr, **dataclasses.asdict(self), "max_lr_tenth": self.max_lr_tenth
        }  # fmt: skip


def tested_lrs(config: TrainConfig, max_lr: float) -> dict[str, float]:
    """Return the settings, by name, with which a training uses `max_lr` as the range test of `config` tested it.

    The test gives Muon's parameter groups learning rates in the ratios of `config`, so bias_lr and head_lr change in
    proportion to max_lr.
    """
    optim = config.optim
    if optim.optimizer != "muon":
        return {"max_lr": max_lr}
    factor = max_lr / optim.max_lr
    return {"max_lr": max_lr, "bias_lr": optim.bias_lr * factor, "head_lr": optim.head_lr * factor}


def suggest(curve: LrCurve) -> Suggestion:
    """Choose learning rates from the curve of a range test.

    Sources: Smith, *Cyclical Learning Rates for Training Neural Networks*, 2017 (the range test: the bounds are where
    the loss starts to decrease and where it is about to stop); fastai's `lr_find` (steep, valley, minimum / 10).

    Raises:
        TrainingError: the loss diverged at once, or never decreased.
    """
    lrs, losses = np.array(curve.lrs), np.array(curve.losses)
    if len(losses) < MIN_POINTS:
        raise _no_usable_lr(curve)
    lowest = int(losses.argmin())
    first = float(np.median(losses[: max(1, len(losses) // 10)]))
    if lowest == 0 or first - losses[lowest] < MIN_DESCENT * first:
        raise _no_usable_lr(curve)
    threshold = first - START_OF_DESCENT * (first - losses[lowest])
    start = int(np.flatnonzero(losses[:lowest] >= threshold)[-1])
    return Suggestion(
        steepest=float(lrs[_steepest(lrs, losses, start, lowest)]),
        valley=float(lrs[_valley(losses)]),
        minimum_tenth=float(lrs[lowest]) / 10,
        descent_start=float(lrs[start]),
    )


def _steepest(lrs: Floats, losses: Floats, start: int, stop: int) -> int:
    """Return the position, after `start` and up to `stop`, of the steepest decrease of the loss per log(lr)."""
    slopes = np.gradient(losses[: stop + 1], np.log(lrs[: stop + 1]))
    return start + 1 + int(slopes[start + 1 :].argmin())


def _valley(losses: Floats) -> int:
    """Return the middle of the longest decreasing subsequence, counted back from its end as in fastai."""
    lengths = np.ones(len(losses), dtype=np.int64)
    for i in range(1, len(losses)):
        lengths[i] += np.max(lengths[:i], where=losses[:i] > losses[i], initial=0)
    end = int(lengths.argmax())
    return end - int(lengths[end]) // 2


def _no_usable_lr(curve: LrCurve) -> TrainingError:
    start = f"--start-lr {curve.settings.start_lr:g}"
    if curve.diverged_at is None:
        return TrainingError(
            f"the range test found no learning rate: the loss never decreased between {start} and "
            f"--end-lr {curve.settings.end_lr:g}; use a lower --start-lr, a higher --end-lr or more --iterations"
        )
    if np.argmin([*curve.losses, np.inf]) < MIN_POINTS:
        return TrainingError(
            f"the range test diverged at once: the loss did not decrease from {start} on, and diverged at learning "
            f"rate {curve.diverged_at:.3g}; use a lower --start-lr"
        )
    return TrainingError(
        f"the range test found no learning rate: the loss never decreased from {start} on until it diverged at "
        f"learning rate {curve.diverged_at:.3g}; use more --iterations"
    )
