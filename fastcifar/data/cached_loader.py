"""Batches of a .beton from a cache of its decoded images on the device."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from fastcifar.data.beton_format import BetonIndex
from fastcifar.data.decoder import Batch
from fastcifar.data.loader import BetonLoader


class CachedLoader(BetonLoader):
    """The same batches as `BetonLoader`'s, gathered from a cache of decoded images on the device.

    The images are decoded once, in the first epoch. CIFAR-10's training set takes 154 MB.
    """

    def __init__(self, index: BetonIndex, **options: Any) -> None:
        super().__init__(index, **options)
        self._index = index
        self._cache: Batch | None = None
        self._cache_index = np.zeros(int(self.indices.max(initial=0)) + 1, dtype=np.int64)
        """The row of the cache that holds the image at each position in the file."""

    def batches(self, epoch: int = 0, start: int = 0) -> Iterator[Batch]:
        """Yield the batches of an epoch, as `BetonLoader.batches` does."""
        order = self._own_order(epoch, start)
        if len(order) == 0:
            return
        if self._cache is None and len(order) == len(self.indices) and self.sampler == "shuffle":
            yield from self._decoded_and_cached(order)
            return
        # Without a cache, this epoch does not visit every image: decode all of them first
        if self._cache is None:
            for _ in self._decoded_and_cached(self.indices):
                pass
        assert self._cache is not None, "every image was decoded"
        images, labels = self._cache
        rows = torch.from_numpy(self._cache_index[order]).to(self.device, non_blocking=True)
        for batch_rows in rows.split(self.own_batch_size):
            yield images[batch_rows].permute(0, 3, 1, 2), labels[batch_rows]

    def take_cache(self, other: BetonLoader) -> None:
        """Use the images that another loader of the same file has cached on the device, if all of this one's are."""
        if not isinstance(other, CachedLoader) or other._cache is None:
            return
        if not np.isin(self.indices, other.indices).all():
            return
        images, _ = other._cache
        labels = np.zeros(len(images), dtype=np.int64)
        labels[other._cache_index[self.indices]] = self.labels
        self._cache, self._cache_index = (images, torch.from_numpy(labels).to(self.device)), other._cache_index

    def _decoded_and_cached(self, order: npt.NDArray[np.uint64]) -> Iterator[Batch]:
        """Yield the images at these positions as they are decoded, while the device works on earlier ones.

        Each batch goes to the cache, uint8 [N, H, W, 3] and int64 [N], so that the images are there only once.
        """
        shape = (len(order), self._index.height, self._index.width, 3)
        images = torch.empty(shape, dtype=torch.uint8, device=self.device)
        labels = torch.empty(len(order), dtype=torch.int64, device=self.device)
        start = 0
        for batch in self._decoded(order):
            rows = slice(start, start + len(batch[1]))
            images[rows], labels[rows] = batch[0].permute(0, 2, 3, 1), batch[1]
            start = rows.stop
            if start == len(order):  # before the last `yield`, after which the caller may stop
                self._cache_index[order] = np.arange(len(order))
                self._cache = images, labels
            yield batch
