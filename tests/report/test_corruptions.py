from __future__ import annotations

import io
from pathlib import Path

import numpy as np
from PIL import Image

from fastcifar.report.corruptions import corruption_errors
from tests.report.pages import Page, example_errors


def test_the_figure_describes_itself_in_numbers() -> None:
    figure = corruption_errors(example_errors())
    assert "gaussian noise 3.0, shot noise 8.0" in figure.alt
    assert "JPEG compression 73.0" in figure.alt
    assert "Mean corruption error: 38.00." in figure.alt
    assert "Without corruption: 6.25." in figure.alt
    pixels = np.asarray(Image.open(io.BytesIO(figure.png("light"))))
    assert pixels.std() > 20


def test_the_page_of_a_run_shows_its_saved_errors(report: Path) -> None:
    page = Page(report.read_text())
    assert "Error on corrupted images, made here" in page.text
    assert "Mean corruption error: 38.00." in page.text
    assert (report.parent / "corruptions.png").exists()
