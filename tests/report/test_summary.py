from __future__ import annotations

import io
from pathlib import Path
from typing import Any

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


def _evaluation(recall: dict[str, float], images: dict[str, int], **more: Any) -> Evaluation:
    return Evaluation(
        checkpoint="run/last.pt", epoch=3, samples=1200, accuracy=0.625, balanced_accuracy=0.61, loss=1.5,
        calibration_error=0.0345, class_accuracy=recall, class_precision=dict.fromkeys(recall, 0.4),
        class_images=images, seconds=2.5, device="CPU", precision="float32", **{"top5_accuracy": None, **more},
    )  # fmt: skip


def _rows(text: str) -> list[list[str]]:
    cells = [[cell.strip() for cell in line.strip("│").split("│")] for line in text.splitlines() if "│" in line]
    return [row for row in cells if any(row)]


def test_an_evaluation_has_a_row_per_class_and_the_overall_figures() -> None:
    console, file = _console()
    recall = {"[/b]cat": 0.5, "dog": float("nan"), "frog": 0.75}
    show_evaluation(_evaluation(recall, {"[/b]cat": 600, "dog": 0, "frog": 600}), console)
    text = file.getvalue()
    assert _rows(text) == [["[/b]cat", "600", "50.00 %", "40.00 %"], ["frog", "600", "75.00 %", "40.00 %"]]
    assert "Left out, without test images: dog" in text
    facts = dict(line.split("  ", 1) for line in text.splitlines() if line[:1].islower() and "  " in line)
    assert {name: value.strip() for name, value in facts.items()} == {
        "accuracy": "62.50 %", "balanced accuracy": "61.00 %", "expected calibration error": "3.45 %",
        "test loss": "1.5000", "images": "1,200 in 2.5 s",
    }  # fmt: skip


def test_of_many_classes_those_with_the_lowest_recall_are_shown() -> None:
    console, file = _console()
    recall = {f"class {label}": 1 - label / 100 for label in range(100)}
    show_evaluation(_evaluation(recall, dict.fromkeys(recall, 10), top5_accuracy=0.875), console)
    names = [row[0] for row in _rows(file.getvalue())]
    assert names == [f"class {label}" for label in range(99, 79, -1)]
    assert "The 20 of 100 classes with the lowest recall; --json has all." in file.getvalue()
    assert "top-5 accuracy              87.50 %" in file.getvalue()


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
