"""The look of the figures: the light and dark style sheets, axes with labels and a legend, and sheets for images."""

from __future__ import annotations

import io
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import numpy.typing as npt
from matplotlib import style
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colorbar import Colorbar
from matplotlib.figure import Figure

from fastcifar.report.fonts import use_installed_fonts

WIDTH = 5.0
"""Width of a figure in inches: half a laptop's page or a whole phone's, at a font size that suits both."""
STYLES = Path(__file__).parent / "styles"

Theme = Literal["light", "dark"]


@dataclass(frozen=True, kw_only=True)
class FigureSpec:
    """A figure that is drawn once for light pages and once for dark ones, and its description."""

    name: str
    """Name of its file, without the extension."""
    title: str
    alt: str
    """Description with the key numbers, for readers who cannot see the figure."""
    draw: Callable[[], Figure]
    """Draws the figure with the current style; call it inside `use_theme`."""
    note: str = ""
    """Caption below the figure."""

    def png(self, theme: Theme) -> bytes:
        """Draw the figure as a PNG."""
        buffer = io.BytesIO()
        with use_theme(theme):
            figure = self.draw()
            figure.draw_without_rendering()  # tick labels can change in the first layout: the second one fits them
            use_installed_fonts(figure)
            figure.savefig(buffer, format="png")
        return buffer.getvalue()


@contextmanager
def use_theme(theme: Theme) -> Iterator[None]:
    """Draw with a style sheet of `styles/`, whatever the user's matplotlibrc says, and without warnings of glyphs.

    A character that none of the installed fonts has is drawn as a box.
    """
    sheets = [STYLES / "common.mplstyle", STYLES / f"{theme}.mplstyle"]
    with style.context(sheets, after_reset=True), warnings.catch_warnings():
        warnings.filterwarnings("ignore", r"Glyph \d+ .* missing from|Matplotlib currently does not support")
        yield


def new_axes(*, height: float, x_label: str, y_label: str) -> tuple[Figure, Axes]:
    """Return a figure of this height in inches with one frame for curves or bars."""
    figure = Figure(figsize=(WIDTH, height), layout="constrained")
    return figure, figure.add_subplot(xlabel=x_label, ylabel=y_label)


def add_legend(figure: Figure, axes: Axes, *, columns: int) -> None:
    """Add a legend above the frame, where it covers no data."""
    figure.legend(*axes.get_legend_handles_labels(), loc="outside upper left", ncols=columns)


def add_color_bar(figure: Figure, axes: Axes, colors: ScalarMappable, label: str) -> Colorbar:
    """Add the scale of the colors above the frame."""
    bar = figure.colorbar(colors, ax=axes, location="top", aspect=40, pad=0.02)
    bar.ax.tick_params(labelsize=8, length=2)
    bar.set_label(label, fontsize=8)
    bar.outline.set_visible(False)
    return bar


def new_sheet(*, height: float) -> tuple[Figure, Axes]:
    """Return an empty sheet for images and text; its coordinates are points from the upper left corner."""
    figure = Figure(figsize=(WIDTH, height / 72))
    axes = figure.add_axes((0, 0, 1, 1), xlim=(0, 72 * WIDTH), ylim=(height, 0))
    axes.axis("off")
    return figure, axes


def place_image(axes: Axes, image: npt.NDArray[np.uint8], x: float, y: float, width: float, height: float) -> None:
    """Put an image, uint8 [H, W, 3], on a sheet, its upper left corner at (x, y)."""
    axes.imshow(image, extent=(x, x + width, y + height, y), interpolation="nearest", aspect="auto", zorder=2)


def draw_text(axes: Axes, x: float, y: float, text: str, *, size: float = 8.5, align: str = "center") -> None:
    """Put one line of text on a sheet, its top at `y`."""
    axes.text(x, y, text, fontsize=size, ha=align, va="top")


def shorten(name: str, longest: int = 14) -> str:
    """Return a name as one line of at most `longest` characters: its beginning and its end, which often differs."""
    line = " ".join(name.encode(errors="replace").decode().split())
    end = (longest - 1) // 2
    return line if len(line) <= longest else f"{line[: longest - 1 - end]}…{line[-end:]}"
