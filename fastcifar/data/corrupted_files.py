"""The published files of CIFAR-10-C: a folder with one .npy of images per kind of corruption, and labels.npy."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from fastcifar.errors import DataError

SEVERITIES = 5
LABELS = "labels.npy"


@dataclass(frozen=True, kw_only=True)
class CorruptedFiles:
    """The images of CIFAR-10-C, memory-mapped. In each file the test set comes once per severity, from 1 to 5."""

    images: dict[str, npt.NDArray[np.uint8]]
    """By kind: uint8 [5 × N, H, W, C]."""
    labels: npt.NDArray[np.int64]
    """int64 [5 × N]."""

    @property
    def samples(self) -> int:
        """The number N of images per severity."""
        return len(self.labels) // SEVERITIES

    def part(self, kind: str, severity: int) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.int64]]:
        """Return the images, uint8 [N, H, W, C], and labels, int64 [N], of a severity from 1 to 5."""
        rows = slice((severity - 1) * self.samples, severity * self.samples)
        return self.images[kind][rows], self.labels[rows]


def list_kinds(folder: Path, known: Sequence[str]) -> list[str]:
    """Return those of the `known` kinds that have a file in the folder."""
    return [kind for kind in known if (folder / f"{kind}.npy").exists()]


def open_corrupted_files(
    folder: Path, kinds: Sequence[str], *, image_shape: tuple[int, int, int], classes: int
) -> CorruptedFiles:
    """Map the files of some kinds into memory, and check their form and the labels.

    Args:
        folder: the folder of CIFAR-10-C's .npy files.
        kinds: the names of the files, without .npy.
        image_shape: height, width, channels of an image.
        classes: the number of classes.

    Raises:
        DataError: a file is missing or damaged, or does not fit the others, the image shape or the classes.
    """
    if not folder.is_dir():
        raise DataError(f"{folder}: is not a folder; name the one with the .npy files of CIFAR-10-C")
    if missing := [name for name in (LABELS, *(f"{kind}.npy" for kind in kinds)) if not (folder / name).exists()]:
        advice = "unpack the whole archive of CIFAR-10-C, or choose from the files that are there with --kinds"
        raise DataError(f"{folder}: has no {', '.join(missing)}; {advice}")
    labels = _read_labels(folder / LABELS, classes)
    shape = (len(labels), *image_shape)
    images = {kind: _map_images(folder / f"{kind}.npy", shape) for kind in kinds}
    return CorruptedFiles(images=images, labels=labels)


def _read_labels(path: Path, classes: int) -> npt.NDArray[np.int64]:
    labels = _map(path)
    if labels.ndim != 1 or labels.dtype.kind not in "ui" or not len(labels) or len(labels) % SEVERITIES:
        expected = "whole numbers, one per image, for five severities of equally many images"
        raise DataError(f"{path}: has {_form(labels)}; it must have {expected}")
    if labels.min() < 0 or labels.max() >= classes:
        found = f"from {labels.min()} to {labels.max()}"
        raise DataError(f"{path}: has labels {found}, but the network has {classes} classes; choose a run on this data")
    return labels.astype(np.int64)


def _map_images(path: Path, shape: tuple[int, ...]) -> npt.NDArray[np.uint8]:
    images = _map(path)
    if images.shape != shape or images.dtype != np.uint8:
        raise DataError(
            f"{path}: has {_form(images)}; for this network and {LABELS} it must have uint8 {list(shape)}: check that "
            "the file is complete, and that the run was trained on images of this size"
        )
    return images


def _map(path: Path) -> npt.NDArray[Any]:
    try:
        array = np.load(path, mmap_mode="r", allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        raise DataError(f"{path}: cannot be read as a .npy file ({error}); copy it again") from error
    if not isinstance(array, np.ndarray):
        raise DataError(f"{path}: is an archive of arrays; a .npy file with one array is needed")
    return array


def _form(array: npt.NDArray[Any]) -> str:
    return f"{array.dtype} {list(array.shape)}"
