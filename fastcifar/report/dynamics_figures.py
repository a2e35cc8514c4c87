"""The figures of `fastcifar dynamics`: the data map, forgetting events, and the most suspicious labels."""

from __future__ import annotations

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from fastcifar.analysis.dynamics import Dynamics
from fastcifar.analysis.suspicious import DynamicsAnalysis
from fastcifar.report.image_figures import GAP, LINE_HEIGHT
from fastcifar.report.style import (
    WIDTH,
    FigureSpec,
    add_color_bar,
    draw_text,
    new_axes,
    new_sheet,
    place_image,
    shorten,
)

MAX_POINTS = 20_000
"""Of more images, this many are drawn on the map, chosen at random."""
MAX_DESCRIBED = 20
"""Up to this many images are listed in the alternative text."""


def data_map(dynamics: Dynamics) -> FigureSpec:
    """Return the map of the training images: confidence by variability, with correctness as the color."""
    count = len(dynamics.index)
    shown = np.random.default_rng(0).permutation(count)[:MAX_POINTS]

    def draw() -> Figure:
        figure, axes = new_axes(height=4.2, x_label="variability", y_label="confidence")
        points = axes.scatter(
            dynamics.variability[shown], dynamics.confidence[shown], c=dynamics.correctness[shown],
            cmap="viridis", vmin=0, vmax=1, s=4, linewidths=0, alpha=0.6,
        )  # fmt: skip
        axes.set_xlim(left=0)
        axes.set_ylim(0, 1)
        bar = add_color_bar(figure, axes, points, "correctness: fraction of the epochs with a correct prediction")
        bar.set_alpha(1)  # of the points' colors
        return figure

    alt = (
        f"Scatter plot of {len(shown):,} training images by the standard deviation (across) and the mean (up) of the "
        f"probability of their label over {dynamics.epochs} epochs. The mean confidence is "
        f"{dynamics.confidence.mean():.2f}, the mean variability {dynamics.variability.mean():.2f}; "
        f"{dynamics.never_learned.sum():,} images were never predicted correctly."
    )
    note = (
        "Top left: easy to learn. Right: ambiguous. Bottom left: hard to learn, where wrong labels are. "
        f"{'' if len(shown) == count else f'{len(shown):,} of {count:,} images, at random. '}"
        "Method: Swayamdipta et al., Dataset Cartography, EMNLP 2020."
    )
    return FigureSpec(name="data-map", title="Data map", alt=alt, draw=draw, note=note)


def forgetting_events(dynamics: Dynamics) -> FigureSpec:
    """Return the number of images by their number of forgetting events, and those that were never learned."""
    counts = np.bincount(dynamics.forgotten[~dynamics.never_learned], minlength=1)
    never = int(dynamics.never_learned.sum())

    def draw() -> Figure:
        figure, axes = new_axes(height=3.0, x_label="forgetting events", y_label="training images")
        axes.grid(visible=False, axis="x")
        axes.bar(range(len(counts)), counts, width=0.72)
        axes.bar([len(counts) + 0.5], [never], width=0.72, color="C1")
        axes.xaxis.set_major_locator(MaxNLocator(integer=True, nbins=12))
        ticks = [tick for tick in axes.get_xticks() if 0 <= tick < len(counts)]
        axes.set_xticks([*ticks, len(counts) + 0.5], [*(f"{tick:.0f}" for tick in ticks), "never\nlearned"])
        axes.yaxis.set_major_formatter("{x:,.0f}")
        return figure

    described = ", ".join(f"{times} times: {count:,}" for times, count in enumerate(counts.tolist()))
    alt = (
        f"Bar chart of the number of training images by how often they were forgotten in {dynamics.epochs} epochs. "
        f"{described}. Never learned: {never:,}."
    )
    note = (
        "An image is forgotten when its prediction is wrong right after it was correct. Method: Toneva et al., An "
        "Empirical Study of Example Forgetting, ICLR 2019."
    )
    return FigureSpec(name="forgetting", title="Forgetting events", alt=alt, draw=draw, note=note)


def suspicious_labels(analysis: DynamicsAnalysis) -> FigureSpec:
    """Return the pictures of the most suspicious labels, in order, with the label and the last prediction."""
    columns = 4
    described = [analysis.describe(row) for row in analysis.rows.tolist()]
    lines = [_caption(values) for values in described]
    size = (72 * WIDTH - (columns + 1) * GAP) / columns
    step = size + max(map(len, lines), default=0) * LINE_HEIGHT + 2 * GAP

    def draw() -> Figure:
        figure, axes = new_sheet(height=-(-len(lines) // columns) * step + GAP)
        for number, (texts, image) in enumerate(zip(lines, analysis.images, strict=True)):
            x, y = GAP + number % columns * (size + GAP), GAP + number // columns * step
            place_image(axes, image, x, y, size, size)
            for line, text in enumerate(texts):
                draw_text(axes, x + size / 2, y + size + 3 + line * LINE_HEIGHT, text)
        return figure

    listed = "; ".join(
        f"image {values['index']}, labelled {values['class']}, predicted {values['predicted_class']}"
        for values in described[:MAX_DESCRIBED]
    )
    more = len(described) - MAX_DESCRIBED
    alt = f"The {len(described)} training images with the most suspicious labels: {listed}"
    alt += f"; and {more} more." if more > 0 else "."
    return FigureSpec(name="suspicious", title="Most suspicious labels", alt=alt, draw=draw, note=SCORE_NOTE)


SCORE_NOTE = "In order of the mean margin, the lowest first: Pleiss et al., Area Under the Margin, NeurIPS 2020."


def _caption(values: dict[str, object]) -> list[str]:
    """Return the lines below a picture: index, label, last prediction, and the true label if it is known."""
    names = {"label": "class", "predicted": "predicted_class", "true": "true_class"}
    classes = {name: str(values[key]) for name, key in names.items() if key in values}
    return [f"index {values['index']}", *(f"{name}: {shorten(text, 12)}" for name, text in classes.items())]
