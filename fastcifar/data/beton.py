"""Write, describe and verify .beton files, each with a manifest beside it.

The writer lays whole pages of raw pixels out with NumPy in one process. FFCV's own writer, which hands single samples
to worker processes, makes a file with the same meaning; this one is faster, gives the same bytes for the same images,
and cannot be left waiting for a worker that died (libffcv/ffcv#142).
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from fastcifar.data.images import Images, Labels
from fastcifar.data.layout import (
    ALLOCATION,
    FIELD,
    FIELDS,
    HEADER,
    PAGE_SIZE,
    RAW,
    SAMPLE,
    VERSION,
    Layout,
    field_descriptors,
    image_slots,
    read_layout,
)
from fastcifar.errors import DataError
from fastcifar.files import FolderLock, replacing

MANIFEST_VERSION = 1
CIFAR10_CONTENT = {
    "train": "67e12c2a5906880a4fe5595fe6d768185ad7ca587f35d3a7ece3c3b8b85035d2",
    "test": "e54a434ec35094516eacbaac0f2f9550358d985e9d1f71b47d41d333c15ba304",
}
"""`content_sha256` of the official 50,000 and 10,000 images in their official order."""

Progress = Callable[[int], None]
"""Called with the number of images written so far."""


@dataclass(frozen=True, kw_only=True)
class Manifest:
    """What a .beton holds, kept beside it as <name>.beton.json."""

    format_version: int
    name: str
    """'cifar10' if the content is the official one; else the kind of source."""
    samples: int
    image_shape: tuple[int, int, int]
    """Height, width, channels."""
    class_names: tuple[str, ...]
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    """Per channel over all pixels of this file, pixels in [0, 1]."""
    content_sha256: str
    """Of the decoded pixels, uint8 [N, H, W, 3], followed by the labels, little-endian int64 [N]."""
    file_sha256: str
    file_size: int
    """Bytes."""


def manifest_path(beton: Path) -> Path:
    """Where the manifest of `beton` lies."""
    return beton.with_name(beton.name + ".json")


def next_manifest_path(beton: Path) -> Path:
    """Where the manifest of the file that is about to replace `beton` waits.

    Two files cannot be renamed at once. The new manifest lies here before the new .beton takes the old one's place, and
    takes the old manifest's place after it, so that at any moment one of the two is that of the .beton.
    """
    return beton.with_name(beton.name + ".json.next")


def content_sha256(images: Images, labels: Labels) -> str:
    """The hash that identifies a data set whatever file it is in."""
    digest = hashlib.sha256(np.ascontiguousarray(images).data)
    digest.update(np.ascontiguousarray(labels, dtype="<i8").data)
    return digest.hexdigest()


def file_sha256(path: Path) -> str:
    """SHA-256 of a file's bytes, in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def channel_statistics(images: Images) -> tuple[tuple[float, float, float], tuple[float, float, float]]:
    """Mean and standard deviation of each channel in float64, pixels in [0, 1]."""
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
) -> Manifest:
    """Write images and labels to `path` and the manifest beside it; both appear whole or not at all.

    Args:
        path: the .beton to make or replace.
        images: uint8 [N, H, W, 3].
        labels: int64 [N], each an index into `class_names`.
        class_names: the classes in the order of their labels.
        name: kept in the manifest, unless the content is found to be the official CIFAR-10.
        progress: called with the number of images written so far.

    Raises:
        DataError: the images and labels do not fit each other, what was read back through FFCV differs, or another
            process writes to the folder.
        OSError: the folder cannot be written to, or the disk is full.
    """
    _check_content(path, images, labels, class_names)
    path.parent.mkdir(parents=True, exist_ok=True)
    mean, std = channel_statistics(images)
    content = content_sha256(images, labels)
    official = dict.fromkeys(CIFAR10_CONTENT.values(), "cifar10")
    with _only_writer(path.parent):
        with replacing(path) as temporary:
            _write_file(temporary, images, labels, progress)
            _verify_through_ffcv(temporary, content)
            manifest = Manifest(
                format_version=MANIFEST_VERSION,
                name=official.get(content, name),
                samples=len(images),
                image_shape=(images.shape[1], images.shape[2], 3),
                class_names=tuple(class_names),
                mean=mean,
                std=std,
                content_sha256=content,
                file_sha256=file_sha256(temporary),
                file_size=temporary.stat().st_size,
            )
            with replacing(next_manifest_path(path)) as waiting:
                waiting.write_text(json.dumps(dataclasses.asdict(manifest), indent=2) + "\n")
        os.replace(next_manifest_path(path), manifest_path(path))
    return manifest


@contextmanager
def _only_writer(folder: Path) -> Iterator[None]:
    try:
        lock = FolderLock(folder)
    except BlockingIOError:
        raise DataError(f"{folder}: another process writes to this folder; wait, or choose another") from None
    try:
        yield
    finally:
        lock.release()


def read_manifest(beton: Path) -> Manifest:
    """The manifest beside `beton`.

    Raises:
        DataError: it is missing, is no manifest, or is of another format version.
    """
    waiting = next_manifest_path(beton)
    if waiting.exists() and beton.exists():  # a writer was stopped; the .beton tells how far it was
        manifest = _parse_manifest(beton, waiting)
        if manifest.file_sha256 == file_sha256(beton):
            return manifest
    return _parse_manifest(beton, manifest_path(beton))


def _parse_manifest(beton: Path, path: Path) -> Manifest:
    try:
        values: dict[str, Any] = json.loads(path.read_text())
        values = {key: tuple(value) if isinstance(value, list) else value for key, value in values.items()}
        manifest = Manifest(**values)
    except FileNotFoundError:
        missing = beton if not beton.exists() else path
        raise DataError(f"{missing}: there is no such file; `fastcifar write-beton` makes it") from None
    except (OSError, ValueError, TypeError, AttributeError) as error:
        raise DataError(f"{path}: cannot be read as a manifest ({error}); run `fastcifar write-beton` again") from error
    if manifest.format_version != MANIFEST_VERSION:
        raise DataError(
            f"{path}: format version {manifest.format_version}, this fastcifar reads {MANIFEST_VERSION}; "
            "run `fastcifar write-beton` again"
        )
    return manifest


def open_beton(path: Path, *, verify: bool = True) -> tuple[Layout, Manifest]:
    """Check a .beton's structure, and the file against its manifest.

    Args:
        path: the .beton.
        verify: compare the file's SHA-256 too (about 0.1 s for the 154 MB of CIFAR-10's training set).

    Raises:
        DataError: either is missing or damaged, or they disagree.
    """
    manifest = read_manifest(path)
    layout = read_layout(path)
    found = {
        "file_size": path.stat().st_size,
        "samples": layout.samples,
        "image_shape": (layout.height, layout.width, 3),
        "file_sha256": file_sha256(path) if verify else manifest.file_sha256,
    }
    for field, value in found.items():
        if value != (expected := getattr(manifest, field)):
            raise DataError(
                f"{path}: {field} is {value}, its manifest says {expected}; run `fastcifar write-beton` again"
            )
    if layout.labels.min() < 0 or layout.labels.max() >= len(manifest.class_names):
        raise DataError(f"{path}: it has labels outside its {len(manifest.class_names)} classes; write it again")
    return layout, manifest


def _check_content(path: Path, images: Images, labels: Labels, class_names: Sequence[str]) -> None:
    if images.dtype != np.uint8 or images.ndim != 4 or images.shape[3] != 3 or not len(images):
        raise DataError(f"{path}: images must be uint8 [N, H, W, 3], not {images.dtype} {list(images.shape)}")
    if not 0 < images[0].nbytes <= PAGE_SIZE:
        raise DataError(f"{path}: images of {images.shape[1]} × {images.shape[2]} pixels do not fit a page")
    if labels.shape != (len(images),) or labels.min() < 0 or labels.max() >= len(class_names):
        raise DataError(
            f"{path}: needs one label from 0 to {len(class_names) - 1} for each of its {len(images)} images"
        )


def _write_file(path: Path, images: Images, labels: Labels, progress: Progress | None) -> None:
    count, height, width, _ = images.shape
    image_bytes = height * width * 3
    metadata_end = HEADER.itemsize + FIELD.itemsize * len(FIELDS) + SAMPLE.itemsize * count
    offsets = image_slots(count, image_bytes, PAGE_SIZE, metadata_end)
    samples = np.zeros(count, dtype=SAMPLE)
    samples["image"]["mode"] = RAW
    samples["image"]["height"], samples["image"]["width"] = height, width
    samples["image"]["data_ptr"] = offsets
    samples["label"] = labels
    allocations = np.zeros(count, dtype=ALLOCATION)
    allocations["sample_id"], allocations["ptr"], allocations["size"] = np.arange(count), offsets, image_bytes

    per_page = PAGE_SIZE // image_bytes
    flat = images.reshape(count, image_bytes)
    with path.open("wb") as file:
        header = np.zeros(1, dtype=HEADER)
        file.write(header.tobytes() + field_descriptors().tobytes() + samples.tobytes())
        file.seek(int(offsets[0]))
        page = np.zeros(PAGE_SIZE, dtype=np.uint8)
        for start in range(0, count, per_page):
            chunk = flat[start : start + per_page]
            page[: chunk.size] = chunk.ravel()
            page[chunk.size :] = 0
            file.write(page.data)
            if progress:
                progress(start + len(chunk))
        header["version"], header["num_fields"], header["page_size"] = VERSION, len(FIELDS), PAGE_SIZE
        header["num_samples"], header["alloc_table_ptr"] = count, file.tell()
        file.write(allocations.tobytes())
        file.seek(0)
        file.write(header.tobytes())


def _verify_through_ffcv(path: Path, expected: str) -> None:
    from fastcifar.data.loader import decode_all

    read_layout(path)
    if content_sha256(*decode_all(path)) != expected:
        raise DataError(f"{path}: what FFCV reads back differs from what was written; try again, and check the disk")
