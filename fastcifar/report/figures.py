"""The figures of a run: its curves, its learning-rate schedule, and its accuracy per class."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
from matplotlib import rcParams
from matplotlib.axes import Axes
from matplotlib.colors import PowerNorm
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from fastcifar.analysis.mistakes import Analysis
from fastcifar.inference.metrics import Counts
from fastcifar.optim.schedule import one_cycle_lr
from fastcifar.report.style import WIDTH, FigureSpec, add_color_bar, add_legend, new_axes, shorten
from fastcifar.runs.record import RunRecord

MAX_EPOCH_MARKERS = 30
"""Up to this many epochs, curves have a marker at each epoch."""
MAX_NUMBERED_CLASSES = 16
"""Up to this many classes, the confusion matrix shows its numbers, and labels have their usual size."""
MAX_BARS = 50
"""Of more classes than this, the chart of accuracies shows those with the lowest accuracy."""
MAX_CELLS = 250
"""Most rows of the confusion matrix: smaller cells than these cannot be seen."""
MAX_TICKS = 50
"""Up to this many classes, each has a label at the confusion matrix; of more classes, each second one, and so on."""
LABEL_SIZE = 9.5
"""Points of the usual font."""
TICK_POINTS = 215
"""Points for the labels along one side of the confusion matrix."""


def loss_curves(record: RunRecord) -> FigureSpec:
    """Return the training loss and the evaluation loss per epoch."""
    train = [result.train_loss for result in record.results]
    evaluated = [result.test_loss for result in record.results]
    split, lowest = record.last.eval_split, int(np.argmin(evaluated))

    def draw() -> Figure:
        figure, axes = _draw_curves(record, {"training": train, split: evaluated}, "cross-entropy (nats)")
        axes.set_ylim(bottom=0)
        add_legend(figure, axes, columns=2)
        return figure

    alt = (
        f"Line chart of the loss per epoch, {_epochs(record)}. Training loss goes from {train[0]:.3f} to "
        f"{train[-1]:.3f}, {split} loss from {evaluated[0]:.3f} to {evaluated[-1]:.3f}; its lowest value is "
        f"{evaluated[lowest]:.3f} at epoch {lowest + 1}."
    )
    note = "Training loss is the mean over the epoch's augmented batches, while the weights change."
    return FigureSpec(name="loss", title="Loss", alt=alt, draw=draw, note=note)


def accuracy_curves(record: RunRecord) -> FigureSpec:
    """Return the training accuracy and the evaluation accuracy per epoch, with the target accuracy."""
    train = [100 * result.train_accuracy for result in record.results]
    evaluated = [100 * result.test_accuracy for result in record.results]
    split, target = record.last.eval_split, 100 * record.target_accuracy
    reached = record.first_at(record.target_accuracy)

    def draw() -> Figure:
        figure, axes = _draw_curves(record, {"training": train, split: evaluated}, "accuracy (%)")
        label, color = f"target: {target:.4g} %", rcParams["text.color"]
        axes.axhline(target, color=color, linestyle=":", linewidth=1.2, label=label)
        add_legend(figure, axes, columns=3)
        return figure

    alt = (
        f"Line chart of the accuracy per epoch, {_epochs(record)}. Training accuracy goes from {train[0]:.2f} to "
        f"{train[-1]:.2f} percent, {split} accuracy from {evaluated[0]:.2f} to {evaluated[-1]:.2f} percent; its best "
        f"value is {100 * record.last.best_accuracy:.2f} percent at epoch {record.last.best_epoch}. "
        f"{target:.4g} percent is {f'first reached at epoch {reached.epoch}' if reached else 'not reached'}."
    )
    return FigureSpec(name="accuracy", title="Accuracy", alt=alt, draw=draw)


def lr_schedule(record: RunRecord, total_steps: int) -> FigureSpec:
    """Return the one-cycle schedule planned over all steps, with the learning rates that the epochs recorded."""
    config = record.config
    steps = np.unique(np.linspace(0, total_steps - 1, 600).round().astype(int))
    planned = np.array([one_cycle_lr(int(step), total_steps, config.optim) for step in steps])
    steps_per_epoch = total_steps / config.epochs
    used = [(result.epoch - 1.0, result.lr_start) for result in record.results]
    used += [(record.passes(result) - 1 / steps_per_epoch, result.lr_end) for result in record.results]
    peak = int(planned.argmax())

    def draw() -> Figure:
        figure, axes = new_axes(height=3.2, x_label="epochs completed", y_label="learning rate")
        axes.plot(steps / steps_per_epoch, planned, linewidth=3, label="planned")
        axes.plot(
            *zip(*used, strict=True), "o", color=rcParams["text.color"], markersize=4.5, clip_on=False, zorder=3,
            markerfacecolor=rcParams["axes.facecolor"], label="used in the first and last step of each epoch",
        )  # fmt: skip
        axes.set_ylim(bottom=0)
        axes.xaxis.set_major_locator(MaxNLocator(integer=True, nbins=8))
        axes.yaxis.set_major_formatter("{x:g}")
        add_legend(figure, axes, columns=2)
        return figure

    alt = (
        f"Line chart of the learning rate. Planned over {config.epochs:g} epochs, {total_steps:,} steps: from "
        f"{planned[0]:.3g} up to {planned[peak]:.3g} after {steps[peak] / steps_per_epoch:.1f} epochs, then down to "
        f"{planned[-1]:.3g}. Points for the {len(record.results)} completed epochs show the learning rates that were "
        f"used, from {used[0][1]:.3g} to {record.last.lr_end:.3g}."
    )
    return FigureSpec(name="schedule", title="One-cycle schedule", alt=alt, draw=draw)


def confusion_matrix(analysis: Analysis) -> FigureSpec:
    """Return the number of images of each true class per predicted class; of many classes, groups of neighbors."""
    confusion, counts = analysis.confusion, analysis.class_counts
    classes = len(counts)
    group = -(-classes // MAX_CELLS)
    cells = _group(confusion, group)
    fraction = cells / np.maximum(cells.sum(axis=1), 1)[:, None]
    off_diagonal = np.where(np.eye(classes, dtype=bool), 0, confusion)
    truth, predicted = np.unravel_index(off_diagonal.argmax(), confusion.shape)
    names, labels = analysis.class_names, [shorten(name) for name in analysis.class_names]

    def draw() -> Figure:
        figure, axes = new_axes(height=WIDTH, x_label="predicted class", y_label="true class")
        axes.grid(visible=False)
        image = axes.imshow(fraction, cmap="cividis", norm=PowerNorm(0.5, 0, 1))
        step, size = -(-len(cells) // MAX_TICKS), min(LABEL_SIZE, TICK_POINTS / min(classes, MAX_TICKS))
        shown = range(0, len(cells), step)
        named = labels[:: step * group]
        angle = 45 if classes <= MAX_NUMBERED_CLASSES else 90  # slanted labels of narrow columns would overlap
        align: Any = "center" if angle == 90 else "baseline"
        axes.set_xticks(shown, named, rotation=angle, fontsize=size, ha="right", va=align, rotation_mode="anchor")
        axes.set_yticks(shown, named, fontsize=size)
        if classes <= MAX_NUMBERED_CLASSES:
            for row, column in np.ndindex(confusion.shape):
                color = "black" if fraction[row, column] > 0.2 else "white"
                axes.text(column, row, str(confusion[row, column]), color=color, fontsize=7.5, ha="center", va="center")
        bar = add_color_bar(figure, axes, image, "fraction of the true class")
        bar.set_ticks([0, 0.01, 0.05, 0.2, 0.5, 1], labels=["0", "1", "5", "20", "50", "100 %"])
        return figure

    alt = (
        f"Matrix of the test set's {counts.sum():,} images by true class (rows) and predicted class (columns). "
        f"{confusion.trace():,} lie on the diagonal. The most common confusion: {names[truth]} predicted as "
        f"{names[predicted]}, {confusion[truth, predicted]:,} times."
    )
    note = "" if group == 1 else f"Each cell stands for {group} × {group} classes, in the order of their labels."
    return FigureSpec(name="confusion", title="Confusion matrix", alt=alt, draw=draw, note=note)


def _group(confusion: Counts, size: int) -> Counts:
    """Return the sums of a confusion matrix over groups of `size` neighboring classes."""
    starts = np.arange(0, len(confusion), size)
    sums: Counts = np.add.reduceat(np.add.reduceat(confusion, starts, axis=0), starts, axis=1)
    return sums


def class_bars(analysis: Analysis) -> FigureSpec:
    """Return the accuracy of each class, or of the `MAX_BARS` classes with the lowest accuracy, if there are more."""
    count, overall = len(analysis.class_names), 100 * analysis.accuracy
    shown = _shown_classes(analysis)
    names, accuracies = [analysis.class_names[label] for label in shown], 100 * analysis.class_accuracy[shown]
    labels = ["no images" if np.isnan(accuracy) else f"{accuracy:.1f}" for accuracy in accuracies]

    def draw() -> Figure:
        height = 0.3 if len(labels) <= MAX_NUMBERED_CLASSES else 0.16
        size = min(LABEL_SIZE, 72 * height * 0.7)
        figure, axes = new_axes(height=max(2.0, height * len(labels) + 0.9), x_label="accuracy (%)", y_label="")
        axes.grid(visible=False, axis="y")
        axes.barh(range(len(labels)), np.nan_to_num(accuracies), height=0.72)
        for row, label in enumerate(labels):
            axes.annotate(
                label, (100, row), xytext=(5, 0), textcoords="offset points", fontsize=min(8.5, size), va="center",
                annotation_clip=False,
            )  # fmt: skip
        axes.axvline(overall, color="C1", linestyle="--", linewidth=1.8, label=f"all classes, {overall:.2f} %")
        axes.set_yticks(range(len(labels)), [shorten(name) for name in names], fontsize=size)
        axes.set_xlim(0, 100)
        axes.margins(y=min(0.05, 0.5 / len(labels)))
        axes.invert_yaxis()
        add_legend(figure, axes, columns=1)
        return figure

    which = "each class" if len(labels) == count else f"the {len(labels)} of {count:,} classes with the lowest accuracy"
    described = ", ".join(f"{name} {label}" for name, label in zip(names, labels, strict=True))
    alt = f"Bar chart of the accuracy of {which}, in percent: {described}. All classes: {overall:.2f}."
    note = "" if len(labels) == count else f"The {len(labels)} of {count:,} classes with the lowest accuracy."
    return FigureSpec(name="classes", title="Accuracy per class", alt=alt, draw=draw, note=note)


def _shown_classes(analysis: Analysis) -> npt.NDArray[np.int64]:
    """Return the labels of all classes, in order; of many, those with the lowest accuracy, the lowest first."""
    accuracies = analysis.class_accuracy
    if len(accuracies) <= MAX_BARS:
        return np.arange(len(accuracies))
    return np.argsort(accuracies, kind="stable")[:MAX_BARS]  # NaN, of classes without images, comes last


def _draw_curves(record: RunRecord, curves: dict[str, list[float]], y_label: str) -> tuple[Figure, Axes]:
    """Plot the training curve dashed and the evaluation curve solid, with the latter's last value beside it."""
    figure, axes = new_axes(height=3.2, x_label="epoch", y_label=y_label)
    epochs = [record.passes(result) for result in record.results]
    marker = "o" if len(epochs) <= MAX_EPOCH_MARKERS else None
    for (name, values), linestyle in zip(curves.items(), ("--", "-"), strict=True):
        (line,) = axes.plot(epochs, values, linestyle=linestyle, marker=marker, label=name)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True, nbins=8))
    axes.annotate(
        f"{values[-1]:.4g}", (1, values[-1]), xycoords=("axes fraction", "data"), xytext=(4, 0),
        textcoords="offset points", color=line.get_color(), va="center", annotation_clip=False,
    )  # fmt: skip
    return figure, axes


def _epochs(record: RunRecord) -> str:
    done, planned = len(record.results), record.last.epochs
    return f"{done} epochs" if done == planned else f"{done} of {planned} epochs"
