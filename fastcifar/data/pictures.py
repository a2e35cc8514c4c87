"""Decode picture files to the pixels that an image viewer shows: 8 bits per channel, upright, without transparency."""

from __future__ import annotations

import functools
import logging
import os
import warnings
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

import numpy as np
from PIL import ExifTags, Image, ImageOps, UnidentifiedImageError

from fastcifar.data.deep_pictures import scale_to_8_bits
from fastcifar.data.images import Images
from fastcifar.errors import DataError

BACKGROUND = (255, 255, 255)
"""The colour behind transparent pixels: white, as on the pages of most viewers and browsers."""
NOT_DECODED = {"BUFR", "EPS", "GRIB", "HDF5", "MPEG", "WMF"}
"""Formats that Pillow only identifies, or gives to another program such as Ghostscript."""


@functools.cache
def picture_formats() -> tuple[str, ...]:
    """Return the names of the formats that are read, the most frequent ones first."""
    Image.init()
    return tuple(dict.fromkeys(name for name in ("PNG", "JPEG", *Image.ID) if name not in NOT_DECODED))


@functools.cache
def picture_suffixes() -> frozenset[str]:
    """Return the suffixes of the files that are read, in lower case, such as '.png'."""
    formats = {*picture_formats(), "MPO"}  # Pillow's JPEG reader reads these, too
    return frozenset(suffix for suffix, name in Image.registered_extensions().items() if name in formats)


def decode_picture(file: Path | BinaryIO, size: tuple[int, int] | None = None) -> Images:
    """Decode a picture to uint8 RGB [H, W, 3], as a viewer shows it, and resize it to `size`, (width, height).

    The picture is rotated as its EXIF data says. 16 bits per channel are scaled to 8, transparent pixels are blended
    with `BACKGROUND`, and the first frame of an animation is taken. The resizing is bicubic, with antialiasing.

    Raises:
        DataError: it is not a picture, is damaged, has pixels of an unknown range, such as floats, or more pixels than
            Pillow's limit, `PIL.Image.MAX_IMAGE_PIXELS`.
    """
    with _silent_pillow():
        return _decode(file, size)


def decode_pictures(
    files: Sequence[Path | BinaryIO], size: tuple[int, int] | None, workers: int
) -> list[Images | DataError]:
    """Decode pictures in threads, each as `decode_picture` does. A picture that cannot be read gives its error."""
    if workers == 1:
        with _silent_pillow():
            return [_try_to_decode(file, size) for file in files]
    picture_formats()  # loads Pillow's plugins before the threads need them
    with _silent_pillow(), ThreadPoolExecutor(workers) as pool:
        return list(pool.map(lambda file: _try_to_decode(file, size), files))


def readable_path(path: Path) -> str:
    """Return a path as text that can be printed; bytes that are not UTF-8 become hexadecimal escapes."""
    return os.fsencode(path).decode(errors="backslashreplace")


def _try_to_decode(file: Path | BinaryIO, size: tuple[int, int] | None) -> Images | DataError:
    try:
        return _decode(file, size)
    except DataError as error:
        return error


def _decode(file: Path | BinaryIO, size: tuple[int, int] | None) -> Images:
    try:
        with Image.open(file, formats=picture_formats()) as picture:
            rgb = _upright(picture, _to_rgb(picture))
            if size is not None:
                rgb = rgb.resize(size, Image.Resampling.BICUBIC)  # Pillow applies antialiasing
            return np.array(rgb)
    except DataError as error:
        raise DataError(f"{picture_name(file)}: {error}") from error
    except Exception as error:  # Pillow's decoders raise many kinds for a damaged file
        reason = "unknown format" if isinstance(error, UnidentifiedImageError) else " ".join(str(error).split())
        reason = reason or type(error).__name__
        name = picture_name(file)
        raise DataError(f"{name}: is not a picture that can be read ({reason}); replace or remove it") from error


def picture_name(file: Path | BinaryIO) -> str:
    """Return the name of a picture for messages: its path, or the `name` of an open file."""
    if isinstance(file, Path):
        return readable_path(file)
    name = str(getattr(file, "name", "<stdin>"))
    return "standard input" if name == "<stdin>" else name


def _upright(picture: Image.Image, rgb: Image.Image) -> Image.Image:
    """Rotate `rgb`, the pixels of `picture`, as the EXIF data of `picture` says."""
    if picture.getexif().get(ExifTags.Base.Orientation, 1) == 1:
        return rgb
    rgb.info = picture.info
    return ImageOps.exif_transpose(rgb)


def _to_rgb(picture: Image.Image) -> Image.Image:
    image = scale_to_8_bits(picture)
    if image.has_transparency_data:
        paper = Image.new("RGBA", image.size, BACKGROUND)
        image = Image.alpha_composite(paper, image.convert("RGBA"))
    return image if image.mode == "RGB" else image.convert("RGB")


@contextmanager
def _silent_pillow() -> Iterator[None]:
    """Hide Pillow's warnings and log messages in the block, but let suspiciously large pictures raise an error.

    The filters of warnings are those of the whole process, threads included.
    """
    logger, handler = logging.getLogger("PIL"), logging.NullHandler()
    logger.addHandler(handler)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            yield
    finally:
        logger.removeHandler(handler)
