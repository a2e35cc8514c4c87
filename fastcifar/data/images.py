"""Labelled images in memory."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from fastcifar.data.variation import Variation

Images = npt.NDArray[np.uint8]
Labels = npt.NDArray[np.int64]


class ImageSet(NamedTuple):
    """The images and labels of one split."""

    images: Images
    """uint8 [N, H, W, 3], C-contiguous."""
    labels: Labels
    """int64 [N], each an index into the class names of the source."""


CHUNK_BYTES = 1 << 24
"""Bytes of pixels that are worked on at once, so that a large data set is never in memory twice."""


def chunks(images: Images) -> Iterator[Images]:
    """Yield the images, uint8 [N, H, W, 3], in order, in parts of about `CHUNK_BYTES`."""
    step = max(1, CHUNK_BYTES // max(1, images[:1].nbytes))
    for start in range(0, len(images), step):
        yield images[start : start + step]


@dataclass(frozen=True, kw_only=True)
class Origin:
    """Where the images of a data set were read from."""

    path: str
    """The absolute path of a file or folder, or the name of a source that has none, such as 'synthetic'."""
    fingerprint: str
    """SHA-256 of the names, sizes and times of its files; the name itself for a source without files."""


@dataclass(frozen=True, kw_only=True)
class Source:
    """A data set in memory."""

    train: ImageSet
    test: ImageSet
    class_names: tuple[str, ...]
    name: str
    """The kind of source, such as 'cifar-10-python', 'image-folder' or 'synthetic'."""
    origin: Origin | None = None
    """Where the images were read from; None if they were not read from files."""
    true_labels: Labels | None = None
    """int64 [N], the labels of the training images before some were changed on purpose; None if none was."""
    variations: tuple[Variation, ...] = ()
    """The changes that made this data set from another one, in order; empty for an original."""
    notes: tuple[str, ...] = ()
    """What the user should know about the reading, such as files that were passed over; the command prints it."""
