"""Batches of a .beton, epoch by epoch, in an order that the seed gives, on the device."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from fastcifar.data.beton_format import BetonIndex, read_index
from fastcifar.data.ffcv_compat import (
    BATCHES_AHEAD,
    Batch,
    FileSignature,
    SafeEpochIterator,
    clone_batches,
    mmap_reader,
    preserve_torch_threads,
    to_device,
)
from fastcifar.data.manifest import open_beton
from fastcifar.errors import ConfigError
from fastcifar.machine import usable_cores

with preserve_torch_threads():
    from ffcv.fields.basics import IntDecoder
    from ffcv.fields.rgb_image import SimpleRGBImageDecoder
    from ffcv.loader import Loader, OrderOption

DECODE_BYTES = 1 << 22
"""Pixels in a batch when a whole file is decoded."""


class BetonLoader:
    """Batches of one .beton, epoch by epoch. A context manager that ends the decoding thread.

    Training epochs are shuffled, each in its own order, drawn from the seed, and drop the last batch if it is not full.
    Other loaders give every image in file order. The loader has no position: `batches` names the epoch.
    """

    def __init__(
        self,
        path: Path,
        *,
        batch_size: int,
        train: bool,
        device: torch.device,
        seed: int,
        workers: int,
        indices: npt.NDArray[np.int64] | None = None,
    ) -> None:
        self.batch_size, self.train, self.device, self.seed = batch_size, train, device, seed
        self._workers = workers
        self._file = FileSignature(path)
        with preserve_torch_threads(), mmap_reader():
            self._loader = Loader(
                os.fspath(path),
                batch_size=batch_size,
                num_workers=workers,
                os_cache=True,  # memory-mapped
                order=OrderOption.SEQUENTIAL,
                drop_last=train,
                batches_ahead=BATCHES_AHEAD,
                indices=indices,
                pipelines={"image": [SimpleRGBImageDecoder()], "label": [IntDecoder()]},
            )
        self.indices: npt.NDArray[np.uint64] = np.asarray(self._loader.indices, dtype=np.uint64)
        self._running: SafeEpochIterator | None = None

    def __len__(self) -> int:
        """Batches per epoch."""
        return len(self._loader)

    @property
    def samples(self) -> int:
        """Images per epoch."""
        return len(self) * self.batch_size if self.train else len(self.indices)

    def order(self, epoch: int) -> npt.NDArray[np.uint64]:
        """The file positions that `epoch` visits, in its order. Streams of different seeds are independent."""
        if not self.train:
            return self.indices
        stream = np.random.SeedSequence(entropy=self.seed, spawn_key=(epoch,))
        return np.random.default_rng(stream).permutation(self.indices)[: self.samples]

    def flip_mask(self, epoch: int) -> npt.NDArray[np.bool_]:
        """Which of the images that `epoch` visits, in its order, to flip so that each is flipped in every other epoch.

        Source: KellerJordan/cifar10-airbench, which flips half of the images in the first epoch.
        """
        stream = np.random.SeedSequence(entropy=self.seed, spawn_key=(0, 0))  # the stream of no epoch
        first = np.random.default_rng(stream).random(int(self.indices.max()) + 1) < 0.5
        return first[self.order(epoch)] ^ (epoch % 2 == 1)

    def warm_up(self) -> None:
        """Compile the decoder without reading an image."""
        with self._start(self.indices[:0]) as iterator:
            iterator.decode(0, self.indices[:0], slot=0)

    def batches(self, epoch: int = 0, start: int = 0) -> Iterator[Batch]:
        """Yield the batches of an epoch (from 0), from batch number `start` on.

        Yields:
            uint8 images [B, 3, H, W] in channels-last format and int64 labels [B], on the loader's device.

        Raises:
            DataError: the file cannot be read, or was changed while it was in use.
        """
        yield from self._decoded(self.order(epoch)[start * self.batch_size :])

    def _decoded(self, order: npt.NDArray[np.uint64]) -> Iterator[Batch]:
        """Batches of the images at these file positions, on the device."""
        with self._start(order) as batches:
            yield from to_device(batches, self.device) if self.device.type == "cuda" else clone_batches(batches)

    @contextmanager
    def _start(self, order: npt.NDArray[np.uint64]) -> Iterator[SafeEpochIterator]:
        self.close()
        self._file.check()
        with preserve_torch_threads():
            self._running = iterator = SafeEpochIterator(self._loader, order, self._workers, self._file)
        try:
            yield iterator
        finally:
            iterator.close()

    def close(self) -> None:
        """End the running decoding thread, if there is one."""
        if self._running is not None:
            self._running.close()
            self._running = None

    def __enter__(self) -> BetonLoader:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


class CachedLoader(BetonLoader):
    """The same batches, gathered from images that FFCV decodes once and that stay on the device.

    The cache is filled in the first epoch. CIFAR-10 takes 154 MB.
    """

    def __init__(self, path: Path, **options: Any) -> None:
        super().__init__(path, **options)
        self._cache: Batch | None = None
        self._cache_index = np.zeros(int(self.indices.max(initial=0)) + 1, dtype=np.int64)
        """The row in the cache of each file position."""

    def batches(self, epoch: int = 0, start: int = 0) -> Iterator[Batch]:
        """Yield the batches of an epoch, as `BetonLoader.batches` does."""
        order = self.order(epoch)[start * self.batch_size :]
        if self._cache is None and len(order) == len(self.indices):
            yield from self._first_epoch(order)
            return
        if self._cache is None:  # the epoch leaves images out: decode the whole set first
            self._fill_cache([*self._decoded(self.indices)], self.indices)
        yield from self._gathered(order)

    def _first_epoch(self, order: npt.NDArray[np.uint64]) -> Iterator[Batch]:
        """Batches as they are decoded, while the device works on earlier ones."""
        batches: list[Batch] = []
        for batch in self._decoded(order):
            batches.append(batch)
            if len(batches) == len(self):  # before the last one is yielded: the caller may not ask for another
                self._fill_cache(batches, order)
            yield batch

    def _gathered(self, order: npt.NDArray[np.uint64]) -> Iterator[Batch]:
        assert self._cache is not None
        pixels, labels = self._cache
        rows = torch.from_numpy(self._cache_index[order]).to(self.device, non_blocking=True)
        for batch_rows in rows.split(self.batch_size):
            yield pixels[batch_rows].permute(0, 3, 1, 2), labels[batch_rows]

    def _fill_cache(self, batches: list[Batch], order: npt.NDArray[np.uint64]) -> None:
        """Keep images, as uint8 [N, H, W, 3], and labels, int64 [N], of the file positions `order`."""
        images, labels = zip(*batches, strict=True)
        self._cache_index[order] = np.arange(len(order))
        self._cache = torch.cat([batch.permute(0, 2, 3, 1) for batch in images]), torch.cat(labels)


def create_loader(
    path: Path | str,
    *,
    batch_size: int,
    train: bool,
    device: torch.device | str = "cpu",
    seed: int = 0,
    workers: int | None = None,
    indices: npt.NDArray[np.int64] | None = None,
    cache_on_device: bool = False,
    verify: bool = True,
) -> BetonLoader:
    """Open a .beton, checked against its manifest, as an iterable of batches on `device`.

    Args:
        path: the .beton.
        batch_size: images a batch.
        train: shuffle, and drop a last batch that is not full; otherwise file order and every image.
        device: where the batches go; on CUDA by asynchronous copies that overlap with training.
        seed: of the sample order.
        workers: decoding threads; all the cores this process may use if not given.
        indices: int64 [M], the file positions to use instead of all.
        cache_on_device: keep the decoded images on the device after the first epoch; they are its batches themselves, which
            are to be read only.
        verify: compare the file's SHA-256 with the manifest's.

    Returns:
        A loader whose `batches(epoch)` yields (uint8 images [B, 3, H, W] in channels-last format, int64 labels [B]).

    Raises:
        DataError: the file or its manifest is missing or damaged, or they disagree.
        ConfigError: more workers than cores, or a training batch larger than the data set.
    """
    layout, _ = open_beton(Path(path), verify=verify)
    available = layout.samples if indices is None else len(indices)
    if train and batch_size > available:
        raise ConfigError(f"batch_size is {batch_size}; {path} has {available} images to train on: choose fewer")
    return (CachedLoader if cache_on_device else BetonLoader)(
        Path(path),
        batch_size=batch_size,
        train=train,
        device=torch.device(device),
        seed=seed,
        workers=_checked_workers(workers),
        indices=indices,
    )


def decode_all(path: Path) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.int64]]:
    """Every image, uint8 [N, H, W, 3], and label, int64 [N], as FFCV decodes them; needs no manifest."""
    layout: BetonIndex = read_index(path)
    loader = BetonLoader(
        path,
        batch_size=max(1, DECODE_BYTES // layout.image_bytes),
        train=False,
        device=torch.device("cpu"),
        seed=0,
        workers=_checked_workers(None),
    )
    images = np.empty((layout.samples, layout.height, layout.width, 3), dtype=np.uint8)
    labels = np.empty(layout.samples, dtype=np.int64)
    start = 0
    with loader:
        for batch, batch_labels in loader.batches():
            stop = start + len(batch)
            images[start:stop] = batch.permute(0, 2, 3, 1).numpy()
            labels[start:stop] = batch_labels.numpy()
            start = stop
    return images, labels


def _checked_workers(workers: int | None) -> int:
    cores = usable_cores()
    if workers is not None and workers > cores:
        raise ConfigError(f"workers is {workers}; this process may use {cores} cores: choose at most {cores}")
    return workers or cores
