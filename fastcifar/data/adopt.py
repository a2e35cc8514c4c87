"""Take over .betons that FFCV's own DatasetWriter wrote: make their manifest, or a copy with uncompressed pixels."""

from __future__ import annotations

import dataclasses
import io
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image

from fastcifar.data.arrays import as_class_names, as_labels
from fastcifar.data.beton_format import RAW, read_index
from fastcifar.data.beton_tables import IMAGE_TYPE, JPEG, LABEL_TYPE, Tables, damaged, image_sizes, read_tables
from fastcifar.data.images import ImageSet
from fastcifar.data.manifest import Manifest, dataset_sha256, manifest_path
from fastcifar.data.picture_arrays import stack_pictures
from fastcifar.data.pictures import readable_path
from fastcifar.data.reading import count_classes, default_class_names
from fastcifar.data.writer import Progress, describe, write_beton
from fastcifar.errors import DataError
from fastcifar.files import lock_folder, write_json
from fastcifar.progress import OnProgress


def adopt(path: Path, *, class_names: Sequence[str] = (), name: str | None = None) -> Manifest:
    """Write the manifest of a .beton that FFCV's own writer made, so that it can be used as one of this package.

    Its fields are one RGB image and one integer, of any names; its images have one size and are not compressed.

    Args:
        path: the file, which does not change.
        class_names: the names of the classes; if empty, CIFAR-10's for its images, otherwise digits.
        name: the data set's name; that of the file if not given.

    Raises:
        DataError: the file is missing, damaged or of another kind, or has a manifest already.
    """
    tables = read_tables(path)
    for kind in (IMAGE_TYPE, LABEL_TYPE):
        tables.field(kind)
    if manifest_path(path).exists():
        raise DataError(f"{manifest_path(path)}: is there already; remove it first to make another manifest")
    index = read_index(path)
    split = ImageSet(index.images(), index.labels)
    names = _name_classes(path, split, class_names)
    content = dataset_sha256(*split)
    manifest = describe(path, split, names, name or readable_path(Path(path.stem)), content, None, None)
    held = f"{path.parent}: another process writes to this folder; wait, and try again"
    with lock_folder(path.parent, DataError(held)) as locked:
        write_json(manifest_path(path), dataclasses.asdict(manifest), only_writer=locked)
    return manifest


def rewrite(
    path: Path,
    target: Path,
    *,
    class_names: Sequence[str] = (),
    name: str | None = None,
    image_field: str | None = None,
    label_field: str | None = None,
    resize: int | None = None,
    workers: int = 1,
    on_progress: OnProgress | None = None,
    on_written: Progress | None = None,
) -> Manifest:
    """Write a copy of a .beton that FFCV's own writer made, with uncompressed pixels of one size, and its manifest.

    Args:
        path: the file. It may have other fields besides the image and the label, JPEG images, and several sizes.
        target: the new file.
        class_names: the names of the classes; if empty, CIFAR-10's for its images, otherwise digits.
        name: the data set's name; that of the file if not given.
        image_field: the name of the field of the images; needed if there are several RGB images and none has a usual
            name.
        label_field: the name of the field of the labels, for several integers.
        resize: pixels per side that the images are resized to; if None, all must have one size.
        workers: threads that decode.
        on_progress: called while images are decoded.
        on_written: called with the number of images written so far.

    Raises:
        DataError: the file is missing or damaged, or has no RGB image or no integer label.
    """
    if target.exists() and path.exists() and target.samefile(path):
        raise DataError(f"{target}: is the file to read; choose another name for the new one")
    tables = read_tables(path)
    labels = np.ascontiguousarray(tables.field(LABEL_TYPE, label_field), dtype=np.int64)
    pictures = _encode_images(tables, tables.field(IMAGE_TYPE, image_field))
    split = ImageSet(stack_pictures(pictures, resize, workers, on_progress), labels)
    names = _name_classes(path, split, class_names)
    return write_beton(
        target, *split, class_names=names, name=name or readable_path(Path(path.stem)), progress=on_written
    )


def _name_classes(path: Path, split: ImageSet, class_names: Sequence[str]) -> tuple[str, ...]:
    count = count_classes(split)
    if not class_names:
        as_labels(path, split.labels, len(split.labels), count)  # none is negative
        return default_class_names(split, count)
    names = as_class_names(path, class_names)
    if len(names) < count:
        raise DataError(f"{path}: has labels up to {count - 1}, so it needs {count} names of classes, not {len(names)}")
    as_labels(path, split.labels, len(split.labels), len(names))
    return names


def _encode_images(tables: Tables, images: npt.NDArray[np.void]) -> list[io.BytesIO]:
    """Return the images of a field as picture files in memory."""
    data = np.memmap(tables.path, dtype=np.uint8, mode="r")
    sizes = image_sizes(tables.path, images, tables.allocations, len(data))
    rows = enumerate(zip(images, sizes, strict=True))
    return [_encode(tables.path, data, image, int(size), row) for row, (image, size) in rows]


def _encode(path: Path, data: npt.NDArray[np.uint8], image: np.void, size: int, row: int) -> io.BytesIO:
    """Return an image as a picture file in memory: its JPEG, or its pixels as BMP, which is not compressed."""
    start = int(image["data_ptr"])
    content = data[start : start + size]
    if image["mode"] == JPEG:
        file = io.BytesIO(content.tobytes())
    elif image["mode"] == RAW and size:
        file = io.BytesIO()
        Image.fromarray(content.reshape(int(image["height"]), int(image["width"]), 3)).save(file, format="BMP")
        file.seek(0)
    else:
        raise damaged(path, f"image {row} has an unknown mode or no pixels")
    file.name = f"{path}, image {row}"  # for errors
    return file
