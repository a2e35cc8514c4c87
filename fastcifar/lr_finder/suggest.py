"""What a range test gave, and the rates that it suggests."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from fastcifar.config import MIN_POINTS, LrFinderSettings
from fastcifar.errors import TrainingError

START_OF_DESCENT = 0.05
"""Share of the way from the first losses to the lowest after which the loss has load_for_resume to fall."""
LEAST_FALL = 0.01
"""Share of its first losses by which a loss must fall to have fallen at all; noise does less."""

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True, kw_only=True)
class LrCurve:
    """Loss by rate, one entry a step, all finite."""

    settings: LrFinderSettings
    lrs: tuple[float, ...]
    losses: tuple[float, ...]
    """Smoothed, in nats."""
    raw: tuple[float, ...]
    """As each batch gave it, in nats."""
    diverged_at: float | None
    """Rate at which the loss diverged or was no longer finite; None if the test went to its end."""

    def to_json(self) -> dict[str, Any]:
        """The fields by name, as plain JSON values."""
        return dataclasses.asdict(self)


@dataclass(frozen=True, kw_only=True)
class Suggestion:
    """Rates for a one-cycle schedule.

    LRMAX is a tenth of the rate with the lowest loss. The steepest slope, which many take, is shown beside it: a
    network whose first logits are far too large, as `custom_resnet`'s are, loses most of its loss by shrinking them, at
    rates far below those at which it learns.
    """

    minimum_tenth: float
    """LRMAX: a tenth of the rate with the lowest loss."""
    steepest: float
    """Beside it: where the loss falls fastest by the rate's logarithm, after its fall has load_for_resume."""
    valley: float
    """Beside it: the middle of the curve's longest descent."""
    fall: float
    """The last rate before the loss has fallen by 5 % of the way from its first values to its lowest."""

    @property
    def max_lr(self) -> float:
        return self.minimum_tenth

    @property
    def min_lr(self) -> float:
        """LRMIN: where the loss begins to fall, and not above LRMAX."""
        return min(self.fall, self.max_lr)

    @property
    def max_lr_tenth(self) -> float:
        """Beside LRMIN: LRMAX / 10."""
        return self.max_lr / 10

    def to_json(self) -> dict[str, float]:
        """The suggestions by name; max_lr and min_lr are those that a training takes."""
        return {
            "max_lr": self.max_lr, "min_lr": self.min_lr, **dataclasses.asdict(self), "max_lr_tenth": self.max_lr_tenth
        }  # fmt: skip


def suggest(curve: LrCurve) -> Suggestion:
    """Read the rates off a curve.

    Sources: Smith, *Cyclical Learning Rates for Training Neural Networks*, 2017 (the range test: the bounds are where
    the loss begins to fall and where it is about to stop); fastai's `lr_find` (steep, valley, minimum / 10).

    Raises:
        TrainingError: the loss diverged at once, or never fell.
    """
    lrs, losses = np.array(curve.lrs), np.array(curve.losses)
    if len(losses) < MIN_POINTS:
        raise _no_usable_lr(curve)
    lowest = int(losses.argmin())
    first = float(np.median(losses[: max(1, len(losses) // 10)]))
    if lowest == 0 or first - losses[lowest] < LEAST_FALL * first:
        raise _no_usable_lr(curve)
    high = first - START_OF_DESCENT * (first - losses[lowest])
    fall = int(np.flatnonzero(losses[:lowest] >= high)[-1])
    return Suggestion(
        steepest=float(lrs[_steepest(lrs, losses, fall, lowest)]),
        valley=float(lrs[_valley(losses)]),
        minimum_tenth=float(lrs[lowest]) / 10,
        fall=float(lrs[fall]),
    )


def _steepest(lrs: Floats, losses: Floats, start: int, stop: int) -> int:
    """The position after `start`, up to `stop`, of the most negative slope of the loss by the rate's logarithm."""
    slopes = np.gradient(losses[: stop + 1], np.log(lrs[: stop + 1]))
    return start + 1 + int(slopes[start + 1 :].argmin())


def _valley(losses: Floats) -> int:
    """The middle of the longest decreasing subsequence, counted back from its end as fastai counts it."""
    lengths = np.ones(len(losses), dtype=np.int64)
    for i in range(1, len(losses)):
        lengths[i] += np.max(lengths[:i], where=losses[:i] > losses[i], initial=0)
    end = int(lengths.argmax())
    return end - int(lengths[end]) // 2


def _no_usable_lr(curve: LrCurve) -> TrainingError:
    start = f"--start-lr {curve.settings.start_lr:g}"
    if curve.diverged_at is None:
        return TrainingError(
            f"the range test found no rate: the loss never fell between {start} and "
            f"--end-lr {curve.settings.end_lr:g}; lower --start-lr, raise --end-lr or take more --iterations"
        )
    if np.argmin([*curve.losses, np.inf]) < MIN_POINTS:
        return TrainingError(
            f"the range test diverged at once: from {start} on the loss did not fall, and it diverged at rate "
            f"{curve.diverged_at:.3g}; lower --start-lr"
        )
    return TrainingError(
        f"the range test found no rate: the loss never fell from {start} on until it diverged at rate "
        f"{curve.diverged_at:.3g}; take more --iterations"
    )
