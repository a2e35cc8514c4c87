from __future__ import annotations

import dataclasses
import io
import itertools

import numpy as np
import pytest
from PIL import Image

from fastcifar.report import figures
from fastcifar.report.style import use_theme
from tests.report.pages import noise_analysis


@pytest.mark.parametrize("classes", [2, 10, 40])
def test_figures_take_any_number_of_classes_and_one_without_images(classes: int) -> None:
    analysis = noise_analysis(classes)
    bars = figures.class_bars(analysis)
    assert "class 1 no images" in bars.alt
    for figure in (bars, figures.confusion_matrix(analysis)):
        light, dark = (
            np.asarray(Image.open(io.BytesIO(figure.png(theme))).convert("RGB")) for theme in ("light", "dark")
        )
        assert (light[0, 0] == 255).all()
        assert dark[0, 0].max() < 64


def test_the_confusion_matrix_names_the_most_common_confusion() -> None:
    confusion = np.array([[90, 7, 3], [1, 99, 0], [12, 0, 88]])
    alt = figures.confusion_matrix(dataclasses.replace(noise_analysis(3), confusion=confusion)).alt
    assert "class 2 predicted as class 0, 12 times" in alt
    assert "277 lie on the diagonal" in alt


@pytest.mark.parametrize("classes", [10, 37, 100, 1000])
def test_labels_of_the_confusion_matrix_do_not_overlap(classes: int) -> None:
    analysis = noise_analysis(classes)
    with use_theme("light"):
        figure = figures.confusion_matrix(analysis).draw()
        figure.draw_without_rendering()
        labels = [label.get_window_extent() for label in figure.axes[0].get_yticklabels()]
    assert len(labels) == len({box.y0 for box in labels})
    for upper, lower in itertools.pairwise(labels):
        assert lower.y1 <= upper.y0 + 1


def test_of_many_classes_the_chart_shows_those_with_the_lowest_accuracy() -> None:
    confusion = np.diag(np.arange(1, 401))
    confusion[:, 0] += 10  # class 0 is always right, and the others more often, the larger their label
    confusion[7] = 0
    bars = figures.class_bars(dataclasses.replace(noise_analysis(400), confusion=confusion))
    assert "the 50 of 400 classes with the lowest accuracy" in bars.alt
    assert "class 1 16.7, class 2 23.1" in bars.alt
    assert bars.alt.count("class ") == 50
    assert "class 7 " not in bars.alt
    with use_theme("light"):
        assert bars.draw().get_figheight() < 10


def test_cells_of_a_large_confusion_matrix_are_the_shares_of_neighboring_classes() -> None:
    confusion = np.diag([1] * 499 + [3])
    confusion[0, 499] = 1
    spec = figures.confusion_matrix(dataclasses.replace(noise_analysis(500), confusion=confusion))
    assert "2 × 2 classes" in spec.note
    with use_theme("light"):
        cells = spec.draw().axes[0].images[0].get_array()
    assert cells.shape == (250, 250)
    assert cells[0, 0] == pytest.approx(2 / 3)
    assert cells[0, 249] == pytest.approx(1 / 3)
    assert (cells.diagonal()[1:] == 1).all()
