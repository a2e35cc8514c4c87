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

BATCH = 128
"""Pictures that are decoded before the progress is reported."""


def stack_pictures(
    files: Sequence[Path | BinaryIO], resize: int | None, workers: int, on_progress: OnProgress | None
) -> Images:
    """Decode pictures in `workers` threads to uint8 [N, H, W, 3].

    Every picture is resized to `resize` pixels per side; if None, all must have one size.

    Raises:
        DataError: a picture is missing or damaged, or two have different sizes.
    """
    size = None if resize is None else (resize, resize)
    first = decode_picture(files[0], size)
    if first.nbytes > PAGE_SIZE:
        raise DataError(f"{picture_name(files[0])}: {_size(first)} pixels are too many for a .beton; use --resize 32")
    images = np.empty((len(files), *first.shape), dtype=np.uint8)
    if not isinstance(files[0], Path):
        files[0].seek(0)  # it is decoded again with the others
    for start in range(0, len(files), BATCH):
        decoded = decode_pictures(files[start : start + BATCH], size, workers)
        for index, image in enumerate(decoded, start=start):
            if isinstance(image, DataError):
                raise image
            if image.shape != first.shape:
                names = (
                    f"{picture_name(files[0])} is {_size(first)} pixels, {picture_name(files[index])} is {_size(image)}"
                )
                raise DataError(f"{names}; use --resize 32")
            images[index] = image
        if on_progress:
            on_progress(Progress(task="reading pictures", done=start + len(decoded), total=len(files)))
    return images


def _size(image: Images) -> str:
    """Return width and height, such as 40x30."""
    return f"{image.shape[1]}x{image.shape[0]}"
