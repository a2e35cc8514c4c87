from __future__ import annotations

import dataclasses
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from fastcifar.config import LrFinderSettings
from fastcifar.errors import ConfigError, TrainingError
from fastcifar.lr_finder.suggest import LrCurve, suggest
from fastcifar.report.lr_plot import draw_lr_curve


def _curve(lrs: Any, losses: Any, *, diverged_at: float | None = None) -> LrCurve:
    values = tuple(np.asarray(losses).tolist())
    return LrCurve(
        settings=LrFinderSettings(),
        lrs=tuple(np.asarray(lrs).tolist()),
        losses=values,
        raw=values,
        diverged_at=diverged_at,
    )


def test_learning_rates_are_chosen_from_a_curve() -> None:
    """Flat at 2.4, a smooth descent by 1 with its middle at 1e-3, the lowest loss at 1e-1, then a steep rise."""
    lrs = np.geomspace(1e-6, 1, 61)  # ten per decade
    exponent = np.log10(lrs)
    losses = 2.4 - 1 / (1 + np.exp(-4 * (exponent + 3)))
    losses[51:] = np.linspace(1.5, 5, 10)
    suggestion = suggest(_curve(lrs, losses, diverged_at=1.0))
    assert suggestion.max_lr == suggestion.minimum_tenth == pytest.approx(1e-2)
    assert suggestion.max_lr_tenth == pytest.approx(1e-3)
    assert suggestion.steepest == pytest.approx(1e-3)
    # 5 % of the descent are done where 1 / (1 + exp(-4 x)) is 0.05, 0.736 decades before its middle
    assert suggestion.min_lr == pytest.approx(10 ** (-3.8))
    # the loss decreases, however little, over 51 points: their middle
    assert suggestion.valley == pytest.approx(lrs[25])
    assert suggestion.to_json()["descent_start"] == suggestion.min_lr


def test_noise_before_the_descent_is_not_its_start() -> None:
    """A jump down and back at low learning rates is steeper than the descent, and lower than its start."""
    lrs = np.geomspace(1e-6, 1e-1, 101)
    losses = np.interp(np.log10(lrs), [-6, -3, -2, -1], [2.4, 2.4, 1.6, 1.8])
    losses[20] = 2.0
    suggestion = suggest(_curve(lrs, losses))
    assert 1e-3 <= suggestion.descent_start < suggestion.steepest <= 1e-2
    assert suggestion.min_lr <= suggestion.max_lr
    assert suggestion.valley == pytest.approx(10**-2.5, rel=0.2)
    assert suggestion.minimum_tenth == pytest.approx(1e-3)


@pytest.mark.parametrize(
    ("losses", "diverged_at", "message"),
    [
        ([2.4, 30.0], 1e-5, "diverged at once: .* 1e-06 .* at learning rate 1e-05; use a lower --start-lr"),
        (np.linspace(2.4, 9, 30), 0.5, "diverged at once"),
        ([], 1e-6, "diverged at once"),
        (np.full(100, 2.4), None, "never decreased between --start-lr 1e-06 and --end-lr 1"),
        (2.4 - np.linspace(0, 0.01, 100), None, "never decreased"),
        (
            [*(2.4 - np.linspace(0, 0.01, 80)), 30.0],
            0.1,
            "never decreased .* until it diverged at learning rate 0.1; use more",
        ),
    ],
)
def test_a_curve_without_a_descent_is_an_error(losses: Any, diverged_at: float | None, message: str) -> None:
    with pytest.raises(TrainingError, match=message):
        suggest(_curve(np.geomspace(1e-6, 1, 100)[: len(losses)], losses, diverged_at=diverged_at))


@pytest.mark.parametrize(
    ("field", "value", "allowed"),
    [
        ("start_lr", 0.0, "positive and finite"),
        ("end_lr", 1e-6, "above start_lr, 1e-06"),
        ("end_lr", math.inf, "finite"),
        ("iterations", 9, "at least 10"),
        ("mode", "cosine", "'exp', 'linear'"),
        ("smoothing", 1.0, "from 0 up to"),
        ("diverge", 1.0, "above 1"),
    ],
)
def test_a_wrong_setting_is_an_error(field: str, value: Any, allowed: str) -> None:
    with pytest.raises(ConfigError, match=f"{field} is {value!r}; it must be .*{allowed}"):
        LrFinderSettings(**{field: value})


@pytest.mark.parametrize("mode", ["exp", "linear"])
def test_a_figure_is_drawn_without_the_global_state_of_pyplot(tmp_path: Path, mode: Any) -> None:
    lrs = np.geomspace(1e-6, 1, 100)
    curve = _curve(lrs, np.interp(np.log10(lrs), [-6, -1, -0.5, 0], [2.4, 2.4, 1.6, 9.0]), diverged_at=1.0)
    curve = dataclasses.replace(curve, settings=LrFinderSettings(mode=mode))
    draw_lr_curve(curve, suggest(curve), tmp_path / "new" / "curve.png")
    with Image.open(tmp_path / "new" / "curve.png") as picture:
        assert picture.format == "PNG"
        assert picture.size == (840, 580)
        colors = {color for _, color in picture.convert("RGB").getcolors(1 << 20)}
    assert {(0x00, 0x72, 0xB2), (0xD5, 0x5E, 0x00), (0xE6, 0x9F, 0x00)} <= colors
    from matplotlib import pyplot

    assert pyplot.get_fignums() == []
