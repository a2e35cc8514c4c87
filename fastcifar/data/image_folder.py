"""Data sets of picture files, with one folder per class."""

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
    """Read train/<class>/*.png|jpg and test/<class>/*.png|jpg, with classes and files in sorted order.

    Every picture is resized to `resize` pixels per side; if None, all must have one size. `workers` threads decode.

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
    images, numbers = _decode_pictures(files, resize, workers), np.array(labels, dtype=np.int64)
    train = ImageSet(images[:train_count], numbers[:train_count])
    test = ImageSet(images[train_count:], numbers[train_count:])
    return Source(train=train, test=test, class_names=names, name="image-folder")


def _class_names(split: Path) -> tuple[str, ...]:
    if not split.is_dir():
        raise DataError(f"{split}: there is no such folder; an image folder has train/<class>/ and test/<class>/")
    names = sorted(folder.name for folder in split.iterdir() if folder.is_dir() and not folder.name.startswith("."))
    if len(names) < 2:
        raise DataError(f"{split}: it has {len(names)} class folders; make at least 2, with pictures in them")
    return tuple(names)


def _pictures(folder: Path) -> list[Path]:
    files = sorted(file for file in folder.iterdir() if file.suffix.lower() in PICTURES and file.name[0] != ".")
    if not files:
        raise DataError(f"{folder}: this class has no .png, .jpg or .jpeg file; add pictures or remove the folder")
    return files


def decode_picture(file: Path | BinaryIO, size: tuple[int, int] | None = None) -> Images:
    """Decode a picture to uint8 RGB [H, W, 3], rotated as its EXIF data says and resized to `size`, (width, height).

    Raises:
        DataError: it is not a picture, or is damaged.
    """
    try:
        with Image.open(file) as picture:
            rgb = ImageOps.exif_transpose(picture).convert("RGB")
    except Exception as error:  # Pillow's decoders raise many kinds for a damaged file
        name = file if isinstance(file, Path) else "standard input"
        reason = "unknown format" if isinstance(error, UnidentifiedImageError) else error
        raise DataError(f"{name}: is not a picture that can be read ({reason}); replace or remove it") from error
    if size is not None:
        rgb = rgb.resize(size, Image.Resampling.BICUBIC)  # Pillow applies antialiasing
    return np.array(rgb)


def _decode_pictures(files: list[Path], resize: int | None, workers: int) -> Images:
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
                raise DataError(f"{files[0]} is {sizes[0]} pixels, {files[index]} is {sizes[1]}; use --resize 32")
            images[index] = image
    finally:
        pool.shutdown(cancel_futures=True)
    return images
