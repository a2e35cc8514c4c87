"""The manifest beside each .beton: a description of the file's content, and the checks of the file against it."""

from __future__ import annotations

import base64
import dataclasses
import hashlib
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from fastcifar.data.beton_format import BetonIndex, read_index
from fastcifar.data.images import Images, Labels, chunks
from fastcifar.data.variation import Variation
from fastcifar.errors import DataError

MANIFEST_VERSION = 3
READ_VERSIONS = (1, 2, 3)
"""Version 2 added the origin and the hash of the other split; version 3, variations and true labels."""
WRITE_AGAIN = "run `fastcifar write-beton` again"

CIFAR10_CONTENT = {
    "train": "67e12c2a5906880a4fe5595fe6d768185ad7ca587f35d3a7ece3c3b8b85035d2",
    "test": "e54a434ec35094516eacbaac0f2f9550358d985e9d1f71b47d41d333c15ba304",
}
"""`dataset_sha256` of the official 50,000 and 10,000 images in their official order."""


@dataclass(frozen=True, kw_only=True)
class Manifest:
    """The description of a .beton, stored beside it as <name>.beton.json."""

    format_version: int
    name: str
    """'cifar10' if the images and labels are the official ones, otherwise the kind of source."""
    samples: int
    image_shape: tuple[int, int, int]
    """Height, width, channels."""
    class_names: tuple[str, ...]
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    """Mean and standard deviation per channel over all pixels of the file, pixels in [0, 1]."""
    content_sha256: str
    """SHA-256 of the pixels, uint8 [N, H, W, 3], followed by the labels, little-endian int64 [N]."""
    file_sha256: str
    file_size: int
    """Bytes."""
    source: str | None = None
    """The absolute path that the images were read from, or a name such as 'torchvision:svhn'; None if not known."""
    source_fingerprint: str | None = None
    """SHA-256 of the names, sizes and times of the source's files."""
    other_split_sha256: str | None = None
    """`content_sha256` of the file that was written together with this one, such as test.beton's for train.beton."""
    variations: tuple[Variation, ...] = ()
    """The changes that made this data set from another one, in order."""
    packed_true_labels: str | None = None
    """The labels before some were changed on purpose, as `pack_labels` returns them; None if none was."""

    def describe_variations(self) -> str:
        """Return how the data set was made from another one, in words; empty if it was not."""
        return "; ".join(variation.describe() for variation in self.variations)


def manifest_path(beton: Path) -> Path:
    """Return the path of the manifest of `beton`."""
    return beton.parent / f"{beton.name}.json"


def next_manifest_path(beton: Path) -> Path:
    """Return the path of the manifest of a new file that is about to replace `beton`.

    Two files cannot be renamed at once. The writer puts the new manifest here, then renames the new .beton to its
    place, then renames this manifest to its place. So at any moment one of the two manifests describes the .beton.
    """
    return beton.parent / f"{beton.name}.json.next"


def dataset_sha256(images: Images, labels: Labels) -> str:
    """Return the SHA-256 that identifies a data set, in any file: of uint8 images [N, H, W, 3], then labels [N]."""
    digest = hashlib.sha256()
    for chunk in chunks(images):
        digest.update(np.ascontiguousarray(chunk).data)
    digest.update(np.ascontiguousarray(labels, dtype="<i8").data)
    return digest.hexdigest()


def pack_labels(labels: Labels) -> str:
    """Return labels, int64 [N], as text: little-endian int32, compressed with zlib, in base64."""
    return base64.b64encode(zlib.compress(labels.astype("<i4").tobytes(), level=9)).decode()


def read_true_labels(manifest: Manifest) -> Labels | None:
    """Return the labels before some were changed on purpose, int64 [N] in file order; None if none was.

    Raises:
        DataError: the manifest is damaged.
    """
    if manifest.packed_true_labels is None:
        return None
    try:
        data = zlib.decompress(base64.b64decode(manifest.packed_true_labels, validate=True))
        labels = np.frombuffer(data, dtype="<i4").astype(np.int64)
    except (ValueError, zlib.error) as error:
        raise DataError(f"the true labels in the manifest cannot be read ({error}); {WRITE_AGAIN}") from error
    if len(labels) != manifest.samples or labels.min() < 0 or labels.max() >= len(manifest.class_names):
        raise DataError(f"the true labels in the manifest do not fit its {manifest.samples} images; {WRITE_AGAIN}")
    return labels


def file_sha256(path: Path) -> str:
    """Return the SHA-256 of a file's bytes, in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def read_manifest(beton: Path) -> Manifest:
    """Read the manifest beside `beton`.

    Raises:
        DataError: it is missing or of another format version, or a key is missing, unknown or of the wrong type.
    """
    waiting = next_manifest_path(beton)
    if waiting.exists() and beton.exists():  # a writer was stopped before or after it replaced the .beton
        manifest = _parse_manifest(beton, waiting)
        if manifest.file_sha256 == file_sha256(beton):
            return manifest
    return _parse_manifest(beton, manifest_path(beton))


def _parse_manifest(beton: Path, path: Path) -> Manifest:
    try:
        values = msgspec.json.decode(path.read_bytes(), type=dict[str, Any])
        version = values.get("format_version", MANIFEST_VERSION)
        if isinstance(version, int) and version not in READ_VERSIONS:
            known = f"{READ_VERSIONS[0]} to {READ_VERSIONS[-1]}"
            raise DataError(f"{path}: its format version is {version}, and this fastcifar reads {known}; {WRITE_AGAIN}")
        if unknown := values.keys() - {field.name for field in dataclasses.fields(Manifest)}:
            raise ValueError(f"unknown key {', '.join(sorted(unknown))}")
        return msgspec.convert(values, Manifest)
    except FileNotFoundError:
        if beton.is_dir():
            raise DataError(f"{beton}: is a folder; name a .beton in it, such as {beton / 'train.beton'}") from None
        if not beton.exists():
            raise DataError(f"{beton}: there is no such file; `fastcifar write-beton` creates it") from None
        raise DataError(
            f"{beton}: has no manifest, {path.name}; if FFCV's own writer made this file, `fastcifar adopt {beton}` "
            "makes one"
        ) from None
    except (OSError, ValueError, RecursionError) as error:
        raise DataError(f"{path}: cannot be read as a manifest ({error}); {WRITE_AGAIN}") from error


def open_beton(path: Path, *, verify: bool = True) -> tuple[BetonIndex, Manifest]:
    """Check the structure of a .beton, and check the file against its manifest.

    `verify` compares the file's SHA-256 too (about 0.1 s for the 154 MB of CIFAR-10's training set).

    Raises:
        DataError: the file or its manifest is missing or damaged, or they disagree.
    """
    manifest = read_manifest(path)
    index = read_index(path)
    found = {
        "file_size": path.stat().st_size,
        "samples": index.samples,
        "image_shape": (index.height, index.width, 3),
        "file_sha256": file_sha256(path) if verify else manifest.file_sha256,
    }
    for field, value in found.items():
        if value != (expected := getattr(manifest, field)):
            raise DataError(f"{path}: {field} is {value}, but its manifest says {expected}; {WRITE_AGAIN}")
    classes = len(manifest.class_names)
    if index.labels.min() < 0 or index.labels.max() >= classes:
        raise DataError(f"{path}: it has labels outside its {classes} classes; {WRITE_AGAIN}")
    return index, manifest
