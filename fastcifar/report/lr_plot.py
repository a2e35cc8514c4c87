"""The figure of a learning-rate range test: loss against learning rate, with the suggested learning rates marked."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from matplotlib import rc_context, rcParams
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.transforms import IdentityTransform

from fastcifar.files import atomic_write
from fastcifar.lr_finder.suggest import LrCurve, Suggestion
from fastcifar.report.style import use_theme
from fastcifar.report.units import format_lr

BLUE, VERMILION, GREEN, PURPLE, ORANGE = "C0", "C1", "C2", "C3", "C4"
GREY, LIGHT_GREY = "#666666", "#9A9A9A"
FIRST_FLAG, NEXT_FLAG = 12, 23  # pixels from the axes to the lowest flag, and from one flag to the next
HEADROOM = 0.6  # of the loss's descent, shown above the initial loss: a diverging curve leaves the figure
DPI = 100


def draw_lr_curve(curve: LrCurve, suggestion: Suggestion, path: Path) -> None:
    """Draw the losses of single batches and the smoothed loss, with a labelled mark per suggestion, as a PNG file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with use_theme("light"), rc_context({"text.parse_math": True}), atomic_write(path) as temporary:
        _draw(curve, suggestion).savefig(temporary, format="png", dpi=DPI)


def _draw(curve: LrCurve, suggestion: Suggestion) -> Figure:
    figure = Figure(figsize=(8.4, 5.8), dpi=DPI)
    axes = figure.add_axes((0.08, 0.095, 0.895, 0.62), xlabel="learning rate", ylabel="training loss (nats)")
    axes.set_xscale("log" if curve.settings.mode == "exp" else "linear")
    axes.plot(curve.lrs, curve.raw, ".", color=LIGHT_GREY, label="each batch")
    axes.plot(curve.lrs, curve.losses, color=BLUE, linestyle="-", label="smoothed")
    _set_limits(axes, curve)
    axes.legend(loc="lower left")
    _mark_suggestions(axes, curve, suggestion)
    figure.text(0.015, 0.98, "Learning-rate range test", fontsize=13, fontweight="bold", va="top")
    figure.text(0.975, 0.978, _subtitle(curve), color=GREY, va="top", ha="right")
    return figure


def _subtitle(curve: LrCurve) -> str:
    spacing = "exponential" if curve.settings.mode == "exp" else "linear"
    end = "not diverged" if curve.diverged_at is None else f"diverged at {format_lr(curve.diverged_at, 2)}"
    return f"{len(curve.lrs)} of {curve.settings.iterations} {spacing} steps, {end}"


def _set_limits(axes: Axes, curve: LrCurve) -> None:
    """Show the whole descent of the loss, and as much as fits of the rest."""
    low = min(curve.losses)
    high = max(curve.losses[: curve.losses.index(low) + 1])
    shown = [loss for loss in curve.raw if loss <= high + HEADROOM * (high - low)]
    margin = 0.12 * (high - low)
    axes.set_ylim(min(low, *shown) - margin, max(high, *shown) + margin)


def _mark_suggestions(axes: Axes, curve: LrCurve, suggestion: Suggestion) -> None:
    """Draw a mark per suggestion, and above the axes a flag on a pole, each in its own row.

    The rows go down from left to right, so that no pole crosses another flag.
    """
    marks = [
        (suggestion.max_lr, "LRMAX, minimum / 10", VERMILION, "o"),
        (suggestion.min_lr, "LRMIN, loss begins to fall", ORANGE, "D"),
        (suggestion.valley, "valley", GREEN, "s"),
        (suggestion.steepest, "steepest slope", PURPLE, "^"),
        (suggestion.max_lr_tenth, "LRMAX / 10", GREY, "v"),
    ]
    marks = [mark for mark in marks if curve.lrs[0] <= mark[0] <= curve.lrs[-1]]  # LRMAX / 10 can be below the range
    for row, (lr, name, color, shape) in enumerate(sorted(marks, reverse=True)):
        loss = float(np.interp(lr, curve.lrs, curve.losses))
        axes.plot(lr, loss, shape, color=color, markersize=9, markeredgecolor=rcParams["axes.facecolor"], zorder=4)
        _draw_flag(axes, (lr, loss), row, f"{name}  {format_lr(lr, 2)}", color)


def _draw_flag(axes: Axes, point: tuple[float, float], row: int, text: str, color: str) -> None:
    """Draw pole and flag in pixels; a flag that would leave the figure is moved to the left."""
    figure, pixels = axes.get_figure(), IdentityTransform()
    assert isinstance(figure, Figure)
    x, y = axes.transData.transform(point)
    bottom = axes.bbox.y1 + FIRST_FLAG + NEXT_FLAG * row
    figure.add_artist(Line2D((x, x), (y + 7, bottom), color=color, linewidth=1.2, transform=pixels))
    box = {"boxstyle": "square,pad=0.25", "facecolor": rcParams["axes.facecolor"], "edgecolor": color, "linewidth": 1.5}
    flag = figure.text(x, bottom, text, fontsize=9.5, bbox=box, transform=pixels)
    flag.set_x(x - max(0.0, flag.get_window_extent().x1 - axes.bbox.x1))
