"""Decode many pictures of one size to one array."""

from __future__ import annotations

from collections.abc import Generator, Iterable, Sequence
from contextlib import closing
from pathlib import Path
from typing import BinaryIO

import numpy as np

from fastcifar.data.beton_format import PAGE_SIZE
from fastcifar.data.images import Images
from fastcifar.data.picture_processes import count_processes, decode_in_processes
from fastcifar.data.pictures import decode_picture, decode_pictures, picture_name
from fastcifar.errors import DataError
from fastcifar.names import list_names
from fastcifar.progress import OnProgress, Progress

BATCH = 128
"""Pictures that are decoded before the progress is reported."""


def stack_pictures(
    files: Sequence[Path | BinaryIO],
    resize: int | None,
    workers: int,
    on_progress: OnProgress | None,
) -> Images:
    """Decode pictures in `workers` threads, or processes if there are many pictures, to uint8 [N, H, W, 3].

    Every picture is resized to `resize` pixels per side; if None, all must have one size.

    Raises:
        DataError: pictures are missing or damaged, or two have different sizes.
    """
    size = None if resize is None else (resize, resize)
    first = decode_picture(files[0], size)
    if first.nbytes > PAGE_SIZE:
        raise DataError(f"{picture_name(files[0])}: {_size(first)} pixels are too many for a .beton; use --resize 32")
    images = np.empty((len(files), *first.shape), dtype=np.uint8)
    if not isinstance(files[0], Path):
        files[0].seek(0)  # it is decoded again with the others
    with closing(_decode_all(files, size, workers)) as parts:
        unreadable = _fill(images, files, parts, on_progress)
    if unreadable:
        raise DataError(_describe(unreadable))
    return images


def _fill(
    images: Images,
    files: Sequence[Path | BinaryIO],
    parts: Iterable[list[Images | DataError]],
    on_progress: OnProgress | None,
) -> dict[str, DataError]:
    """Copy decoded pictures to `images`; return the error of each unreadable picture, by its name."""
    unreadable: dict[str, DataError] = {}
    done = 0
    for decoded in parts:
        for index, image in enumerate(decoded, start=done):
            if isinstance(image, DataError):
                unreadable[picture_name(files[index])] = image
            elif image.shape != images.shape[1:]:
                first, other = picture_name(files[0]), picture_name(files[index])
                raise DataError(f"{first} is {_size(images[0])} pixels, {other} is {_size(image)}; use --resize 32")
            else:
                images[index] = image
        done += len(decoded)
        if on_progress:
            on_progress(Progress(task="reading pictures", done=done, total=len(files)))
    return unreadable


def _decode_all(
    files: Sequence[Path | BinaryIO], size: tuple[int, int] | None, workers: int
) -> Generator[list[Images | DataError], None, None]:
    """Yield the pictures in order, some at a time."""
    if (count := count_processes(files, workers)) > 1:
        yield from decode_in_processes(files, size, count)
        return
    for start in range(0, len(files), BATCH):
        yield decode_pictures(files[start : start + BATCH], size, workers)


def _describe(unreadable: dict[str, DataError]) -> str:
    """Return the first error, and the names of the first other pictures."""
    first, *others = unreadable
    if not others:
        return str(unreadable[first])
    return f"{unreadable[first]}; {len(others):,} more cannot be read: {list_names(others)}"


def _size(image: Images) -> str:
    """Return width and height, such as 40x30."""
    return f"{image.shape[1]}x{image.shape[0]}"
