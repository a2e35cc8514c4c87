"""Hugging Face's form of image data sets: train-*.parquet and test-*.parquet, with encoded pictures and labels."""

from __future__ import annotations

import io
import json
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from fastcifar.data.arrays import as_labels
from fastcifar.data.images import ImageSet, Source
from fastcifar.data.picture_arrays import stack_pictures
from fastcifar.data.reading import ReadOptions, count_classes, default_class_names
from fastcifar.errors import DataError

FILE = re.compile(r"(train|test|validation|valid)(?:-(\d+)-of-(\d+).*)?\.parquet")
"""The name of a file: the split, and its number and the number of files if there are several."""
IMAGE_COLUMNS = ("image", "img")
LABEL_COLUMNS = {"fine": ("label", "fine_label"), "coarse": ("coarse_label",)}


def is_parquet(names: frozenset[str]) -> bool:
    """Tell whether files of these names include the training split."""
    return any((match := FILE.fullmatch(name)) and match[1] == "train" for name in names)


def read_parquet(folder: Path, options: ReadOptions) -> Source:
    """Read the parquet files of a folder, in the order of their rows, which for CIFAR-10 is that of the official files.

    The names of the classes come from Hugging Face's metadata. The test split is `test`, or else `validation`.

    Raises:
        DataError: pyarrow is not installed, a file is missing or damaged, or has no pictures or labels.
    """
    splits = _find_files(folder)
    test_name = next((name for name in ("test", "validation", "valid") if name in splits), None)
    train, names = _read_split(splits["train"], options)
    test = None if test_name is None else _read_split(splits[test_name], options)[0]
    if names is None:
        names = default_class_names(train, count_classes(train, test))
    return options.make_source(train, test, class_names=names, name="parquet")


def _find_files(folder: Path) -> dict[str, list[Path]]:
    """List the files of each split in order."""
    splits: dict[str, list[Path]] = {}
    for path in sorted(folder.glob("*.parquet")):
        if match := FILE.fullmatch(path.name):
            files = splits.setdefault(match[1], [])
            files.append(path)
            if match[2] and int(match[2]) != len(files) - 1:
                raise _incomplete(folder, match[1], len(files) - 1, int(match[3]))
    for split, files in splits.items():
        match = FILE.fullmatch(files[-1].name)
        if match and match[3] and int(match[3]) != len(files):
            raise _incomplete(folder, split, len(files), int(match[3]))
    return splits


def _incomplete(folder: Path, split: str, number: int, count: int) -> DataError:
    name = f"{split}-{number:05d}-of-{count:05d}.parquet"
    return DataError(f"{folder}: is a data set of Hugging Face without {name}; download it again")


def _read_split(files: list[Path], options: ReadOptions) -> tuple[ImageSet, tuple[str, ...] | None]:
    """Read the pictures and labels of a split's files, and the names of the classes if the files have them."""
    pictures: list[io.BytesIO] = []
    labels: list[Any] = []
    names = _read_class_names(files[0], options)
    for path in files:
        for encoded, label in _read_rows(path, options):
            picture = io.BytesIO(encoded)
            picture.name = f"{path}, row {len(pictures)}"  # for errors
            pictures.append(picture)
            labels.append(label)
    if not pictures:
        raise DataError(f"{files[0]}: has no rows; download it again")
    images = stack_pictures(pictures, options.resize, options.workers, options.on_progress)
    classes = len(names) if names else 1 + max((label for label in labels if isinstance(label, int)), default=0)
    return ImageSet(images, as_labels(files[0], labels, len(images), classes)), names


@contextmanager
def _open_file(path: Path) -> Iterator[Any]:
    """Open a parquet file; errors in the block become a DataError."""
    try:
        from pyarrow.parquet import ParquetFile
    except ImportError as error:
        raise DataError(
            f"{path}: is read with pyarrow, which is not installed; pip install 'fastcifar[parquet]'"
        ) from error
    try:
        with ParquetFile(path) as file:
            yield file
    except DataError:
        raise
    except Exception as error:  # a damaged file can raise nearly anything
        reason = " ".join(str(error).split())
        raise DataError(f"{path}: cannot be read as a parquet file ({reason}); download it again") from error


def _read_rows(path: Path, options: ReadOptions) -> Iterator[tuple[bytes, Any]]:
    """Yield the encoded picture and the label of each row."""
    with _open_file(path) as file:
        columns = _choose_columns(path, file.schema_arrow.names, options)
        for batch in file.iter_batches(columns=columns):
            for encoded, label in zip(*(batch.column(name).to_pylist() for name in columns), strict=True):
                yield _picture_bytes(path, encoded), label


def _choose_columns(path: Path, columns: list[str], options: ReadOptions) -> list[str]:
    """Return the names of the columns with the pictures and the labels."""
    return [_choose(path, columns, candidates) for candidates in (IMAGE_COLUMNS, LABEL_COLUMNS[options.labels])]


def _choose(path: Path, columns: list[str], candidates: tuple[str, ...]) -> str:
    for name in candidates:
        if name in columns:
            return name
    raise DataError(f"{path}: has no column {' or '.join(candidates)}; its columns are {', '.join(columns)}")


def _picture_bytes(path: Path, value: Any) -> bytes:
    """Return the bytes of an encoded picture, which Hugging Face keeps with the name of its file."""
    encoded = value.get("bytes") if isinstance(value, dict) else value
    if not isinstance(encoded, bytes):
        raise DataError(f"{path}: has rows without the bytes of a picture; embed the pictures in the file")
    return encoded


def _read_class_names(path: Path, options: ReadOptions) -> tuple[str, ...] | None:
    """Return the names of the classes from the metadata that Hugging Face writes; None if they are not there."""
    with _open_file(path) as file:
        label = _choose_columns(path, file.schema_arrow.names, options)[1]
        metadata = file.schema_arrow.metadata or {}
    try:
        names = json.loads(metadata[b"huggingface"])["info"]["features"][label]["names"]
    except (KeyError, TypeError, ValueError):
        return None
    valid = isinstance(names, list) and names and all(isinstance(name, str) for name in names)
    return tuple(names) if valid else None
