"""The thread that decodes the batches of an epoch with FFCV, ahead of the training, and ends safely."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from fastcifar.data.decoder import BATCHES_AHEAD, Batch
from fastcifar.errors import DataError

SLOTS = BATCHES_AHEAD + 2
"""Batches that need a buffer at the same time: those ahead, the one that is decoded, and the one that is used."""
BATCH_TIMEOUT_SECONDS = 300
"""Seconds to wait for a batch, which takes milliseconds, or for the thread to end."""


class DecodingThread(threading.Thread):
    """Decodes batches in turn into `SLOTS` buffers; an iterator of them. It starts at once.

    An error in the thread is raised in the caller, and `close` ends the thread in the middle of an epoch. FFCV's own
    `EpochIterator` does neither (libffcv/ffcv#345, #372), and its CUDA streams are on the wrong device for "cuda:1" and
    initialise CUDA for a loader on the CPU.

    Args:
        path: the .beton, for messages.
        batches: the positions in the file of each batch's images, uint64 [B].
        decode: decodes the images at some positions into the buffer with a number below `SLOTS`.
    """

    def __init__(
        self,
        path: Path,
        batches: Sequence[npt.NDArray[np.uint64]],
        decode: Callable[[npt.NDArray[np.uint64], int], Batch],
    ) -> None:
        super().__init__(daemon=True)
        self._path, self._batches, self._decode = path, batches, decode
        self._output: queue.Queue[Any] = queue.Queue(BATCHES_AHEAD)
        self._stop_requested = threading.Event()
        self.start()

    def run(self) -> None:
        """Decode the batches, in the thread."""
        try:
            for number, positions in enumerate(self._batches):
                if not self._put(self._decode(positions, number % SLOTS)):
                    return
            self._put(None)
        except BaseException as error:  # raised in __next__, in the caller's thread
            self._put(error)

    def _put(self, item: object) -> bool:
        while not self._stop_requested.is_set():
            try:
                self._output.put(item, timeout=0.1)
                return True
            except queue.Full:
                pass
        return False

    def __iter__(self) -> Iterator[Batch]:
        return self

    def __next__(self) -> Batch:
        item = self._get()
        if item is None:
            raise StopIteration
        if isinstance(item, DataError):
            raise item
        if isinstance(item, BaseException):
            raise DataError(f"{self._path}: FFCV could not decode a batch: {item!r}") from item
        images, labels = item
        return images, labels

    def _get(self) -> Any:
        for _ in range(BATCH_TIMEOUT_SECONDS):
            try:
                return self._output.get(timeout=1.0)
            except queue.Empty:
                if not self.is_alive() and self._output.empty():
                    raise DataError(f"{self._path}: FFCV's decoding thread ended without an error") from None
        raise DataError(f"{self._path}: no batch for {BATCH_TIMEOUT_SECONDS} s; check that the file can still be read")

    def close(self) -> None:
        """End the thread."""
        self._stop_requested.set()
        if self.is_alive():
            self.join(BATCH_TIMEOUT_SECONDS)
