"""The picture of a range test: loss by rate, with the suggested rates marked."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.transforms import IdentityTransform

from fastcifar.files import atomic_write
from fastcifar.lr_finder.suggest import LrCurve, Suggestion
from fastcifar.report.style import LIGHT
from fastcifar.report.units import format_rate

BLUE, VERMILION, GREEN, PURPLE, ORANGE, _ = LIGHT.lines
GREY = "#666666"
DPI = 100
FIRST_FLAG, NEXT_FLAG = 12, 23  # pixels from the axes to the lowest flag, and from one to the next
HEADROOM = 0.6  # of the fall, above the loss that the curve begins with: what diverges goes out of the picture


def draw_lr_curve(curve: LrCurve, suggestion: Suggestion, path: Path) -> None:
    """Draw smoothed and single losses by rate, with a labelled mark on the curve for each suggestion, into a PNG."""
    figure = Figure(figsize=(8.4, 5.8), dpi=DPI)
    FigureCanvasAgg(figure)
    axes = figure.add_axes((0.08, 0.095, 0.895, 0.62))
    axes.set_xscale("log" if curve.settings.mode == "exp" else "linear")
    axes.plot(curve.lrs, curve.raw, ".", color="#9A9A9A", markersize=4, label="each batch")
    axes.plot(curve.lrs, curve.losses, color=BLUE, linewidth=2, label="smoothed")
    _limit(axes, curve)
    axes.set(xlabel="learning rate", ylabel="training loss (nats)")
    axes.grid(color=LIGHT.faint, linewidth=0.5)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(loc="lower left", frameon=False)
    _mark(axes, curve, suggestion)
    figure.text(0.015, 0.98, "Learning-rate range test", fontsize=13, fontweight="bold", color=LIGHT.ink, va="top")
    figure.text(0.975, 0.978, _subtitle(curve), fontsize=10, color=GREY, va="top", ha="right")
    path.parent.mkdir(parents=True, exist_ok=True)
    with atomic_write(path) as temporary:
        figure.savefig(temporary, format="png", dpi=DPI)


def _subtitle(curve: LrCurve) -> str:
    spacing = "exponential" if curve.settings.mode == "exp" else "linear"
    end = "not diverged" if curve.diverged_at is None else f"diverged at {format_rate(curve.diverged_at, 2)}"
    return f"{len(curve.lrs)} of {curve.settings.iterations} {spacing} steps, {end}"


def _limit(axes: Axes, curve: LrCurve) -> None:
    """Show the fall whole, and of what comes after it as much as fits."""
    low = min(curve.losses)
    high = max(curve.losses[: curve.losses.index(low) + 1])
    shown = [loss for loss in curve.raw if loss <= high + HEADROOM * (high - low)]
    margin = 0.12 * (high - low)
    axes.set_ylim(min(low, *shown) - margin, max(high, *shown) + margin)


def _mark(axes: Axes, curve: LrCurve, suggestion: Suggestion) -> None:
    """A mark for each suggestion, and above the axes a flag on a pole, each in a row of its own.

    Their rows go down from left to right, so that no pole stands before another's flag.
    """
    marks = [
        (suggestion.max_lr, "LRMAX, minimum / 10", VERMILION, "o"),
        (suggestion.min_lr, "LRMIN, the fall begins", ORANGE, "D"),
        (suggestion.valley, "valley", GREEN, "s"),
        (suggestion.steepest, "steepest slope", PURPLE, "^"),
        (suggestion.max_lr_tenth, "LRMAX / 10", GREY, "v"),
    ]
    marks = [mark for mark in marks if curve.lrs[0] <= mark[0] <= curve.lrs[-1]]  # a tenth can lie below the first rate
    for row, (lr, name, color, shape) in enumerate(sorted(marks, reverse=True)):
        loss = float(np.interp(lr, curve.lrs, curve.losses))
        axes.plot(lr, loss, shape, color=color, markersize=9, markeredgecolor=LIGHT.paper, zorder=4)
        _flag(axes, (lr, loss), row, f"{name}  {format_rate(lr, 2)}", color)


def _flag(axes: Axes, point: tuple[float, float], row: int, text: str, color: str) -> None:
    """Pole and flag in pixels; the flag is moved to the left where it would leave the picture."""
    figure, pixels = axes.get_figure(), IdentityTransform()
    assert isinstance(figure, Figure)
    x, y = axes.transData.transform(point)
    bottom = axes.bbox.y1 + FIRST_FLAG + NEXT_FLAG * row
    figure.add_artist(Line2D((x, x), (y + 7, bottom), color=color, linewidth=1.2, transform=pixels))
    cloth = {"boxstyle": "square,pad=0.25", "facecolor": LIGHT.paper, "edgecolor": color, "linewidth": 1.5}
    flag = figure.text(x, bottom, text, fontsize=9.5, color=LIGHT.ink, bbox=cloth, transform=pixels)
    flag.set_x(x - max(0.0, flag.get_window_extent().x1 - axes.bbox.x1))
