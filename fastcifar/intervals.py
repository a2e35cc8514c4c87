"""The mean of a few runs, and how precisely it is known: confidence intervals with Student's t distribution."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass

CONFIDENCE = 0.95


@dataclass(frozen=True, kw_only=True)
class MeanInterval:
    """The mean of independent values and its confidence interval, mean ± half_width; with spread and extremes."""

    count: int
    mean: float
    deviation: float | None
    """Sample standard deviation; None for one value."""
    half_width: float | None
    """Half the width of the confidence interval of the mean; None for one value."""
    median: float
    min: float
    max: float
    confidence: float = CONFIDENCE


def mean_interval(values: Sequence[float], confidence: float = CONFIDENCE) -> MeanInterval:
    """Return the mean of at least one value, with its confidence interval for normally distributed values."""
    count, deviation, half_width = len(values), None, None
    if count > 1:
        deviation = statistics.stdev(values)
        half_width = t_quantile((1 + confidence) / 2, count - 1) * deviation / math.sqrt(count)
    return MeanInterval(
        count=count,
        mean=statistics.fmean(values),
        deviation=deviation,
        half_width=half_width,
        median=statistics.median(values),
        min=min(values),
        max=max(values),
        confidence=confidence,
    )


def t_quantile(probability: float, freedom: int) -> float:
    """Return the quantile of Student's t distribution, for a probability from 0.5 to below 1, by bisection."""
    low, high = 0.0, math.pi / 2
    for _ in range(60):  # an angle to 1e-18
        middle = (low + high) / 2
        if (1 + _central_probability(middle, freedom)) / 2 < probability:
            low = middle
        else:
            high = middle
    return math.tan(low) * math.sqrt(freedom)


def _central_probability(angle: float, freedom: int) -> float:
    """Return the probability that |t| is at most tan(angle) · √freedom, for a whole number of degrees of freedom.

    Source: Abramowitz and Stegun, *Handbook of Mathematical Functions*, 1964, 26.7.3 and 26.7.4.
    """
    odd = freedom % 2
    term = total = math.cos(angle) if odd else 1.0
    for k in range(2 + odd, freedom - 1, 2):
        term *= math.cos(angle) ** 2 * (k - 1) / k
        total += term
    if not odd:
        return math.sin(angle) * total
    return 2 / math.pi * (angle + (math.sin(angle) * total if freedom > 1 else 0.0))
