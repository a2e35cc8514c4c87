"""The figures of a run: its curves, its schedule, and how its classes fare."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import PowerNorm
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from fastcifar.analysis.mistakes import Analysis
from fastcifar.optim.schedule import one_cycle_lr
from fastcifar.report.style import (
    DASHES,
    FONT_SIZE,
    WIDTH,
    FigureSpec,
    Theme,
    add_legend,
    name_axes,
    new_axes,
    renderable,
)
from fastcifar.runs.record import RunRecord

MARKED_EPOCHS = 30
"""Up to so many epochs each is marked on its curve."""
NUMBERED_CLASSES = 16
"""Up to so many classes a confusion matrix has its numbers in it."""


def loss_curves(record: RunRecord) -> FigureSpec:
    """Training and held-out loss by epoch."""
    train = [result.train_loss for result in record.results]
    eval_split = [result.test_loss for result in record.results]
    name, lowest = record.last.eval_split, int(np.argmin(eval_split))

    def draw(theme: Theme) -> Figure:
        figure, axes = new_axes(theme, height=3.2)
        _curves(axes, theme, record, {"train": train, name: eval_split})
        axes.set_ylim(bottom=0)
        name_axes(axes, theme, "epoch", "cross-entropy (nats)")
        add_legend(figure, axes, theme, columns=2)
        return figure

    return FigureSpec(
        name="loss",
        title="Loss",
        alt=f"Line chart of the loss by epoch, {_epochs(record)}. Train goes from {train[0]:.3f} to {train[-1]:.3f}, "
        f"{name} from {eval_split[0]:.3f} to {eval_split[-1]:.3f}; its lowest is {eval_split[lowest]:.3f} at epoch "
        f"{lowest + 1}.",
        draw=draw,
        note="Train is the mean over the epoch's augmented batches, as the weights moved.",
    )


def accuracy_curves(record: RunRecord) -> FigureSpec:
    """Training and held-out accuracy by epoch, and the goal."""
    train = [100 * result.train_accuracy for result in record.results]
    eval_split = [100 * result.test_accuracy for result in record.results]
    name, met = record.last.eval_split, record.first_at(record.goal)

    def draw(theme: Theme) -> Figure:
        figure, axes = new_axes(theme, height=3.2)
        _curves(axes, theme, record, {"train": train, name: eval_split})
        mark_goal(axes, theme, record.goal)
        name_axes(axes, theme, "epoch", "accuracy (%)")
        add_legend(figure, axes, theme, columns=3)
        return figure

    reached = f"first reached at epoch {met.epoch}" if met else "not reached"
    return FigureSpec(
        name="accuracy",
        title="Accuracy",
        alt=f"Line chart of the accuracy by epoch, {_epochs(record)}. Train goes from {train[0]:.2f} to "
        f"{train[-1]:.2f} percent, {name} from {eval_split[0]:.2f} to {eval_split[-1]:.2f} percent; its best is "
        f"{100 * record.last.best_accuracy:.2f} percent at epoch {record.last.best_epoch}. "
        f"{100 * record.goal:.4g} percent is {reached}.",
        draw=draw,
    )


def schedule(record: RunRecord, total_steps: int) -> FigureSpec:
    """The one-cycle curve as planned over all steps, and the rates that the epochs recorded."""
    config = record.config
    steps = np.unique(np.linspace(0, total_steps - 1, 600).round().astype(int))
    planned = np.array([one_cycle_lr(int(step), total_steps, config.optim) for step in steps])
    per_epoch = total_steps / config.epochs
    ends = [(result.epoch - 1.0, result.lr_start) for result in record.results]
    ends += [(record.passes(result) - 1 / per_epoch, result.lr_end) for result in record.results]
    peak = int(planned.argmax())

    def draw(theme: Theme) -> Figure:
        figure, axes = new_axes(theme, height=3.2)
        axes.plot(steps / per_epoch, planned, color=theme.lines[0], linewidth=3, label="planned")
        axes.plot(
            *zip(*ends, strict=True), "o", color=theme.ink, markersize=4.5, markerfacecolor=theme.paper, clip_on=False,
            zorder=3, label="used, first and last step of each epoch",
        )  # fmt: skip
        axes.set_ylim(bottom=0)
        axes.xaxis.set_major_locator(MaxNLocator(integer=True, nbins=8))
        axes.ticklabel_format(axis="y", style="sci", scilimits=(-2, 3), useMathText=True)
        axes.yaxis.get_offset_text().set(color=theme.ink, fontsize=FONT_SIZE)
        name_axes(axes, theme, "epochs done", "learning rate")
        add_legend(figure, axes, theme, columns=2)
        return figure

    return FigureSpec(
        name="schedule",
        title="One-cycle schedule",
        alt=f"Line chart of the learning rate. Planned over {config.epochs:g} epochs, {total_steps:,} steps: from "
        f"{planned[0]:.3g} up to {planned[peak]:.3g} after {steps[peak] / per_epoch:.1f} epochs, then down to "
        f"{planned[-1]:.3g}. Points for the {len(record.results)} epochs that were done show the rates that were used, "
        f"from {ends[0][1]:.3g} to {record.last.lr_end:.3g}.",
        draw=draw,
    )


def confusion_matrix(analysis: Analysis) -> FigureSpec:
    """Images of each true class by predicted class."""
    confusion, counts = analysis.confusion, analysis.class_counts
    classes = len(counts)
    share = confusion / np.maximum(counts, 1)[:, None]
    off_diagonal = np.where(np.eye(classes, dtype=bool), 0, confusion)
    truth, said = np.unravel_index(off_diagonal.argmax(), confusion.shape)
    names = analysis.class_names

    def draw(theme: Theme) -> Figure:
        figure, axes = new_axes(theme, height=WIDTH)
        axes.grid(visible=False)
        shown = axes.imshow(share, cmap="cividis", norm=PowerNorm(0.5, 0, 1))
        _name_classes(axes, names)
        if classes <= NUMBERED_CLASSES:
            for row, column in np.ndindex(confusion.shape):
                color = "black" if share[row, column] > 0.2 else "white"
                axes.text(column, row, str(confusion[row, column]), color=color, fontsize=7.5, ha="center", va="center")
        name_axes(axes, theme, "predicted", "truth")
        bar = figure.colorbar(shown, ax=axes, location="top", aspect=40, pad=0.02)
        bar.set_ticks([0, 0.01, 0.05, 0.2, 0.5, 1], labels=["0", "1", "5", "20", "50", "100 %"])
        bar.ax.tick_params(colors=theme.ink, labelsize=8, length=2)
        bar.set_label("share of the true class", color=theme.ink, fontsize=8)
        bar.outline.set_visible(False)
        return figure

    return FigureSpec(
        name="confusion",
        title="Confusion matrix",
        alt=f"Matrix of the test set's {counts.sum():,} images by true class (rows) and predicted class (columns). "
        f"{confusion.trace():,} lie on the diagonal. The most common confusion is {names[truth]} taken for "
        f"{names[said]}, {confusion[truth, said]:,} times.",
        draw=draw,
    )


def class_bars(analysis: Analysis) -> FigureSpec:
    """The share of each class that is recognised."""
    shares = 100 * analysis.class_accuracy
    overall = 100 * analysis.accuracy
    described = [
        f"{name} {'no images' if np.isnan(share) else f'{share:.1f}'}"
        for name, share in zip(analysis.class_names, shares, strict=True)
    ]

    def draw(theme: Theme) -> Figure:
        figure, axes = new_axes(theme, height=max(2.0, 0.3 * len(shares) + 0.9))
        axes.grid(visible=False, axis="y")
        axes.barh(range(len(shares)), np.nan_to_num(shares), color=theme.lines[0], height=0.72)
        for row, share in enumerate(shares):
            axes.annotate(
                "no images" if np.isnan(share) else f"{share:.1f}", (100, row), xytext=(5, 0),
                textcoords="offset points", color=theme.ink, fontsize=8.5, va="center", annotation_clip=False,
            )  # fmt: skip
        axes.axvline(
            overall, color=theme.lines[1], linestyle="--", linewidth=1.8, label=f"all classes, {overall:.2f} %"
        )
        axes.set_yticks(range(len(shares)), [renderable(name) for name in analysis.class_names], parse_math=False)
        axes.set_xlim(0, 100)
        axes.invert_yaxis()
        name_axes(axes, theme, "recognised (%)", "")
        add_legend(figure, axes, theme, columns=1)
        return figure

    return FigureSpec(
        name="classes",
        title="Accuracy by class",
        alt=f"Bar chart of the share of each class that is recognised, in percent: {', '.join(described)}. "
        f"All classes: {overall:.2f}.",
        draw=draw,
    )


def mark_goal(axes: Axes, theme: Theme, goal: float) -> None:
    """A line at the accuracy that is to be reached, 0 to 1, on an axis of percent."""
    axes.axhline(100 * goal, color=theme.ink, linestyle=":", linewidth=1.2, label=f"goal, {100 * goal:.4g} %")


def _curves(axes: Axes, theme: Theme, record: RunRecord, curves: dict[str, list[float]]) -> None:
    epochs = [record.passes(result) for result in record.results]
    for number, (name, values) in enumerate(curves.items()):
        axes.plot(
            epochs, values, color=theme.lines[number], linestyle=DASHES[1 - number], linewidth=2, label=name,
            marker="o" if len(epochs) <= MARKED_EPOCHS else None, markersize=4,
        )  # fmt: skip
    axes.xaxis.set_major_locator(MaxNLocator(integer=True, nbins=8))
    axes.annotate(
        f"{values[-1]:.4g}", (1, values[-1]), xycoords=("axes fraction", "data"), xytext=(4, 0),
        textcoords="offset points", fontsize=FONT_SIZE,
        color=theme.lines[len(curves) - 1], va="center", annotation_clip=False,
    )  # fmt: skip


def _name_classes(axes: Axes, names: Sequence[str]) -> None:
    shown = [renderable(name) for name in names]
    axes.set_xticks(range(len(names)), shown, rotation=45, ha="right", rotation_mode="anchor", parse_math=False)
    axes.set_yticks(range(len(names)), shown, parse_math=False)


def _epochs(record: RunRecord) -> str:
    done, planned = len(record.results), record.last.epochs
    return f"{done} epochs" if done == planned else f"{done} of {planned} epochs"
