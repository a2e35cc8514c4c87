"""Data sets of picture files, with one folder per class."""

from __future__ import annotations

import unicodedata
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from fastcifar.data.images import Images, ImageSet, Source
from fastcifar.data.picture_files import PictureFiles, is_hidden, list_pictures, sort_files
from fastcifar.data.pictures import decode_pictures, readable_path
from fastcifar.errors import DataError
from fastcifar.progress import OnProgress, Progress

BATCH = 256
"""Pictures that the threads decode between two reports of progress."""
SHOWN_NAMES = 5
"""Names of classes in a note."""


@dataclass(frozen=True)
class _Split:
    """The picture files of the training set or the test set."""

    folder: Path
    classes: dict[str, PictureFiles]
    """The files of each class folder, by the name of the class."""
    strays: PictureFiles
    """Files beside the class folders."""

    @property
    def filled(self) -> set[str]:
        """The classes with pictures."""
        return {name for name, files in self.classes.items() if files.pictures}

    def files(self, names: Sequence[str]) -> tuple[list[Path], list[int]]:
        """Return the pictures in the order of the names of their classes, and the positions of these as labels."""
        found = [self.classes.get(name, PictureFiles()).pictures for name in names]
        labels = [label for label, pictures in enumerate(found) for _ in pictures]
        return [file for pictures in found for file in pictures], labels


def open_image_folder(path: Path, resize: int | None, workers: int, on_progress: OnProgress | None = None) -> Source:
    """Read the pictures in train/<class>/ and test/<class>/, with classes and files in sorted order.

    A class that one of the splits lacks, and files that are no pictures, become notes of the source. Names of folders
    that only differ in how Unicode composes their characters (NFC and NFD) are one class.

    Args:
        path: the folder that contains train/ and test/.
        resize: the number of pixels per side to which pictures are resized; if None, all must have one size.
        workers: the number of threads that decode.
        on_progress: called while pictures are read.

    Raises:
        DataError: a folder or a picture is missing or damaged, or two pictures have different sizes.
    """
    train, test = _find_split(path / "train"), _find_split(path / "test")
    for name in sorted(train.classes.keys() - train.filled):
        raise DataError(f"{train.folder / name}: this class has no pictures; add pictures or remove the folder")
    if len(train.classes) < 2:
        count = len(train.classes)
        raise DataError(f"{train.folder}: it has {count} class folders; make at least 2, with pictures in them")
    if not test.filled:
        raise DataError(f"{test.folder}: it has no pictures in class folders; move some of the training pictures there")
    names = tuple(sorted(train.filled | test.filled))
    files, labels = zip(train.files(names), test.files(names), strict=True)
    images = _read(sum(files, []), resize, workers, on_progress)
    numbers = [np.array(split, dtype=np.int64) for split in labels]
    count = len(files[0])
    return Source(
        train=ImageSet(images[:count], numbers[0]),
        test=ImageSet(images[count:], numbers[1]),
        class_names=names,
        name="image-folder",
        notes=tuple(_notes(train, test)),
    )


def _find_split(folder: Path) -> _Split:
    """List the pictures of each class; folders whose names are equal in NFC are one class."""
    if not folder.is_dir():
        raise DataError(f"{folder}: there is no such folder; an image folder has train/<class>/ and test/<class>/")
    classes: dict[str, PictureFiles] = {}
    strays = []
    for entry in sorted(folder.iterdir()):
        if is_hidden(entry.name):
            continue
        if entry.is_dir():
            name = _class_name(entry)
            classes[name] = classes.get(name, PictureFiles()) + list_pictures(entry)
        else:
            strays.append(entry)
    return _Split(folder, classes, sort_files(strays))


def _class_name(folder: Path) -> str:
    try:
        folder.name.encode()
    except UnicodeEncodeError:
        raise DataError(f"{readable_path(folder)}: the name of this folder is not UTF-8; rename it") from None
    return unicodedata.normalize("NFC", folder.name)


def _notes(train: _Split, test: _Split) -> Iterator[str]:
    if untested := train.filled - test.filled:
        yield f"warning: no test pictures of {_shown(untested)}; the accuracy of this class is not measured"
    if untrained := test.filled - train.filled:
        yield f"warning: no training pictures of {_shown(untrained)}; the network cannot learn this class"
    files = [split_files for split in (train, test) for split_files in split.classes.values()]
    others = [file for each in files for file in each.others]
    strays = [file for split in (train, test) for file in (*split.strays.pictures, *split.strays.others)]
    yield from PictureFiles(others=others + strays).notes


def _shown(names: Iterable[str]) -> str:
    """Return a list of names, of which only the first few are shown."""
    ordered = sorted(names)
    more = f" and {len(ordered) - SHOWN_NAMES:,} more" if len(ordered) > SHOWN_NAMES else ""
    return ", ".join(ordered[:SHOWN_NAMES]) + more


def _read(files: list[Path], resize: int | None, workers: int, on_progress: OnProgress | None) -> Images:
    """Decode pictures of one size, or resized ones, to uint8 [N, H, W, 3]."""
    size = None if resize is None else (resize, resize)
    images: Images | None = None
    for start in range(0, len(files), BATCH):
        decoded = decode_pictures(files[start : start + BATCH], size, workers)
        for index, image in enumerate(decoded, start=start):
            if isinstance(image, DataError):
                raise image
            if images is None:
                images = np.empty((len(files), *image.shape), dtype=np.uint8)
            if image.shape != images.shape[1:]:
                sizes = [f"{width}x{height}" for height, width, _ in (images.shape[1:], image.shape)]
                raise DataError(f"{files[0]} is {sizes[0]} pixels, {files[index]} is {sizes[1]}; use --resize 32")
            images[index] = image
        if on_progress:
            on_progress(Progress(task="reading pictures", done=start + len(decoded), total=len(files)))
    assert images is not None
    return images
