"""Write .beton files, each with a manifest beside it, and verify them by reading them back through FFCV.

The writer fills whole pages of uncompressed pixels with NumPy, in one process. FFCV's own writer sends single samples
to worker processes, and its files have the same meaning. This writer is faster, gives the same bytes for the same
images, and does not hang if a worker dies (libffcv/ffcv#142).
"""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from fastcifar.data import beton_format as beton
from fastcifar.data import manifest
from fastcifar.data.images import Images, Labels
from fastcifar.data.loader import decode_all
from fastcifar.errors import DataError
from fastcifar.files import atomic_write, lock_folder, write_json

Progress = Callable[[int], None]
"""A function that is called with the number of images written so far."""


def channel_statistics(images: Images) -> tuple[tuple[float, float, float], tuple[float, float, float]]:
    """Return the mean and the standard deviation of each channel of uint8 [N, H, W, 3], pixels in [0, 1]."""
    values = np.arange(256, dtype=np.float64) / 255
    mean, std = [], []
    for channel in range(3):
        counts = np.bincount(images[..., channel].ravel(), minlength=256)
        average = float(np.average(values, weights=counts))
        mean.append(average)
        std.append(float(np.sqrt(np.average((values - average) ** 2, weights=counts))))
    return (mean[0], mean[1], mean[2]), (std[0], std[1], std[2])


def write_beton(
    path: Path,
    images: Images,
    labels: Labels,
    *,
    class_names: Sequence[str],
    name: str,
    progress: Progress | None = None,
) -> manifest.Manifest:
    """Write images and labels to `path`, and the manifest beside it. After a failure, the old files are still there.

    Args:
        path: the .beton to create or replace.
        images: uint8 [N, H, W, 3].
        labels: int64 [N], each an index into `class_names`.
        class_names: the names of the classes, in the order of their labels.
        name: the data set's name in the manifest; 'cifar10' if the content is that of the official files.
        progress: called with the number of images written so far.

    Raises:
        DataError: the images and labels do not fit each other, FFCV reads back different data, or another
            process writes to the folder.
        OSError: the folder cannot be written to, or the disk is full.
    """
    _check_content(path, images, labels, class_names)
    path.parent.mkdir(parents=True, exist_ok=True)
    mean, std = channel_statistics(images)
    content = manifest.dataset_sha256(images, labels)
    official = dict.fromkeys(manifest.CIFAR10_CONTENT.values(), "cifar10")
    held = f"{path.parent}: another process writes to this folder; wait, or choose another folder"
    with lock_folder(path.parent, DataError(held)):
        with atomic_write(path, only_writer=True) as temporary:
            _write_file(temporary, images, labels, progress)
            beton.read_index(temporary)
            if manifest.dataset_sha256(*decode_all(temporary)) != content:
                raise DataError(f"{temporary}: FFCV reads back different data; check the disk and try again")
            written = manifest.Manifest(
                format_version=manifest.MANIFEST_VERSION,
                name=official.get(content, name),
                samples=len(images),
                image_shape=(images.shape[1], images.shape[2], 3),
                class_names=tuple(class_names),
                mean=mean,
                std=std,
                content_sha256=content,
                file_sha256=manifest.file_sha256(temporary),
                file_size=temporary.stat().st_size,
            )
            write_json(manifest.next_manifest_path(path), dataclasses.asdict(written), only_writer=True)
        os.replace(manifest.next_manifest_path(path), manifest.manifest_path(path))
    return written


def _check_content(path: Path, images: Images, labels: Labels, class_names: Sequence[str]) -> None:
    if images.dtype != np.uint8 or images.ndim != 4 or images.shape[3] != 3 or not len(images):
        raise DataError(f"{path}: images must be uint8 [N, H, W, 3], not {images.dtype} {list(images.shape)}")
    if not 0 < images[0].nbytes <= beton.PAGE_SIZE:
        raise DataError(f"{path}: images of {images.shape[1]} × {images.shape[2]} pixels do not fit in a page")
    if labels.shape != (len(images),) or labels.min() < 0 or labels.max() >= len(class_names):
        raise DataError(f"{path}: there must be {len(images)} labels from 0 to {len(class_names) - 1}, one per image")


def _write_file(path: Path, images: Images, labels: Labels, progress: Progress | None) -> None:
    count, height, width, _ = images.shape
    image_bytes = height * width * 3
    metadata_end = beton.HEADER.itemsize + beton.FIELD.itemsize * len(beton.FIELDS) + beton.SAMPLE.itemsize * count
    offsets = beton.image_offsets(count, image_bytes, beton.PAGE_SIZE, metadata_end)
    samples = np.zeros(count, dtype=beton.SAMPLE)
    samples["image"]["mode"] = beton.RAW
    samples["image"]["height"], samples["image"]["width"] = height, width
    samples["image"]["data_ptr"] = offsets
    samples["label"] = labels
    allocations = np.zeros(count, dtype=beton.ALLOCATION)
    allocations["sample_id"], allocations["ptr"], allocations["size"] = np.arange(count), offsets, image_bytes

    per_page = beton.PAGE_SIZE // image_bytes
    flat = images.reshape(count, image_bytes)
    with path.open("wb") as file:
        header = np.zeros(1, dtype=beton.HEADER)
        file.write(header.tobytes() + beton.field_descriptors().tobytes() + samples.tobytes())
        file.seek(int(offsets[0]))
        page = np.zeros(beton.PAGE_SIZE, dtype=np.uint8)
        for start in range(0, count, per_page):
            chunk = flat[start : start + per_page]
            page[: chunk.size] = chunk.ravel()
            page[chunk.size :] = 0
            file.write(page.data)
            if progress:
                progress(start + len(chunk))
        header["version"], header["num_fields"], header["page_size"] = beton.VERSION, len(beton.FIELDS), beton.PAGE_SIZE
        header["num_samples"], header["alloc_table_ptr"] = count, file.tell()
        file.write(allocations.tobytes())
        file.seek(0)
        file.write(header.tobytes())
