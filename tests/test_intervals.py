from __future__ import annotations

import math
import statistics

import pytest

from fastcifar.intervals import mean_interval, t_quantile

TABLE = {1: 12.7062, 2: 4.3027, 3: 3.1824, 4: 2.7764, 5: 2.5706, 9: 2.2622, 10: 2.2281, 30: 2.0423, 120: 1.9799}


@pytest.mark.parametrize(("freedom", "expected"), TABLE.items())
def test_the_quantiles_are_those_of_the_tables(freedom: int, expected: float) -> None:
    assert t_quantile(0.975, freedom) == pytest.approx(expected, abs=5e-5)


def test_with_many_values_the_quantile_is_that_of_the_normal_distribution() -> None:
    assert t_quantile(0.975, 100_000) == pytest.approx(statistics.NormalDist().inv_cdf(0.975), rel=1e-4)
    assert t_quantile(0.95, 10) == pytest.approx(1.8125, abs=5e-5)


def test_the_interval_of_a_mean() -> None:
    interval = mean_interval([0.90, 0.91, 0.92, 0.95])
    assert (interval.count, interval.mean, interval.median) == (4, pytest.approx(0.92), pytest.approx(0.915))
    assert (interval.min, interval.max) == (0.90, 0.95)
    assert interval.deviation == pytest.approx(statistics.stdev([0.90, 0.91, 0.92, 0.95]))
    assert interval.half_width == pytest.approx(3.18245 * interval.deviation / math.sqrt(4), rel=1e-5)


def test_one_value_has_no_interval() -> None:
    interval = mean_interval([0.9])
    assert (interval.mean, interval.deviation, interval.half_width) == (0.9, None, None)
