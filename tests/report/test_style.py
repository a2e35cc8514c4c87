from __future__ import annotations

import io
import logging

import matplotlib
import numpy as np
import pytest
from matplotlib.figure import Figure
from PIL import Image

from fastcifar.report.style import FigureSpec, add_legend, draw_text, new_axes, new_sheet, shorten

ODD_NAMES = ("$x_1$", "$", "猫", "שלום", "नमस्ते", "😀", "\x01", "tab\there", "caf\udce9")


def _pixels(figure: FigureSpec, theme: str) -> np.ndarray:
    with Image.open(io.BytesIO(figure.png(theme))) as image:  # type: ignore[arg-type]
        return np.asarray(image.convert("RGB"))


@pytest.mark.parametrize("name", ODD_NAMES)
def test_any_name_is_drawn_without_a_warning(name: str, caplog: pytest.LogCaptureFixture) -> None:
    def draw() -> Figure:
        figure, axes = new_sheet(height=40)
        draw_text(axes, 100, 10, shorten(name))
        return figure

    with caplog.at_level(logging.WARNING, logger="matplotlib"):
        light, dark = (_pixels(FigureSpec(name="name", title="", alt="", draw=draw), t) for t in ("light", "dark"))
    assert not caplog.records
    assert light.min() < 64, "something is drawn in the foreground colour"
    assert dark.max() > 192


def test_names_are_not_drawn_as_mathematics() -> None:
    def draw_with(label: str) -> FigureSpec:
        def draw() -> Figure:
            figure, axes = new_axes(height=2, x_label="x", y_label="y")
            axes.plot([0, 1], [0, 1], label=label)
            axes.set_xticks([0, 1], [label, label])
            add_legend(figure, axes, columns=1)
            return figure

        return FigureSpec(name="name", title="", alt="", draw=draw)

    assert not np.array_equal(_pixels(draw_with("$x$"), "light"), _pixels(draw_with("x"), "light"))
    _pixels(draw_with(r"$\nothing$"), "light")


def test_a_figure_does_not_depend_on_the_users_settings_and_leaves_them_alone() -> None:
    def draw() -> Figure:
        return new_axes(height=2, x_label="x", y_label="y")[0]

    spec = FigureSpec(name="name", title="", alt="", draw=draw)
    expected = _pixels(spec, "light")
    with matplotlib.rc_context({"font.size": 30, "axes.facecolor": "red"}):
        before = dict(matplotlib.rcParams)
        assert np.array_equal(_pixels(spec, "light"), expected)
        assert dict(matplotlib.rcParams) == before


def test_names_are_cut_to_one_line_of_limited_length() -> None:
    assert shorten("automobile") == "automobile"
    assert shorten("a very long name of a class") == "a very … class"
    assert shorten("猫x\ny") == "猫x y"
    assert shorten("caf\udce9") == "caf?"
