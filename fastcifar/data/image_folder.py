"""Pictures in folders, one a class."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import BinaryIO

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from fastcifar.data.images import Images, ImageSet, Source
from fastcifar.errors import DataError

PICTURES = {".png", ".jpg", ".jpeg"}


def open_image_folder(path: Path, resize: int | None, workers: int) -> Source:
    """Read train/<class>/*.png|jpg and test/<class>/*.png|jpg, classes and files in sorted order.

    Args:
        path: the folder that has `train` and `test`.
        resize: bring every picture to this side in pixels.
        workers: threads that decode.

    Raises:
        DataError: a folder or a picture is missing or damaged, or two pictures have different sizes.
    """
    names = _class_names(path / "train")
    if differing := sorted(set(names) ^ set(_class_names(path / "test"))):
        raise DataError(f"{path}: train and test have different classes ({', '.join(differing)}); give both the same")
    files: list[Path] = []
    labels: list[int] = []
    train_count = 0
    for split in ("train", "test"):
        train_count = len(files)
        for label, name in enumerate(names):
            pictures = _pictures(path / split / name)
            files += pictures
            labels += [label] * len(pictures)
    images, numbers = _decode_all(files, resize, workers), np.array(labels, dtype=np.int64)
    return Source(
        train=ImageSet(images=images[:train_count], labels=numbers[:train_count]),
        test=ImageSet(images=images[train_count:], labels=numbers[train_count:]),
        class_names=names,
        name="image-folder",
    )


def _class_names(split: Path) -> tuple[str, ...]:
    if not split.is_dir():
        raise DataError(f"{split}: there is no such folder; an image folder has train/<class>/ and test/<class>/")
    names = sorted(folder.name for folder in split.iterdir() if folder.is_dir() and not folder.name.startswith("."))
    if len(names) < 2:
        raise DataError(f"{split}: it has {len(names)} class folders; give it at least 2, with the pictures in them")
    return tuple(names)


def _pictures(folder: Path) -> list[Path]:
    files = sorted(
        file for file in folder.iterdir() if file.suffix.lower() in PICTURES and not file.name.startswith(".")
    )
    if not files:
        raise DataError(f"{folder}: a class without a .png, .jpg or .jpeg file; add pictures or remove the folder")
    return files


def decode_picture(file: Path | BinaryIO, size: tuple[int, int] | None = None) -> Images:
    """uint8 [H, W, 3] of a picture, upright as its EXIF tells, resized to `size`, width and height, if given.

    Raises:
        DataError: it cannot be read.
    """
    try:
        with Image.open(file) as picture:
            rgb = ImageOps.exif_transpose(picture).convert("RGB")
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        name = file if isinstance(file, Path) else "standard input"
        reason = "of no known format" if isinstance(error, UnidentifiedImageError) else error
        raise DataError(f"{name}: no picture that can be read ({reason}); replace or remove it") from error
    if size is not None:
        rgb = rgb.resize(size, Image.Resampling.BICUBIC)  # Pillow's has the antialias in it
    return np.array(rgb)


def _decode_all(files: list[Path], resize: int | None, workers: int) -> Images:
    pool = ThreadPoolExecutor(workers)
    size = None if resize is None else (resize, resize)
    try:
        decoded = pool.map(lambda file: decode_picture(file, size), files)
        first = next(decoded)
        images = np.empty((len(files), *first.shape), dtype=np.uint8)
        images[0] = first
        for index, image in enumerate(decoded, start=1):
            if image.shape != first.shape:
                sizes = [f"{array.shape[1]}x{array.shape[0]}" for array in (first, image)]
                raise DataError(
                    f"{files[0]} is {sizes[0]} pixels, {files[index]} is {sizes[1]}; pass --resize 32 to resize all"
                )
            images[index] = image
    finally:
        pool.shutdown(cancel_futures=True)
    return images
