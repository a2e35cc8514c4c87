"""NumPy archives of arrays: x_train, y_train, x_test, y_test, as Keras has them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from fastcifar.data.arrays import as_images, as_labels
from fastcifar.data.images import ImageSet, Source
from fastcifar.data.reading import ReadOptions, count_classes, default_class_names
from fastcifar.errors import DataError

KEYS = {
    "train": (("x_train", "y_train"), ("train_images", "train_labels")),
    "test": (("x_test", "y_test"), ("test_images", "test_labels")),
}
"""The names of the images and labels of a split: Keras's, and MedMNIST's."""


def read_npz(path: Path, options: ReadOptions) -> Source:
    """Read a .npz file of images [N, H, W], [N, H, W, 1 or 3] or [N, 1 or 3, H, W], and labels [N] or [N, 1].

    Pixels are whole numbers from 0 to 255. A file without test images gives a part of its training images for them.

    Raises:
        DataError: the file is damaged, or an array is missing or of another form.
    """
    try:
        with path.open("rb") as file, np.load(file, allow_pickle=False) as archive:
            arrays = {name.lower(): np.asarray(archive[name]) for name in archive.files}
    except Exception as error:  # a damaged archive can raise nearly anything
        raise DataError(f"{path}: cannot be read as a .npz file of arrays ({error}); save it again") from error
    train, test = (_read_split(path, arrays, split) for split in KEYS)
    if train is None:
        found = ", ".join(arrays) or "nothing"
        raise DataError(f"{path}: has no x_train and y_train (it has {found}); save them with numpy.savez")
    names = default_class_names(train, count_classes(train, test))
    return options.make_source(train, test, class_names=names, name="npz")


def _read_split(path: Path, arrays: dict[str, npt.NDArray[Any]], split: str) -> ImageSet | None:
    for image_key, label_key in KEYS[split]:
        if image_key in arrays and label_key in arrays:
            images = as_images(path, as_rgb(path, image_key, arrays[image_key]), image_key)
            labels = arrays[label_key]
            highest = int(labels.max()) if labels.size and labels.dtype.kind in "uif" else 0
            return ImageSet(images, as_labels(path, labels, len(images), max(highest, 0) + 1, label_key))
        if image_key in arrays or label_key in arrays:
            missing = label_key if image_key in arrays else image_key
            raise DataError(f"{path}: has no {missing}; save images and labels of each split")
    return None


def as_rgb(path: Path, name: str, images: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """Return images as [N, H, W, 3]: one channel is repeated, and channels may come first.

    Raises:
        DataError: the array has another shape.
    """
    if images.ndim == 3:
        images = images[..., None]
    elif images.ndim == 4 and images.shape[1] in (1, 3) and images.shape[3] not in (1, 3):
        images = images.transpose(0, 2, 3, 1)
    if images.ndim != 4 or images.shape[3] not in (1, 3):
        raise DataError(f"{path}: {name} must be [N, H, W], [N, H, W, 3] or [N, 3, H, W], not {list(images.shape)}")
    return np.ascontiguousarray(np.broadcast_to(images, (*images.shape[:3], 3)))
