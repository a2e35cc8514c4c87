"""The errors on corrupted images: a table on the console, and a figure."""

from __future__ import annotations

import numpy as np
from matplotlib.figure import Figure
from rich.console import Console
from rich.table import Column, Table

from fastcifar.inference.corruption_errors import CorruptionErrors
from fastcifar.report.style import FigureSpec, new_axes
from fastcifar.report.units import format_duration, format_percent


def show_corruption_errors(errors: CorruptionErrors, console: Console) -> None:
    """Print the error for each kind and severity, and the means."""
    console.print(f"{errors.checkpoint}, epoch {errors.epoch}", markup=False)
    console.print(f"{errors.device}; {errors.precision}", markup=False)
    heads = [*(str(severity) for severity in errors.severities), "mean"]
    table = Table("error (%) at severity", *(Column(head, justify="right") for head in heads))
    for group in (errors.errors, errors.extra_errors):
        for kind, values in group.items():
            table.add_row(_title(kind), *(f"{100 * value:.1f}" for value in (*values, errors.mean_errors[kind])))
        table.add_section()
    console.print(table)
    for label, value in _overall(errors).items():
        console.print(f"{label:<21}  {value}", markup=False, soft_wrap=True)


def _overall(errors: CorruptionErrors) -> dict[str, str]:
    clean, mean = errors.clean_error, errors.mean_corruption_error
    source = f"made with seed {errors.seed}" if errors.folder is None else f"from {errors.folder}"
    extra = {"not in this mean": ", ".join(map(_title, errors.extra_errors))} if errors.extra_errors else {}
    evaluations = len(errors.severities) * len(errors.mean_errors)
    return {
        "error, no corruption": "not measured: the test set is not there" if clean is None else format_percent(clean),
        **({} if mean is None else {"mean corruption error": format_percent(mean)}),
        **extra,
        "images": f"{evaluations} × {errors.samples:,}, {source}, in {format_duration(errors.seconds)}",
    }


def corruption_errors(errors: CorruptionErrors) -> FigureSpec:
    """Return the error for each kind (row) and severity (column), in shades and numbers."""
    kinds = {**errors.errors, **errors.extra_errors}
    values = 100 * np.array(list(kinds.values()))

    def draw() -> Figure:
        figure, axes = new_axes(height=0.27 * len(kinds) + 0.8, x_label="severity", y_label="")
        axes.grid(visible=False)
        axes.imshow(values, cmap="cividis", vmin=0, vmax=100, aspect="auto")
        axes.set_xticks(range(len(errors.severities)), [str(severity) for severity in errors.severities])
        axes.set_yticks(range(len(kinds)), [f"{_title(kind)}, {100 * errors.mean_errors[kind]:.1f}" for kind in kinds])
        for row, column in np.ndindex(values.shape):
            color = "black" if values[row, column] > 55 else "white"
            axes.text(column, row, f"{values[row, column]:.1f}", color=color, fontsize=8, ha="center", va="center")
        return figure

    made = errors.folder is None
    means = ", ".join(f"{_title(kind)} {100 * errors.mean_errors[kind]:.1f}" for kind in kinds)
    mean = (
        ""
        if errors.mean_corruption_error is None
        else f" Mean corruption error: {100 * errors.mean_corruption_error:.2f}."
    )
    clean = "" if errors.clean_error is None else f" Without corruption: {100 * errors.clean_error:.2f}."
    alt = f"Table of the error on corrupted test images, in percent. Mean over the severities: {means}.{mean}{clean}"
    note = f"In percent, with the mean over the severities beside each name, at epoch {errors.epoch}.{mean}{clean}"
    name, title = ("corruptions", "made here") if made else ("corruptions-published", "of CIFAR-10-C")
    return FigureSpec(name=name, title=f"Error on corrupted images, {title}", alt=alt, draw=draw, note=note)


def _title(kind: str) -> str:
    return kind.replace("_", " ").replace("jpeg", "JPEG")
