"""Decode many pictures of one size to one array."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import BinaryIO

import numpy as np

from fastcifar.data.beton_format import PAGE_SIZE
from fastcifar.data.images import Images
from fastcifar.data.pictures import decode_picture, decode_pictures, picture_name
from fastcifar.errors import DataError
from fastcifar.progress import OnProgress, Progress

MAX_NAMES = 5
"""Unreadable pictures that an error names after the first one."""
BATCH = 128
"""Pictures that are decoded before the progress is reported."""


def stack_pictures(
    files: Sequence[Path | BinaryIO], resize: int | None, workers: int, on_progress: OnProgress | None
) -> Images:
    """Decode pictures in `workers` threads to uint8 [N, H, W, 3].

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
    unreadable: dict[str, DataError] = {}
    for start in range(0, len(files), BATCH):
        decoded = decode_pictures(files[start : start + BATCH], size, workers)
        for index, image in enumerate(decoded, start=start):
            if isinstance(image, DataError):
                unreadable[picture_name(files[index])] = image
            elif image.shape != first.shape:
                names = (
                    f"{picture_name(files[0])} is {_size(first)} pixels, {picture_name(files[index])} is {_size(image)}"
                )
                raise DataError(f"{names}; use --resize 32")
            else:
                images[index] = image
        if on_progress:
            on_progress(Progress(task="reading pictures", done=start + len(decoded), total=len(files)))
    if unreadable:
        raise DataError(_describe(unreadable))
    return images


def _describe(unreadable: dict[str, DataError]) -> str:
    """Return the first error, and the names of the first other pictures."""
    first, *others = unreadable
    if not others:
        return str(unreadable[first])
    names = ", ".join(others[:MAX_NAMES]) + (", …" if len(others) > MAX_NAMES else "")
    return f"{unreadable[first]}; {len(others):,} more cannot be read: {names}"


def _size(image: Images) -> str:
    """Return width and height, such as 40x30."""
    return f"{image.shape[1]}x{image.shape[0]}"
