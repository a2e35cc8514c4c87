"""Data sets of picture files, with one folder per class."""

from __future__ import annotations

import dataclasses
import unicodedata
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from fastcifar.data.images import ImageSet, Labels, Source
from fastcifar.data.picture_arrays import stack_pictures
from fastcifar.data.picture_files import is_hidden, is_picture, list_pictures, note_others
from fastcifar.data.pictures import readable_path
from fastcifar.data.reading import ReadOptions
from fastcifar.errors import DataError

TRAIN_NAMES = ("train", "training")
TEST_NAMES = ("test", "testing", "val", "valid", "validation")
"""The names of the folders of the two splits, in lower case; the first one that is there is taken."""
SHOWN_NAMES = 5
"""Names of classes in a note."""


class _Split(NamedTuple):
    """The files of the training set or the test set."""

    classes: dict[str, list[Path]]
    """The pictures of each class folder, by the name of the class."""
    others: list[Path]
    """Files that are no pictures, or beside the class folders."""

    @property
    def filled(self) -> set[str]:
        """The classes with pictures."""
        return {name for name, pictures in self.classes.items() if pictures}

    def in_order(self, names: Sequence[str]) -> tuple[list[Path], Labels]:
        """Return the pictures in the order of the names of their classes, and their labels, which count these."""
        found = [self.classes.get(name, []) for name in names]
        labels = np.repeat(np.arange(len(names)), [len(pictures) for pictures in found])
        return [file for pictures in found for file in pictures], labels


def named_folders(folders: Iterable[str], names: Sequence[str]) -> list[str]:
    """Return the folders that have one of these names, in upper or lower case, in the order of the names."""
    found = {folder.lower(): folder for folder in sorted(folders, reverse=True)}
    return [found[name] for name in names if name in found]


def open_image_folder(path: Path, options: ReadOptions) -> Source:
    """Read the pictures in train/<class>/ and test/<class>/, with classes and files in sorted order.

    The folders may have other usual names (`TRAIN_NAMES`, `TEST_NAMES`). Without the second one, or with class folders
    only, a part of each class becomes the test split. Names of folders that only differ in how
    Unicode composes their characters (NFC and NFD) are one class. A class that one of the splits lacks, and files that
    are no pictures, become notes of the source.

    Raises:
        DataError: a folder or a picture is missing or damaged, or two pictures have different sizes.
        ConfigError: `test_fraction` is given although there is a test split.
        OSError: a folder cannot be read.
    """
    folders = [entry.name for entry in path.iterdir() if entry.is_dir() and not is_hidden(entry.name)]
    trains, tests = named_folders(folders, TRAIN_NAMES), named_folders(folders, TEST_NAMES)
    only_classes = folders and not trains and not tests
    train_folder = path if only_classes else path / (trains or TRAIN_NAMES)[0]
    train = _find_split(train_folder)
    test = _find_split(path / tests[0]) if tests else None
    if empty := train.classes.keys() - train.filled:
        raise DataError(f"{train_folder / min(empty)}: this class has no pictures; add some or remove the folder")
    if len(train.classes) < 2:
        count = len(train.classes)
        kaggle = any(is_picture(file) for file in train.others)
        also = "; for Kaggle's pictures, put trainLabels.csv beside this folder" if kaggle else ""
        raise DataError(f"{train_folder}: it has {count} class folders; make at least 2, with pictures in them{also}")
    if test and not test.filled:
        raise DataError(f"{path / tests[0]}: no class has pictures; add some or remove the folder")
    source = _read_splits(train, test, options)
    unused = tuple(f"{path / name}: passed over, since {tests[0]} is the test set" for name in tests[1:])
    return dataclasses.replace(source, notes=source.notes + unused)


def _read_splits(train: _Split, test: _Split | None, options: ReadOptions) -> Source:
    names = tuple(sorted(train.filled | (test.filled if test else set())))
    train_files, train_labels = train.in_order(names)
    test_files, test_labels = test.in_order(names) if test else ([], train_labels[:0])
    images = stack_pictures(train_files + test_files, options.resize, options.workers, options.on_progress)
    count = len(train_files)
    source = options.make_source(
        ImageSet(images[:count], train_labels),
        ImageSet(images[count:], test_labels) if test else None,
        class_names=names,
        name="image-folder",
    )
    notes = [*note_others(train.others + (test.others if test else [])), *source.notes]
    if test:
        notes += _note_classes(train.filled, test.filled)
    return dataclasses.replace(source, notes=tuple(notes))


def _find_split(folder: Path) -> _Split:
    if not folder.is_dir():
        raise DataError(f"{folder}: there is no such folder; an image folder has train/<class>/ and test/<class>/")
    split = _Split({}, [])
    for entry in sorted(entry for entry in folder.iterdir() if not is_hidden(entry.name)):
        if not entry.is_dir():
            split.others.append(entry)
            continue
        found = list_pictures(entry)
        split.classes.setdefault(_class_name(entry), []).extend(found.pictures)
        split.others.extend(found.others)
    return split


def _class_name(folder: Path) -> str:
    """Return the name of a class folder in NFC."""
    try:
        folder.name.encode()
    except UnicodeEncodeError:
        raise DataError(f"{readable_path(folder)}: the name of this folder is not UTF-8; rename it") from None
    return unicodedata.normalize("NFC", folder.name)


def _note_classes(trained: set[str], tested: set[str]) -> Iterator[str]:
    if names := trained - tested:
        yield f"warning: classes without test pictures, whose accuracy is not measured: {_list_names(names)}"
    if names := tested - trained:
        yield f"warning: classes without training pictures, which the network cannot learn: {_list_names(names)}"


def _list_names(names: set[str]) -> str:
    more = f" and {len(names) - SHOWN_NAMES:,} more" if len(names) > SHOWN_NAMES else ""
    return ", ".join(sorted(names)[:SHOWN_NAMES]) + more
