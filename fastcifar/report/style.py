"""How the figures look: colours, text, and a canvas that no other figure shares."""

from __future__ import annotations

import functools
import io
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.font_manager import FontProperties, findfont
from matplotlib.ft2font import FT2Font

WIDTH = 5.0
"""Inches: half a laptop's page or a whole phone's, at a size of text that suits both."""
DPI = 200
FONT_SIZE = 9.5
"""Points."""
DASHES = ("-", "--", ":", "-.")
"""Beside the colours: for print, and for more lines than there are colours."""


@dataclass(frozen=True, kw_only=True)
class Theme:
    """The colours of a figure."""

    paper: str
    ink: str
    faint: str
    """Grid lines and frames."""
    lines: tuple[str, ...]
    """Of curves and bars, told apart with any colour vision. Source: Okabe and Ito, *Color Universal Design*, 2008."""


LIGHT = Theme(
    paper="#ffffff",
    ink="#1d2129",
    faint="#cfd4dc",
    lines=("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9"),
)
DARK = Theme(
    paper="#1b1f27",
    ink="#e4e7ec",
    faint="#454c59",
    lines=("#56B4E9", "#E69F00", "#009E73", "#CC79A7", "#F0E442", "#D55E00"),
)


@dataclass(frozen=True, kw_only=True)
class FigureSpec:
    """A figure that can be drawn for light and for dark pages, and what it shows in words."""

    name: str
    """Of its file, without an extension."""
    title: str
    alt: str
    """What it shows, with its key numbers, for those who cannot see it."""
    draw: Callable[[Theme], Figure]
    note: str = ""
    """What a reader has to know beside it."""

    def png(self, theme: Theme) -> bytes:
        """Draw it."""
        buffer = io.BytesIO()
        FigureCanvasAgg(figure := self.draw(theme))
        figure.savefig(buffer, format="png", dpi=DPI, facecolor=theme.paper)
        return buffer.getvalue()


def new_axes(theme: Theme, *, height: float, width: float = WIDTH) -> tuple[Figure, Axes]:
    """A figure of so many inches with one frame for curves or bars."""
    figure = Figure(figsize=(width, height), layout="constrained")
    axes = figure.add_subplot()
    axes.set_facecolor(theme.paper)
    axes.grid(color=theme.faint, linewidth=0.6, alpha=0.7)
    axes.set_axisbelow(True)
    axes.tick_params(colors=theme.ink, labelsize=FONT_SIZE, length=3)
    for side, spine in axes.spines.items():
        spine.set_color(theme.faint)
        spine.set_visible(side in ("left", "bottom"))
    return figure, axes


def name_axes(axes: Axes, theme: Theme, x: str, y: str) -> None:
    """Write what the axes show, with the unit."""
    axes.set_xlabel(x, color=theme.ink, fontsize=FONT_SIZE)
    axes.set_ylabel(y, color=theme.ink, fontsize=FONT_SIZE)


def add_legend(figure: Figure, axes: Axes, theme: Theme, *, columns: int) -> None:
    """Above the frame, where it covers no data."""
    handles, labels = axes.get_legend_handles_labels()
    legend = figure.legend(
        handles, labels, loc="outside upper left", ncols=columns, frameon=False, fontsize=FONT_SIZE, handlelength=2.2
    )
    for text in legend.get_texts():
        text.set_color(theme.ink)
        text.set_parse_math(False)


def new_sheet(theme: Theme, *, height: float) -> tuple[Figure, Axes]:
    """An empty sheet to lay pictures and text on; its coordinates are points from the upper left corner."""
    figure = Figure(figsize=(WIDTH, height / 72))
    axes = figure.add_axes((0, 0, 1, 1))
    axes.set_xlim(0, 72 * WIDTH)
    axes.set_ylim(height, 0)
    axes.axis("off")
    return figure, axes


def write(axes: Axes, theme: Theme, x: float, y: float, text: str, *, size: float = 8.5, align: str = "center") -> None:
    """Put one line of text on a sheet, its top at `y`."""
    axes.text(x, y, text, color=theme.ink, fontsize=size, ha=align, va="top", parse_math=False)


def renderable(text: str, longest: int = 14) -> str:
    """A name cut to `longest` characters, those that the font lacks as boxes."""
    known = _known_characters()
    shown = "".join(character if ord(character) in known else "□" for character in text)
    return shown if len(shown) <= longest else shown[: longest - 1] + "…"


@functools.cache
def _known_characters() -> frozenset[int]:
    path = Path(findfont(FontProperties(family="DejaVu Sans")))
    return frozenset(code for code in FT2Font(str(path)).get_charmap() if code >= ord(" "))
