"""Kaggle's form of CIFAR-10: the pictures train/1.png, train/2.png, … and trainLabels.csv."""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np

from fastcifar.data.images import ImageSet, Source
from fastcifar.data.picture_arrays import stack_pictures
from fastcifar.data.reading import ReadOptions
from fastcifar.errors import DataError

LABELS_FILE = "trainLabels.csv"


def read_kaggle(folder: Path, options: ReadOptions) -> Source:
    """Read the pictures that trainLabels.csv names, with the classes in alphabetical order, which is CIFAR-10's.

    Kaggle's test pictures have no labels, so a part of the training images becomes the test split.

    Raises:
        DataError: a file is missing or damaged.
    """
    labels = _read_labels(folder / LABELS_FILE)
    pictures = folder / "train"
    if (pictures / "train").is_dir():  # unpacked twice into folders of the same name
        pictures /= "train"
    if not pictures.is_dir():
        raise DataError(f"{folder}: is Kaggle's CIFAR-10 without the folder train; unpack train.7z or train.zip there")
    files = [pictures / f"{number}.png" for number in labels]
    if missing := [file.name for file in files if not file.is_file()]:
        raise DataError(
            f"{pictures}: has no {missing[0]}, which {LABELS_FILE} names ({len(missing):,} of {len(files):,} pictures "
            "are missing); unpack train.7z or train.zip again"
        )
    names = tuple(sorted(set(labels.values())))
    numbers = np.array([names.index(label) for label in labels.values()], dtype=np.int64)
    train = ImageSet(
        stack_pictures(files, options.resize, options.workers, options.on_progress),
        numbers,
    )
    return options.make_source(train, None, class_names=names, name="kaggle")


def _read_labels(file: Path) -> dict[str, str]:
    """Read the class of each picture, by the name of its file without the suffix."""
    try:
        with file.open(newline="", encoding="utf-8-sig") as text:
            rows = [(row["id"].strip(), row["label"].strip()) for row in csv.DictReader(text)]
    except (OSError, KeyError, AttributeError, UnicodeDecodeError, csv.Error) as error:
        raise DataError(f"{file}: cannot be read as a table with the columns id and label ({error!r})") from error
    labels = dict(rows)
    if len(labels) < len(rows):
        raise DataError(f"{file}: has an id twice; download it again")
    if len(set(labels.values())) < 2 or not all("/" not in number and number for number in labels):
        raise DataError(f"{file}: must have ids of pictures and at least two classes; download it again")
    return labels
