"""The manifest beside each .beton: what the file holds, and the checks of the file against it."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from fastcifar.data.beton_format import BetonIndex, read_index
from fastcifar.data.images import Images, Labels
from fastcifar.errors import DataError

MANIFEST_VERSION = 1


CIFAR10_CONTENT = {
    "train": "67e12c2a5906880a4fe5595fe6d768185ad7ca587f35d3a7ece3c3b8b85035d2",
    "test": "e54a434ec35094516eacbaac0f2f9550358d985e9d1f71b47d41d333c15ba304",
}
"""`dataset_sha256` of the official 50,000 and 10,000 images in their official order."""


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


def dataset_sha256(images: Images, labels: Labels) -> str:
    """The hash that identifies a data set whatever file it is in."""
    digest = hashlib.sha256(np.ascontiguousarray(images).data)
    digest.update(np.ascontiguousarray(labels, dtype="<i8").data)
    return digest.hexdigest()


def file_sha256(path: Path) -> str:
    """SHA-256 of a file's bytes, in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


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


def open_beton(path: Path, *, verify: bool = True) -> tuple[BetonIndex, Manifest]:
    """Check a .beton's structure, and the file against its manifest.

    Args:
        path: the .beton.
        verify: compare the file's SHA-256 too (about 0.1 s for the 154 MB of CIFAR-10's training set).

    Raises:
        DataError: either is missing or damaged, or they disagree.
    """
    manifest = read_manifest(path)
    layout = read_index(path)
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
