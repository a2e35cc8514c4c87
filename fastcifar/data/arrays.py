"""Check the arrays and lists that become a .beton, and convert what means the same."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from fastcifar.data.beton_format import PAGE_SIZE
from fastcifar.data.images import Images, Labels
from fastcifar.errors import DataError


def as_images(path: Path, images: npt.ArrayLike, name: str = "images") -> Images:
    """Return RGB images as uint8 [N, H, W, 3]; whole numbers from 0 to 255 of another type are converted.

    Raises:
        DataError: they have another shape, or values that are not whole numbers from 0 to 255; the message has
            `path` and `name`.
    """
    array = _as_array(path, name, images)
    if array.ndim != 4 or array.shape[3] != 3 or not len(array) or array.dtype.kind not in "ui":
        raise DataError(f"{path}: {name} must be uint8 [N, H, W, 3], not {array.dtype} {list(array.shape)}")
    if not 0 < array[0].size <= PAGE_SIZE:
        raise DataError(f"{path}: images of {array.shape[1]} × {array.shape[2]} pixels do not fit in a page")
    if array.dtype != np.uint8 and (array.min() < 0 or array.max() > 255):
        raise DataError(f"{path}: {name} must be from 0 to 255; they are from {array.min()} to {array.max()}")
    return array.astype(np.uint8, copy=False)


def as_labels(path: Path, labels: npt.ArrayLike, count: int, classes: int, name: str = "labels") -> Labels:
    """Return labels as int64 [count]; [count, 1] and floats that are whole numbers are converted.

    Raises:
        DataError: they have another shape, or values that are not whole numbers from 0 to `classes` - 1; the
            message has `path` and `name`.
    """
    array = _as_array(path, name, labels)
    needed = f"{name} must be {count} whole numbers from 0 to {classes - 1}, one per image"
    if array.shape not in ((count,), (count, 1)) or array.dtype.kind not in "uif":
        raise DataError(f"{path}: {needed}, not {array.dtype} {list(array.shape)}")
    array = array.reshape(-1)
    wrong = ~((array >= 0) & (array < classes) & (array == np.floor(array)))  # also true for NaN
    if wrong.any():
        position = int(wrong.argmax())
        raise DataError(f"{path}: {needed}; label {position} is {array[position]}")
    return array.astype(np.int64, copy=False)


def as_class_names(path: Path, class_names: Sequence[str]) -> tuple[str, ...]:
    """Return the names of the classes as a tuple.

    Raises:
        DataError: they are not a list of different texts.
    """
    names = () if isinstance(class_names, str) else tuple(class_names)
    if not names or not all(isinstance(name, str) for name in names):
        raise DataError(f"{path}: class_names must be a list of names, not {class_names!r}")
    for name in names:
        check_text(path, "class_names", name)
    if len(set(names)) < len(names):
        twice = next(name for name in names if names.count(name) > 1)
        raise DataError(f"{path}: class_names has {twice!r} twice; give each class its own name")
    return tuple(str(name) for name in names)


def check_text(path: Path, argument: str, text: str) -> None:
    """Check that a text can be stored in a manifest.

    Raises:
        DataError: it is not text, or has bytes that are not UTF-8; it names `path` and `argument`.
    """
    if not isinstance(text, str):
        raise DataError(f"{path}: {argument} must be text, not {text!r}")
    try:
        text.encode()
    except UnicodeEncodeError:
        raise DataError(f"{path}: {argument} has {text!a}, which is not UTF-8; choose another name") from None


def _as_array(path: Path, argument: str, values: npt.ArrayLike) -> npt.NDArray[Any]:
    try:
        return np.asarray(values)
    except (ValueError, TypeError, RuntimeError) as error:  # RuntimeError: a tensor with gradients
        raise DataError(
            f"{path}: {argument} cannot become one array ({error}); give all of them the same shape"
        ) from error
