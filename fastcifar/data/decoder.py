"""The interface between a loader and its decoder, and what the two decoders, FFCV and the memory map, share."""

from __future__ import annotations

from collections.abc import Generator, Iterator
from pathlib import Path
from typing import Protocol

import numpy as np
import numpy.typing as npt
import torch

from fastcifar.errors import DataError

Batch = tuple[torch.Tensor, torch.Tensor]
"""uint8 images [B, 3, H, W] in channels-last format and int64 labels [B], on the loader's device."""
IndexedBatch = tuple[torch.Tensor, torch.Tensor, torch.Tensor]
"""A batch and the positions of its images in the file, int64 [B], on the loader's device."""

BATCHES_AHEAD = 3
"""Batches that are decoded ahead of the training."""


class Decoder(Protocol):
    """Reads the images of one .beton, in threads that are ahead of the training."""

    def warm_up(self) -> None:
        """Compile without reading an image, where there is something to compile."""

    def batches(self, order: npt.NDArray[np.uint64]) -> Generator[Batch, None, None]:
        """Yield the images at these positions in the file, uint64 [N], in batches on the device.

        The batches stay valid. Closing the generator ends its threads.

        Raises:
            DataError: the file cannot be read, or was changed while it was in use.
        """


class WatchedFile:
    """A mapped file, which must stay the same: reading beyond a new end would kill the process."""

    def __init__(self, path: Path) -> None:
        self.path, self._signature = path, _signature(path)

    def check_unchanged(self) -> None:
        """Compare, in microseconds, the file with the one that was there at first.

        Raises:
            DataError: the file was replaced, removed or written to.
        """
        if _signature(self.path) != self._signature:
            raise DataError(f"{self.path}: was changed while it was in use; start again")


def _signature(path: Path) -> tuple[int, ...] | None:
    """Return numbers that change when a file is replaced or written to; None if there is no such file."""
    try:
        status = path.stat()
    except OSError:
        return None
    return status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns


def to_device(batches: Iterator[Batch], device: torch.device) -> Iterator[Batch]:  # only on a GPU
    """Yield copies of pinned batches on the device. They run on their own stream, and training's stream waits."""
    stream = torch.cuda.Stream(device)
    for images, labels in batches:
        with torch.cuda.stream(stream):
            on_device = images.to(device, non_blocking=True), labels.to(device, non_blocking=True)
            copy_done = torch.cuda.Event()
            copy_done.record(stream)
        training = torch.cuda.current_stream(device)
        training.wait_event(copy_done)
        for tensor in on_device:
            tensor.record_stream(training)
        yield on_device
        copy_done.synchronize()  # the next batch may use this buffer again; the copy finished long before
