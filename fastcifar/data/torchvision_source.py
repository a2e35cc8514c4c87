"""Read the image classification data sets of torchvision, such as torchvision:SVHN or torchvision:FashionMNIST."""

from __future__ import annotations

import operator
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from fastcifar.data.arrays import as_images, as_labels
from fastcifar.data.images import Images, ImageSet, Labels, Origin, Source
from fastcifar.data.npz import as_rgb
from fastcifar.data.reading import ReadOptions, count_classes
from fastcifar.data.torchvision_sets import PREFIX, find_name, one_line, open_split
from fastcifar.errors import ConfigError, DataError
from fastcifar.progress import Progress

BATCH = 1024
"""Images that are read before the progress is reported."""


def is_torchvision(source: str) -> bool:
    """Tell whether a source is the name of a data set of torchvision."""
    return source.lower().startswith(PREFIX)


def torchvision_origin(source: str) -> Origin:
    """Return the origin of a data set. A published one never changes, so that its name in lower case identifies it."""
    return Origin(path=source.lower(), fingerprint=source.lower())


def read_torchvision(source: str, root: Path, options: ReadOptions) -> Source:
    """Read a data set, from its files in `root` as torchvision leaves them there, or else after a download to `root`.

    Args:
        source: 'torchvision:' and the name of a class of torchvision.datasets, in upper or lower case.
        root: the folder that torchvision's `root` names.
        options: `resize` is needed where the pictures have several sizes; grey becomes three equal channels.

    Raises:
        ConfigError: there is no such data set, it is not for image classification, or `labels` is 'coarse'.
        DataError: its files can neither be read nor downloaded, a package is missing, or a label is no class.
    """
    if options.labels == "coarse":
        raise ConfigError(
            f"labels is 'coarse'; torchvision has only the fine labels of CIFAR-100: leave it out for {source}, or "
            "name the folder cifar-100-python as the source"
        )
    name = find_name(source)
    opened = {split: open_split(name, split, root, options.on_progress) for split in ("train", "test")}
    train, test = (_read_split(f"{source}, {split}", opened[split], options) for split in opened)
    class_names = _class_names(opened["train"], count_classes(train, test))
    return options.make_source(train, test, class_names=class_names, name=source.lower())


def _read_split(place: str, data_set: Any, options: ReadOptions) -> ImageSet:
    if not len(data_set):
        raise DataError(f"{place}: has no images; remove its files, so that they are downloaded again")
    if held := _held_arrays(data_set):
        images, labels = held
        if options.resize is None or images.shape[1:3] == (options.resize, options.resize):
            return _check(place, images, labels)
    return _read_pictures(place, data_set, options)


def _held_arrays(data_set: Any) -> tuple[Images, Labels] | None:
    """Return the images [N, H, W, 3] and labels [N] of a data set that has them in memory; None if it has not.

    Its first and last item are compared, since the order of the dimensions differs between data sets.
    """
    data: Any = getattr(data_set, "data", None)
    labels: Any = getattr(data_set, "targets", getattr(data_set, "labels", None))
    if not hasattr(data, "shape") or labels is None or len(data) != len(data_set):
        return None
    try:
        images, labels = as_rgb(Path(), "data", np.asarray(data)), np.asarray(labels)
    except DataError:
        return None
    if labels.shape != (len(images),):
        return None
    for index in (0, len(images) - 1):
        picture, label = data_set[index]
        if label != labels[index] or not np.array_equal(_to_pixels(picture, None), images[index]):
            return None
    return images, labels


def _read_pictures(place: str, data_set: Any, options: ReadOptions) -> ImageSet:
    """Read the items of a data set in threads, each as a picture and a label."""

    def read(index: int) -> tuple[Images, int]:
        picture, label = data_set[index]
        return _to_pixels(picture, options.resize), operator.index(label)

    count = len(data_set)
    images: Images | None = None
    labels = np.empty(count, dtype=np.int64)
    with ThreadPoolExecutor(options.workers) as pool:
        for start in range(0, count, BATCH):
            end = min(start + BATCH, count)
            for index, (pixels, label) in enumerate(_try_to_read(place, pool, read, start, end), start=start):
                if images is None:
                    images = np.empty((count, *pixels.shape), dtype=np.uint8)
                if pixels.shape != images.shape[1:]:
                    raise DataError(
                        f"{place}: image 0 is {images.shape[2]}x{images.shape[1]} pixels, image {index} is "
                        f"{pixels.shape[1]}x{pixels.shape[0]}; use --resize 32"
                    )
                images[index], labels[index] = pixels, label
            if options.on_progress:
                options.on_progress(Progress(task=f"reading {place}", done=end, total=count))
    return _check(place, images, labels)


def _try_to_read(
    place: str, pool: ThreadPoolExecutor, read: Callable[[int], tuple[Images, int]], start: int, end: int
) -> list[tuple[Images, int]]:
    try:
        return list(pool.map(read, range(start, end)))
    except (TypeError, AttributeError) as error:
        raise DataError(
            f"{place}: an item is not a picture and the number of its class ({error}); write an image folder or a .npz "
            "file of this data set, and name that as the source"
        ) from error
    except Exception as error:  # Pillow's decoders raise many kinds for a damaged file
        raise DataError(f"{place}: cannot be read ({one_line(error)}); replace its files") from error


def _to_pixels(picture: Image.Image, resize: int | None) -> Images:
    """Return a picture as uint8 RGB [H, W, 3], resized as `fastcifar.data.pictures.decode_picture` does."""
    rgb = picture.convert("RGB")
    if resize is not None and rgb.size != (resize, resize):
        rgb = rgb.resize((resize, resize), Image.Resampling.BICUBIC)  # Pillow applies antialiasing
    return np.array(rgb)


def _check(place: str, images: Any, labels: Any) -> ImageSet:
    path = Path(place)
    return ImageSet(as_images(path, images), as_labels(path, labels, len(images), int(np.max(labels)) + 1))


def _class_names(data_set: Any, classes: int) -> tuple[str, ...]:
    """Return the names that a data set gives its classes, the first one of several synonyms; otherwise digits."""
    found = getattr(data_set, "classes", None) or ()
    names = tuple(str(name if isinstance(name, str) else name[0]) for name in found)
    if len(names) >= classes and len(set(names)) == len(names):
        return names
    return tuple(map(str, range(classes)))
