"""The figures that are made of a run's images: what augmentation does, and what the network gets wrong."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from fastcifar.analysis.mistakes import Analysis, AugmentedSamples, Mistake
from fastcifar.report.style import WIDTH, FigureSpec, Theme, new_sheet, renderable, write

GAP = 8
"""Points between tiles, and around the sheet."""
LINE = 11.5
"""Points from one line of a caption to the next."""
DESCRIBED = 20
"""Up to so many mistakes are told in words."""
HEAT_SHARE = 0.6
"""Of the heat in an image with a Grad-CAM map on it; the rest is the image in grey."""

Floats = npt.NDArray[np.floating]


def augmented_samples(samples: AugmentedSamples) -> FigureSpec:
    """Training images, each beside what the augmentation made of it."""
    count, variants = samples.variants.shape[:2]
    label = 66
    tile = (72 * WIDTH - label - 2 * GAP) / (variants + 1) - 4

    def draw(theme: Theme) -> Figure:
        top = GAP + LINE + 4
        figure, axes = new_sheet(theme, height=top + count * (tile + 4) + GAP)
        columns = [label + GAP + column * (tile + 4) + (6 if column else 0) for column in range(variants + 1)]
        write(axes, theme, columns[0] + tile / 2, GAP, "original")
        write(axes, theme, (columns[1] + columns[-1] + tile) / 2, GAP, "augmented")
        for row, name in enumerate(samples.names):
            y = top + row * (tile + 4)
            write(axes, theme, label, y + tile / 2 - 5, renderable(name, 13), align="right")
            for x, image in zip(columns, (samples.originals[row], *samples.variants[row]), strict=True):
                _place_image(axes, image, x, y, tile)
        return figure

    return FigureSpec(
        name="augmented",
        title="Augmented samples",
        alt=f"{count} training images ({', '.join(samples.names)}), each beside {variants} random results of the run's "
        "augmentation, as the network is trained on them.",
        draw=draw,
    )


def mistakes(analysis: Analysis) -> FigureSpec:
    """The most confidently misclassified images, with truth, prediction and confidence."""
    columns = 4
    tile = (72 * WIDTH - (columns + 1) * GAP) / columns
    step = tile + 3 * LINE + 2 * GAP

    def draw(theme: Theme) -> Figure:
        rows = -(-len(analysis.mistakes) // columns)
        figure, axes = new_sheet(theme, height=rows * step + GAP)
        for number, (mistake, image) in enumerate(zip(analysis.mistakes, analysis.images, strict=True)):
            x, y = GAP + number % columns * (tile + GAP), GAP + number // columns * step
            _place_image(axes, image, x, y, tile)
            truth, said = (analysis.class_names[label] for label in (mistake.truth, mistake.predicted))
            lines = (f"truth: {renderable(truth, 12)}", f"says: {renderable(said, 12)}", _percent(mistake.confidence))
            for line, text in enumerate(lines):
                write(axes, theme, x + tile / 2, y + tile + 3 + line * LINE, text)
        return figure

    return FigureSpec(
        name="mistakes",
        title="Most confident mistakes",
        alt=f"The {len(analysis.mistakes)} test images that are misclassified with the highest confidence: "
        f"{_describe(analysis)}.",
        draw=draw,
        note="Confidence is the softmax probability of the predicted class.",
    )


def grad_cam_maps(analysis: Analysis) -> FigureSpec:
    """The same images with the places that speak for the predicted and for the true class."""
    columns, between = 2, 20
    tile = (72 * WIDTH - 2 * GAP - (columns - 1) * between) / columns / 3 - 2
    step = tile + LINE + GAP

    def draw(theme: Theme) -> Figure:
        rows = -(-len(analysis.mistakes) // columns)
        head = GAP + 2 * LINE + 4
        figure, axes = new_sheet(theme, height=head + rows * step + GAP)
        _scale(axes, theme, GAP)
        shown = zip(analysis.mistakes, analysis.images, analysis.predicted_maps, analysis.truth_maps, strict=True)
        for number, (mistake, image, *maps) in enumerate(shown):
            x = GAP + number % columns * (3 * (tile + 2) + between)
            y = head + number // columns * step
            names = ["image", *(analysis.class_names[label] for label in (mistake.predicted, mistake.truth))]
            tiles = [image, *(_heated(image, heat) for heat in maps)]
            for place, (name, pixels) in enumerate(zip(names, tiles, strict=True)):
                _place_image(axes, pixels, x + place * (tile + 2), y, tile)
                write(axes, theme, x + place * (tile + 2) + tile / 2, y + tile + 2, renderable(name, 11), size=8)
        return figure

    return FigureSpec(
        name="grad-cam",
        title="Grad-CAM of these mistakes",
        alt=f"Three pictures for each of the {len(analysis.mistakes)} most confident mistakes: the image, and Grad-CAM "
        "maps over it of what speaks for the predicted class and what speaks for the true one. "
        f"{_heat_centres(analysis)}",
        draw=draw,
        note="Left to right: the image, what speaks for the predicted class, what speaks for the true one; each map "
        "has its own scale. Method: Selvaraju et al., Grad-CAM, ICCV 2017.",
    )


def _place_image(axes: Axes, image: npt.NDArray[np.uint8], x: float, y: float, size: float) -> None:
    extent = (x, x + size, y + size, y)
    axes.imshow(image, extent=extent, interpolation="nearest", aspect="auto", zorder=2)
    width, height = 72 * WIDTH, axes.figure.get_figheight() * 72  # type: ignore[union-attr]  # no subfigure here
    axes.set(xlim=(0, width), ylim=(height, 0))  # an image would take the axes for itself


def _scale(axes: Axes, theme: Theme, y: float) -> None:
    """The colours of the heat from low to high."""
    ramp = (255 * colormaps["viridis"](np.linspace(0, 1, 128))[None, :, :3]).astype(np.uint8)
    middle, width = 36 * WIDTH, 110
    height = axes.figure.get_figheight() * 72  # type: ignore[union-attr]
    axes.imshow(
        ramp, extent=(middle - width / 2, middle + width / 2, y + 9, y + 1), interpolation="nearest", aspect="auto"
    )
    axes.set(xlim=(0, 72 * WIDTH), ylim=(height, 0))
    write(axes, theme, middle - width / 2 - 6, y, "speaks least for the class", align="right", size=8)
    write(axes, theme, middle + width / 2 + 6, y, "speaks most for it", align="left", size=8)


def _heated(image: npt.NDArray[np.uint8], heat: Floats) -> npt.NDArray[np.uint8]:
    """uint8 [H, W, 3]: the image in grey under the colours of a map [H, W] from 0 to 1."""
    grey = image.mean(axis=2, keepdims=True) / 255
    colors = colormaps["viridis"](heat)[:, :, :3]
    mixed: Floats = (1 - HEAT_SHARE) * grey + HEAT_SHARE * colors
    return np.rint(255 * mixed).astype(np.uint8)


def _describe(analysis: Analysis) -> str:
    more = len(analysis.mistakes) - DESCRIBED
    words = "; ".join(_in_words(analysis.class_names, mistake) for mistake in analysis.mistakes[:DESCRIBED])
    return words + (f"; and {more} more" if more > 0 else "")


def _in_words(names: Sequence[str], mistake: Mistake) -> str:
    return f"{names[mistake.truth]} taken for {names[mistake.predicted]}, {_percent(mistake.confidence)}"


def _percent(share: float) -> str:
    """One digit behind the point; never 100 for what is less."""
    return f"{min(100 * share, 99.9) if share < 1 else 100:.1f} %"


def _heat_centres(analysis: Analysis) -> str:
    """In how many of the images the two maps are highest at about the same place."""
    side = max(analysis.images.shape[1:3])
    near = 0
    for said, truth in zip(analysis.predicted_maps, analysis.truth_maps, strict=True):
        places = [np.array(np.unravel_index(heat.argmax(), heat.shape)) for heat in (said, truth)]
        near += bool(said.any() and truth.any() and np.abs(places[0] - places[1]).max() < side / 4)
    return f"In {near} of them both maps are highest at about the same place."
