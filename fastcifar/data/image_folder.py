"""Data sets of picture files, with one folder per class."""

from __future__ import annotations

import unicodedata
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from fastcifar.data.beton_format import PAGE_SIZE
from fastcifar.data.images import Images, ImageSet, Source
from fastcifar.data.picture_files import is_hidden, list_pictures, note_others
from fastcifar.data.pictures import decode_picture, decode_pictures, readable_path
from fastcifar.errors import DataError
from fastcifar.progress import OnProgress, Progress

BATCH = 128
"""Pictures that the threads decode between two reports of progress."""
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


def open_image_folder(path: Path, resize: int | None, workers: int, on_progress: OnProgress | None = None) -> Source:
    """Read the pictures in train/<class>/ and test/<class>/, with classes and files in sorted order.

    Names of folders that only differ in how Unicode composes their characters (NFC and NFD) are one class. A class that
    one of the splits lacks, and files that are no pictures, become notes of the source.

    Args:
        path: the folder that contains train/ and test/.
        resize: the number of pixels per side to which pictures are resized; if None, all must have one size.
        workers: the number of threads that decode.
        on_progress: called while pictures are read.

    Raises:
        DataError: a folder or a picture is missing or damaged, or two pictures have different sizes.
        OSError: a folder cannot be read.
    """
    splits = train, test = _find_split(path / "train"), _find_split(path / "test")
    if empty := train.classes.keys() - train.filled:
        raise DataError(f"{path / 'train' / min(empty)}: this class has no pictures; add some or remove the folder")
    if len(train.classes) < 2:
        count = len(train.classes)
        raise DataError(f"{path / 'train'}: it has {count} class folders; make at least 2, with pictures in them")
    if not test.filled:
        raise DataError(f"{path / 'test'}: no class has pictures; move a part of each class from train to test")
    names = tuple(sorted(train.filled | test.filled))
    files = [file for split in splits for name in names for file in split.classes.get(name, ())]
    labels = [[label for label, name in enumerate(names) for _ in split.classes.get(name, ())] for split in splits]
    images, count = _read(files, resize, workers, on_progress), len(labels[0])
    return Source(
        train=ImageSet(images[:count], np.array(labels[0], dtype=np.int64)),
        test=ImageSet(images[count:], np.array(labels[1], dtype=np.int64)),
        class_names=names,
        name="image-folder",
        notes=(*_note_classes(train.filled, test.filled), *note_others(train.others + test.others)),
    )


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


def _read(files: Sequence[Path], resize: int | None, workers: int, on_progress: OnProgress | None) -> Images:
    """Decode pictures of one size, or resized ones, to uint8 [N, H, W, 3]."""
    size = None if resize is None else (resize, resize)
    first = decode_picture(files[0], size)
    if first.nbytes > PAGE_SIZE:
        raise DataError(f"{files[0]}: {_size(first)} pixels are too many for a .beton; use --resize 32")
    images = np.empty((len(files), *first.shape), dtype=np.uint8)
    for start in range(0, len(files), BATCH):
        decoded = decode_pictures(files[start : start + BATCH], size, workers)
        for index, image in enumerate(decoded, start=start):
            if isinstance(image, DataError):
                raise image
            if image.shape != first.shape:
                sizes = f"{files[0]} is {_size(first)} pixels, {files[index]} is {_size(image)}"
                raise DataError(f"{sizes}; use --resize 32")
            images[index] = image
        if on_progress:
            on_progress(Progress(task="reading pictures", done=start + len(decoded), total=len(files)))
    return images


def _size(image: Images) -> str:
    """Return width and height, such as 40x30."""
    return f"{image.shape[1]}x{image.shape[0]}"
