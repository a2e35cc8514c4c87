"""Decode a whole .beton."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from fastcifar.data.beton_format import BetonIndex, read_index
from fastcifar.data.images import ImageSet
from fastcifar.data.loader import BetonLoader
from fastcifar.machine import decoding_threads

DECODE_BYTES = 1 << 22
"""Bytes of pixels per batch."""


def decode_all(path: Path) -> ImageSet:
    """Decode a whole .beton, which needs no manifest, in file order.

    Raises:
        DataError: the file is missing or damaged.
    """
    index = read_index(path)
    images = np.empty((index.samples, index.height, index.width, 3), dtype=np.uint8)
    labels = np.empty(index.samples, dtype=np.int64)
    start = 0
    for part in _decode_in_order(index):
        stop = start + len(part.images)
        images[start:stop], labels[start:stop] = part
        start = stop
    return ImageSet(images, labels)


def decoded_sha256(path: Path) -> str:
    """Return `dataset_sha256` of the images and labels that decoding a whole .beton gives, in little memory.

    Raises:
        DataError: the file is missing or damaged.
    """
    index = read_index(path)
    digest, labels = hashlib.sha256(), np.empty(index.samples, dtype="<i8")
    start = 0
    for part in _decode_in_order(index):
        digest.update(part.images.data)
        labels[start : start + len(part.labels)] = part.labels  # keeping small parts would fragment the heap
        start += len(part.labels)
    digest.update(labels.data)
    return digest.hexdigest()


def _decode_in_order(index: BetonIndex) -> Iterator[ImageSet]:
    """Yield all images and labels of a file in parts of about `DECODE_BYTES`."""
    batch_size = max(1, DECODE_BYTES // index.image_bytes)
    with BetonLoader(index, batch_size=batch_size, train=False, device="cpu", workers=decoding_threads()) as loader:
        for images, labels in loader.batches():
            yield ImageSet(images.permute(0, 2, 3, 1).contiguous().numpy(), labels.numpy())
