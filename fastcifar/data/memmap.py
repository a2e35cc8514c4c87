"""The decoder that needs no FFCV: it copies the images of a batch from the memory-mapped file with NumPy.

The pixels of a .beton are not compressed, so decoding is copying, and NumPy copies without holding Python's lock. On
two cores it is as fast as FFCV's compiled code, and there is nothing to compile.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Generator, Iterator
from concurrent.futures import Future, ThreadPoolExecutor

import numpy as np
import numpy.typing as npt
import torch

from fastcifar.data.beton_format import BetonIndex
from fastcifar.data.decoder import BATCHES_AHEAD, Batch, WatchedFile, to_device


class MemmapDecoder:
    """Decodes a .beton that is mapped into memory; see `Decoder`. Each thread reads whole batches."""

    def __init__(self, index: BetonIndex, *, batch_size: int, workers: int, device: torch.device) -> None:
        self._index, self._batch_size, self._device = index, batch_size, device
        self._threads = min(workers, BATCHES_AHEAD)
        self._file, self._rows = WatchedFile(index.path), index.rows()

    def warm_up(self) -> None:
        """Do nothing: there is nothing to compile."""

    def batches(self, order: npt.NDArray[np.uint64]) -> Generator[Batch, None, None]:
        """Yield the images at these positions in the file, as `Decoder.batches` does."""
        batches = self._read_ahead(order)
        yield from to_device(batches, self._device) if self._device.type == "cuda" else batches

    def _read_ahead(self, order: npt.NDArray[np.uint64]) -> Iterator[Batch]:
        ahead: deque[Future[Batch]] = deque()
        pool = ThreadPoolExecutor(self._threads, thread_name_prefix="fastcifar-decoder")
        try:
            for start in range(0, len(order), self._batch_size):
                ahead.append(pool.submit(self.read, order[start : start + self._batch_size]))
                if len(ahead) > BATCHES_AHEAD:
                    yield ahead.popleft().result()
            while ahead:
                yield ahead.popleft().result()
            self._file.check_unchanged()
        finally:
            pool.shutdown(cancel_futures=True)

    def read(self, positions: npt.NDArray[np.uint64]) -> Batch:
        """Copy one batch from the file, into pinned memory if the device is a GPU.

        Raises:
            DataError: the file was changed while it was in use.
        """
        self._file.check_unchanged()
        pixels = self._rows[self._index.offsets[positions]]
        images = torch.from_numpy(pixels.reshape(-1, self._index.height, self._index.width, 3)).permute(0, 3, 1, 2)
        labels = torch.from_numpy(self._index.labels[positions])
        return (images.pin_memory(), labels.pin_memory()) if self._device.type == "cuda" else (images, labels)
