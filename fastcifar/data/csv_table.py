"""A table of pictures and their labels: a .csv file with a row per picture, which may lie anywhere."""

from __future__ import annotations

import csv
import dataclasses
import unicodedata
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from fastcifar.data.images import ImageSet, Source
from fastcifar.data.picture_arrays import stack_pictures
from fastcifar.data.pictures import readable_path
from fastcifar.data.reading import ReadOptions
from fastcifar.errors import DataError

PATH_COLUMNS = ("path", "file", "filename", "file_name", "filepath", "image", "image_path")
LABEL_COLUMNS = ("label", "class", "target", "category")
SPLIT_COLUMNS = ("split", "set", "subset")
SPLITS = {"train": "train", "training": "train", "test": "test", "testing": "test"} | dict.fromkeys(
    ("val", "valid", "validation", "dev"), "validation"
)
SUFFIXES = (".csv", ".tsv")
COLUMN_NAMES = (PATH_COLUMNS, LABEL_COLUMNS, SPLIT_COLUMNS)
DELIMITERS = ",;\t"
COLUMNS = f"a column for the pictures ({', '.join(PATH_COLUMNS)}) and one for the labels ({', '.join(LABEL_COLUMNS)})"


class _Row(NamedTuple):
    """A row of the table, with its number in the file: the header is row 1."""

    number: int
    picture: Path
    label: str
    split: str


def is_table(file: Path) -> bool:
    """Tell whether a .csv file has a column for pictures and one for labels."""
    try:
        with file.open(encoding="utf-8-sig", newline="") as lines:
            return _columns(lines.readline())[1] is not None
    except (OSError, UnicodeDecodeError):
        return False


def read_table(file: Path, options: ReadOptions) -> Source:
    """Read the pictures that a table names, in its order; paths are relative to its folder, or absolute.

    Labels are names, or whole numbers, which are sorted as numbers. A column `split` tells which rows are for training
    and which for the test. Validation rows are passed over; where no row is for the test, they are the test split.

    Raises:
        DataError: the table or a picture is missing or damaged, or two pictures have different sizes.
        ConfigError: `test_fraction` is given although there is a test split.
    """
    rows = _read_rows(file)
    kept, note = _without_validation(rows)
    train = [row for row in kept if row.split == "train"]
    test = [row for row in kept if row.split == "test"]
    names = _class_names(row.label for row in kept)
    if not train or len(names) < 2:
        raise DataError(
            f"{file}: has {len(train)} training rows and {len(names)} classes; it must have at least 2 classes"
        )
    if missing := [row for row in kept if not row.picture.is_file()]:
        raise DataError(
            f"{file}, row {missing[0].number}: there is no picture {readable_path(missing[0].picture)} "
            f"({len(missing):,} of {len(kept):,} pictures are missing); paths are relative to the folder of the table"
        )
    files = [row.picture for row in (*train, *test)]
    images = stack_pictures(files, options.resize, options.workers, options.on_progress)
    labels = np.array([names.index(row.label) for row in (*train, *test)], dtype=np.int64)
    count = len(train)
    source = options.make_source(
        ImageSet(images[:count], labels[:count]),
        ImageSet(images[count:], labels[count:]) if test else None,
        class_names=names,
        name="csv",
    )
    return dataclasses.replace(source, notes=(*note, *source.notes))


def _read_rows(file: Path) -> list[_Row]:
    try:
        with file.open(encoding="utf-8-sig", newline="") as lines:
            delimiter, columns = _columns(lines.readline())
            lines.seek(0)
            reader = csv.reader(lines, delimiter=delimiter)
            next(reader, None)
            cells = [(reader.line_num, row) for row in reader if any(cell.strip() for cell in row)]
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise DataError(f"{file}: cannot be read as a table in UTF-8 ({error}); save it again as CSV") from error
    if columns is None:
        raise DataError(f"{file}: the first line must name {COLUMNS}, separated by commas, semicolons or tabs")
    return [_parse_row(file, number, row, *columns) for number, row in cells]


def _columns(header: str) -> tuple[str, tuple[int, int, int | None] | None]:
    """Return the delimiter, and the positions of the picture, the label and the split; no positions without these."""
    for delimiter in DELIMITERS:
        names = [name.strip().lower() for name in next(csv.reader([header], delimiter=delimiter), [])]
        found = [next((names.index(name) for name in known if name in names), None) for known in COLUMN_NAMES]
        if found[0] is not None and found[1] is not None:
            return delimiter, (found[0], found[1], found[2])
    return ",", None


def _parse_row(file: Path, number: int, row: Sequence[str], picture: int, label: int, split: int | None) -> _Row:
    if len(row) <= max(picture, label, split or 0):
        raise DataError(f"{file}, row {number}: has {len(row)} columns, fewer than the first line; complete the row")
    path, name = row[picture].strip(), unicodedata.normalize("NFC", row[label].strip())
    part = "train" if split is None else SPLITS.get(row[split].strip().lower())
    if not path or not name:
        raise DataError(f"{file}, row {number}: has no {'label' if path else 'picture'}; complete or remove the row")
    if part is None:
        known = ", ".join(SPLITS)
        raise DataError(f"{file}, row {number}: the split is {row[split or 0].strip()!r}; it must be one of {known}")
    return _Row(number, file.parent / path.replace("\\", "/"), name, part)


def _without_validation(rows: list[_Row]) -> tuple[list[_Row], tuple[str, ...]]:
    """Return the rows for training and the test, and a note if there are validation rows."""
    validation = [row for row in rows if row.split == "validation"]
    if not validation:
        return rows, ()
    if any(row.split == "test" for row in rows):
        kept = [row for row in rows if row.split != "validation"]
        return kept, (f"{len(validation):,} validation rows passed over; train --val-fraction holds out another part",)
    kept = [row._replace(split="test") if row.split == "validation" else row for row in rows]
    return kept, (f"no row is for the test: the {len(validation):,} validation rows become test.beton",)


def _class_names(labels: Iterable[str]) -> tuple[str, ...]:
    """Return the labels in order: whole numbers by their values, otherwise by their letters."""
    names = set(labels)
    if all(name.isascii() and name.removeprefix("-").isdigit() for name in names):
        return tuple(sorted(names, key=int))
    return tuple(sorted(names))
