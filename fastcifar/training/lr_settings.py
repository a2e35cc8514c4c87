"""The settings of a learning-rate range test."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from fastcifar.config import _require

MIN_POINTS = 10
"""Finite losses without which a curve says nothing."""


@dataclass(frozen=True, kw_only=True)
class LrFinderSettings:
    """Which rates a range test tries, and when it stops."""

    start_lr: float = 1e-6
    """Lowest rate of the range test, its first."""
    end_lr: float = 1.0
    """Highest rate of the range test, its last unless the loss diverges before."""
    iterations: int = 100
    """Steps of the range test, a rate each."""
    mode: Literal["exp", "linear"] = "exp"
    """Spacing of the rates: each a factor above the one before, or a constant."""
    smoothing: float = 0.1
    """Weight of each new loss in the running mean that the curve shows; 0 for no smoothing."""
    diverge: float = 5.0
    """The test stops when the smoothed loss is more than this times its lowest."""

    def __post_init__(self) -> None:
        _require(0 < self.start_lr < float("inf"), self, "start_lr", "positive and finite")
        above = f"finite and above start_lr, {self.start_lr}"
        _require(self.start_lr < self.end_lr < float("inf"), self, "end_lr", above)
        _require(self.iterations >= MIN_POINTS, self, "iterations", f"at least {MIN_POINTS}")
        _require(self.mode in ("exp", "linear"), self, "mode", "'exp' or 'linear'")
        _require(0 <= self.smoothing < 1, self, "smoothing", "from 0 up to, but not including, 1")
        _require(1 < self.diverge < float("inf"), self, "diverge", "above 1 and finite")
