"""Data of other sizes, classes and channels go from files to a report; only their path is given."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from fastcifar.cli import main
from fastcifar.data.manifest import Manifest, read_manifest
from tests.data.cifar_files import write_cifar100_python


def _picture_folder(folder: Path) -> Path:
    """64 × 64 pictures of 37 classes, in a folder per class."""
    generator = np.random.default_rng(0)
    for split, per_class in (("train", 2), ("test", 1)):
        for label in range(37):
            classes = folder / split / f"a long name of class {label:02}"
            classes.mkdir(parents=True)
            for number in range(per_class):
                pixels = generator.integers(0, 256, (64, 64, 3), dtype=np.uint8)
                Image.fromarray(pixels).save(classes / f"{number}.png")
    return folder


def _grey_pictures(folder: Path) -> Path:
    """28 × 28 pictures of one channel, as Keras has them."""
    generator = np.random.default_rng(0)
    pixels, labels = generator.integers(0, 256, (60, 28, 28), dtype=np.uint8), np.arange(60) % 3
    folder.mkdir()
    np.savez(folder / "grey.npz", x_train=pixels, y_train=labels, x_test=pixels[:9], y_test=labels[:9])
    return folder / "grey.npz"


@pytest.mark.parametrize(
    ("write", "side", "classes", "recipe"),
    [
        (_picture_folder, 64, 37, "speedrun"),
        (write_cifar100_python, 32, 100, "speedrun"),
        (_grey_pictures, 28, 3, "speedrun"),
        pytest.param(_picture_folder, 64, 37, "era", marks=pytest.mark.slow),
        pytest.param(_grey_pictures, 28, 3, "era", marks=pytest.mark.slow),
    ],
)
def test_other_data_go_from_files_to_a_report(
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    write: Callable[[Path], Path],
    side: int,
    classes: int,
    recipe: str,
) -> None:
    source, data, run = write(tmp_path / "source"), str(tmp_path / "betons"), str(tmp_path / "run")
    quick = ["--recipe", recipe, "--epochs", "0.25", "--batch-size", "16", "--eval-batch-size", "16", "--device", "cpu"]
    assert main(["train", "--source", str(source), "--data-dir", data, "--run-dir", run, *quick]) == 0
    manifest = read_manifest(tmp_path / "betons" / "train.beton")
    assert manifest.image_shape == (side, side, 3)
    assert len(manifest.class_names) == classes
    assert main(["evaluate", run, "--device", "cpu"]) == 0
    assert main(["report", run, "--device", "cpu"]) == 0
    assert capsys.readouterr().err.count("rror") == 0
    _assert_reported(tmp_path / "run", manifest)


def _assert_reported(run: Path, manifest: Manifest) -> None:
    last = json.loads((run / "metrics.jsonl").read_text().splitlines()[-1])
    assert np.isfinite(last["train_loss"])
    assert 0 <= last["test_accuracy"] <= 1
    page = next(run.rglob("*.html")).read_text()
    for name in manifest.class_names:
        assert name in page
