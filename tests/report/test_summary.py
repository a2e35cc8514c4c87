from __future__ import annotations

import io
from pathlib import Path

import numpy as np
from PIL import Image
from rich.console import Console

from fastcifar.inference.evaluate import Evaluation
from fastcifar.inference.predict import LikelyClass, PicturePrediction
from fastcifar.report.summary import GAP, PER_CLASS, SCALE, draw_samples, show_beton, show_evaluation, show_predictions
from tests.report.pages import NAMES


def _console() -> tuple[Console, io.StringIO]:
    file = io.StringIO()
    return Console(file=file, width=100), file


def test_an_evaluation_has_a_row_per_class_and_one_for_all() -> None:
    console, file = _console()
    accuracies = {"[/b]cat": 0.5, "dog": float("nan"), "frog": 0.75}
    evaluation = Evaluation(
        checkpoint="run/last.pt", epoch=3, samples=1200, accuracy=0.625, loss=1.5, class_accuracy=accuracies,
        seconds=2.5, device="CPU", precision="float32",
    )  # fmt: skip
    show_evaluation(evaluation, console)
    rows = [line.strip("│ ").split() for line in file.getvalue().splitlines() if "│" in line]
    assert [row for row in rows if row] == [
        ["[/b]cat", "│", "50.00", "%"], ["dog", "│", "–"], ["frog", "│", "75.00", "%"], ["all", "│", "62.50", "%"]
    ]  # fmt: skip
    assert "test loss 1.5000" in file.getvalue()
    assert "1,200 images in 2.5 s" in file.getvalue()


def test_predictions_show_names_that_look_like_markup_as_they_are() -> None:
    console, file = _console()
    likely = (LikelyClass(class_name="[red]cat", probability=0.9), LikelyClass(class_name="dog", probability=0.1))
    show_predictions([PicturePrediction(image="[bold]a.png", likely=likely)], console)
    for text in ("[red]cat", "[bold]a.png", "90.00 %", "10.00 %"):
        assert text in file.getvalue()


def test_a_beton_shows_the_number_of_images_per_class(run: Path) -> None:
    console, file = _console()
    show_beton(run.parent / "betons" / "test.beton", console)
    for text in ("90 images of 32 × 32 × 3", "synthetic & odd", *NAMES):
        assert text in file.getvalue()


def test_samples_have_one_row_per_class(run: Path, tmp_path: Path) -> None:
    draw_samples(run.parent / "betons" / "train.beton", tmp_path / "new" / "samples.png")
    with Image.open(tmp_path / "new" / "samples.png") as image:
        pixels = np.asarray(image)
    side = 32 * SCALE + GAP
    assert pixels.shape == (len(NAMES) * side + GAP, PER_CLASS * side + GAP, 3)
    assert (pixels[:GAP] == 255).all()
    assert (pixels[GAP:side, GAP:side] != 255).any()
