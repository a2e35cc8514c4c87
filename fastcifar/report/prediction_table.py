"""Write predictions to a CSV file, one row per picture."""

from __future__ import annotations

import csv
from collections.abc import Iterable, Sequence
from pathlib import Path

from fastcifar.errors import ConfigError
from fastcifar.files import atomic_write
from fastcifar.inference.predict import PicturePrediction

SUBMISSION = ("id", "label")
"""The columns of a submission to Kaggle's CIFAR-10 competition."""
COLUMNS = ("path", "label", "confidence")
"""The columns for pictures of any other names."""


def check_table(path: Path) -> None:
    """Check that a table can be written to `path`, before the predictions are computed.

    Raises:
        ConfigError: the file has another suffix than .csv, or its folder does not exist.
    """
    if path.suffix != ".csv":
        raise ConfigError(f"out is {path}; predictions are written as .csv: give the file this suffix")
    if not path.parent.is_dir():
        raise ConfigError(f"out is {path}; there is no folder {path.parent}: make it first")


def sort_by_number(pictures: Sequence[Path]) -> list[Path] | None:
    """Return pictures in the order of their numbers, if all are called 1.png, 2.png, … in one folder; otherwise None.

    The numbers must differ, and have no leading zeros, so that each is the picture's id.
    """
    names = [picture.stem for picture in pictures]
    numbered = all(name.isascii() and name.isdecimal() and (name == "0" or name[0] != "0") for name in names)
    if not numbered or len(set(names)) < len(names) or len({picture.parent for picture in pictures}) > 1:
        return None
    return sorted(pictures, key=lambda picture: int(picture.stem))


def write_predictions(path: Path, predictions: Iterable[PicturePrediction], *, submission: bool) -> int:
    """Write the most likely class of each picture as soon as it comes, and return the number of rows.

    The file appears when all rows are there, and takes the place of an older one; an error leaves that one as it is.
    It is UTF-8, and bytes of paths that are not are escaped.

    Args:
        path: the file.
        predictions: the predictions, of which only one is in memory.
        submission: write `SUBMISSION`'s columns, with the number in the picture's name as id, instead of `COLUMNS`.
    """
    rows = 0
    with atomic_write(path) as temporary, temporary.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(SUBMISSION if submission else COLUMNS)
        for prediction in predictions:
            best = prediction.likely[0]
            row = (Path(prediction.image).stem, best.class_name)
            writer.writerow(row if submission else (prediction.image, best.class_name, f"{best.probability:.6f}"))
            rows += 1
    return rows
