"""The figures that show images: augmented training images, the model's mistakes, and Grad-CAM maps of these."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from fastcifar.analysis.mistakes import Analysis, AugmentedSamples
from fastcifar.report.style import WIDTH, FigureSpec, draw_text, new_sheet, place_image, shorten

GAP = 8
"""Points between images, and around the sheet."""
LINE_HEIGHT = 11.5
"""Points from one line of a caption to the next."""
MAX_DESCRIBED = 20
"""Up to this many mistakes are listed in the alternative text."""
HEAT_FRACTION = 0.6
"""Opacity of a Grad-CAM map over the grey image."""

Floats = npt.NDArray[np.floating]


def augmented_samples(samples: AugmentedSamples) -> FigureSpec:
    """Return training images, each beside its augmented variants."""
    count, variants = samples.variants.shape[:2]
    label_width = 66
    size = (72 * WIDTH - label_width - 2 * GAP) / (variants + 1) - 4

    def draw() -> Figure:
        top = GAP + LINE_HEIGHT + 4
        figure, axes = new_sheet(height=top + count * (size + 4) + GAP)
        columns = [label_width + GAP + column * (size + 4) + (6 if column else 0) for column in range(variants + 1)]
        draw_text(axes, columns[0] + size / 2, GAP, "original")
        draw_text(axes, (columns[1] + columns[-1] + size) / 2, GAP, "augmented")
        for row, name in enumerate(samples.names):
            y = top + row * (size + 4)
            draw_text(axes, label_width, y + size / 2 - 5, shorten(name, 13), align="right")
            for x, image in zip(columns, (samples.originals[row], *samples.variants[row]), strict=True):
                place_image(axes, image, x, y, size, size)
        return figure

    alt = (
        f"{count} training images ({', '.join(samples.names)}), each beside {variants} random results of the run's "
        "augmentation, as used in training."
    )
    return FigureSpec(name="augmented", title="Augmented samples", alt=alt, draw=draw)


def mistakes(analysis: Analysis) -> FigureSpec:
    """Return the most confidently misclassified images with true class, predicted class and confidence."""
    columns = 4
    size = (72 * WIDTH - (columns + 1) * GAP) / columns
    step = size + 3 * LINE_HEIGHT + 2 * GAP

    def draw() -> Figure:
        rows = -(-len(analysis.mistakes) // columns)
        figure, axes = new_sheet(height=rows * step + GAP)
        for number, (mistake, image) in enumerate(zip(analysis.mistakes, analysis.images, strict=True)):
            x, y = GAP + number % columns * (size + GAP), GAP + number // columns * step
            place_image(axes, image, x, y, size, size)
            truth, predicted = (shorten(analysis.class_names[each], 10) for each in (mistake.truth, mistake.predicted))
            lines = (f"true: {truth}", f"predicted: {predicted}", _percent(mistake.confidence))
            for line, text in enumerate(lines):
                draw_text(axes, x + size / 2, y + size + 3 + line * LINE_HEIGHT, text)
        return figure

    alt = (
        f"The {len(analysis.mistakes)} test images that are misclassified with the highest confidence: "
        f"{_describe(analysis)}."
    )
    note = "Confidence is the softmax probability of the predicted class."
    return FigureSpec(name="mistakes", title="Most confident mistakes", alt=alt, draw=draw, note=note)


def grad_cam_maps(analysis: Analysis) -> FigureSpec:
    """Return the same images with Grad-CAM maps for the predicted class and for the true class."""
    columns, between = 2, 20
    size = (72 * WIDTH - 2 * GAP - (columns - 1) * between) / columns / 3 - 2
    step = size + LINE_HEIGHT + GAP

    def draw() -> Figure:
        rows = -(-len(analysis.mistakes) // columns)
        top = GAP + 2 * LINE_HEIGHT + 4
        figure, axes = new_sheet(height=top + rows * step + GAP)
        _draw_color_scale(axes, GAP)
        shown = zip(analysis.mistakes, analysis.images, analysis.predicted_maps, analysis.truth_maps, strict=True)
        for number, (mistake, image, *maps) in enumerate(shown):
            left, y = GAP + number % columns * (3 * (size + 2) + between), top + number // columns * step
            names = ["image", *(analysis.class_names[label] for label in (mistake.predicted, mistake.truth))]
            images = [image, *(_overlay(image, heat) for heat in maps)]
            for column, (name, pixels) in enumerate(zip(names, images, strict=True)):
                x = left + column * (size + 2)
                place_image(axes, pixels, x, y, size, size)
                draw_text(axes, x + size / 2, y + size + 2, shorten(name, 11), size=8)
        return figure

    alt = (
        f"Three images for each of the {len(analysis.mistakes)} most confident mistakes: the image itself, and the "
        f"Grad-CAM maps of the predicted class and of the true class over it. {_describe_peaks(analysis)}"
    )
    note = (
        "Left to right: the image, the evidence for the predicted class, the evidence for the true class; each "
        "map has its own scale. Method: Selvaraju et al., Grad-CAM, ICCV 2017."
    )
    return FigureSpec(name="grad-cam", title="Grad-CAM of these mistakes", alt=alt, draw=draw, note=note)


def _draw_color_scale(axes: Axes, y: float) -> None:
    """Draw the colours of the maps from low to high."""
    ramp = (255 * colormaps["viridis"](np.linspace(0, 1, 128))[None, :, :3]).astype(np.uint8)
    width = 110
    left = 36 * WIDTH - width / 2
    place_image(axes, ramp, left, y + 1, width, 8)
    draw_text(axes, left - 6, y, "least evidence for the class", align="right", size=8)
    draw_text(axes, left + width + 6, y, "most evidence", align="left", size=8)


def _overlay(image: npt.NDArray[np.uint8], heat: Floats) -> npt.NDArray[np.uint8]:
    """Return the image in grey under the colours of a map [H, W] from 0 to 1, as uint8 [H, W, 3]."""
    grey = image.mean(axis=2, keepdims=True) / 255
    colors = colormaps["viridis"](heat)[:, :, :3]
    mixed: Floats = (1 - HEAT_FRACTION) * grey + HEAT_FRACTION * colors
    return np.rint(255 * mixed).astype(np.uint8)


def _describe(analysis: Analysis) -> str:
    names, more = analysis.class_names, len(analysis.mistakes) - MAX_DESCRIBED
    described = "; ".join(
        f"{names[mistake.truth]} predicted as {names[mistake.predicted]}, {_percent(mistake.confidence)}"
        for mistake in analysis.mistakes[:MAX_DESCRIBED]
    )
    return described + (f"; and {more} more" if more > 0 else "")


def _percent(fraction: float) -> str:
    """Return a percentage with one decimal; below 1 it is never rounded up to 100."""
    return f"{min(100 * fraction, 99.9) if fraction < 1 else 100:.1f} %"


def _describe_peaks(analysis: Analysis) -> str:
    """Return in how many of the images the two maps have their maximum at about the same place."""
    side = max(analysis.images.shape[1:3])
    near = 0
    for predicted, truth in zip(analysis.predicted_maps, analysis.truth_maps, strict=True):
        peaks = [np.array(np.unravel_index(heat.argmax(), heat.shape)) for heat in (predicted, truth)]
        near += bool(predicted.any() and truth.any() and np.abs(peaks[0] - peaks[1]).max() < side / 4)
    return f"In {near} of them both maps have their maximum at about the same place."
