"""Batches of a .beton on the device, in an order that depends on the seed and the epoch only."""

from __future__ import annotations

import hashlib
import os
import warnings
from collections.abc import Callable, Generator, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from fastcifar.data.beton_format import BetonIndex, read_index
from fastcifar.data.decoder import Batch, Decoder, IndexedBatch
from fastcifar.data.images import ImageSet
from fastcifar.data.manifest import open_beton
from fastcifar.data.memmap import MemmapDecoder
from fastcifar.data.sampler import balanced_draws
from fastcifar.errors import ConfigError, FastCifarWarning
from fastcifar.machine import decoding_threads
from fastcifar.parallel import ALONE, Processes
from fastcifar.settings import LoaderKind, SamplerKind

DECODE_BYTES = 1 << 22
"""Bytes of pixels per batch when a whole file is decoded."""


def decoder_class(kind: LoaderKind) -> Callable[..., Decoder]:
    """Return FFCV's decoder or the memory map's; 'auto' is FFCV's if FFCV can be imported.

    Raises:
        ConfigError: the kind is 'ffcv', and FFCV cannot be imported.
    """
    if kind == "memmap":
        return MemmapDecoder
    try:
        from fastcifar.data.ffcv_compat import FFCVDecoder
    except (ImportError, OSError) as error:  # OSError: one of its libraries does not load
        if kind == "auto":
            return MemmapDecoder
        raise ConfigError(
            f"loader is 'ffcv', but FFCV cannot be imported ({error}): install it with `pip install "
            "'fastcifar[ffcv]'`, or choose 'memmap', which gives the same batches"
        ) from error
    return FFCVDecoder


class BetonLoader:
    """Batches of one .beton. A context manager that ends the decoding threads.

    Training epochs are shuffled, each in its own order, drawn from the seed, and drop the last batch if it is not full.
    Other loaders give every image in file order. With the sampler 'balanced', a training epoch has each class equally
    often. The loader has no position: `batches` takes the epoch.

    Of several processes, each gets its part of every training batch, and in turn a whole batch for evaluation: together
    they get the batches of one process, which `order` and the length describe.
    """

    def __init__(
        self,
        index: BetonIndex,
        *,
        batch_size: int,
        train: bool,
        device: torch.device | str,
        workers: int,
        seed: int = 0,
        indices: npt.NDArray[np.int64] | None = None,
        loader: LoaderKind = "auto",
        sampler: SamplerKind = "shuffle",
        processes: Processes = ALONE,
    ) -> None:
        self.batch_size, self.train, self.device, self.seed = batch_size, train, torch.device(device), seed
        self.sampler, self.processes = sampler, processes
        self.own_batch_size = batch_size // processes.count if train else batch_size
        chosen = np.arange(index.samples) if indices is None else indices
        self.indices: npt.NDArray[np.uint64] = np.array(chosen, dtype=np.uint64)
        self.labels = index.labels[chosen]
        create = decoder_class(loader)
        self._decoder = create(index, batch_size=self.own_batch_size, workers=workers, device=self.device)
        self._running: Generator[Batch, None, None] | None = None

    def __len__(self) -> int:
        """Batches per epoch."""
        full, rest = divmod(len(self.indices), self.batch_size)
        return full if self.train or not rest else full + 1

    @property
    def samples(self) -> int:
        """Images per epoch."""
        return len(self) * self.batch_size if self.train else len(self.indices)

    def order(self, epoch: int) -> npt.NDArray[np.uint64]:
        """Return the positions in the file of the epoch's images, in the epoch's order: uint64 [samples].

        The random streams of different seeds and epochs are independent.
        """
        if not self.train:
            return self.indices
        stream = np.random.SeedSequence(entropy=self.seed, spawn_key=(epoch,))
        generator = np.random.default_rng(stream)
        if self.sampler == "balanced":
            return self.indices[balanced_draws(self.labels, self.samples, generator)]
        return generator.permutation(self.indices)[: self.samples]

    def flip_mask(self, epoch: int) -> npt.NDArray[np.bool_]:
        """Return which of the epoch's images to flip, in the epoch's order: bool [samples].

        Half of the images are flipped in the first epoch, the other half in the next one, and so on in turn. An image
        that is drawn several times in an epoch is flipped each time or never.
        Source: KellerJordan/cifar10-airbench.
        """
        stream = np.random.SeedSequence(entropy=self.seed, spawn_key=(0, 0))  # no epoch uses this stream
        first = np.random.default_rng(stream).random(int(self.indices.max()) + 1) < 0.5
        return first[self.order(epoch)] ^ (epoch % 2 == 1)

    def warm_up(self) -> None:
        """Compile the decoders without reading an image."""
        self._decoder.warm_up()

    def batches(self, epoch: int = 0, start: int = 0) -> Iterator[Batch]:
        """Yield the batches of an epoch from batch `start` on; both are numbered from 0.

        Yields:
            uint8 images [B, 3, H, W] in channels-last format and int64 labels [B], on the loader's device.

        Raises:
            DataError: the file cannot be read, or was changed while it was in use.
        """
        order = self._own_order(epoch, start)
        if len(order):
            yield from self._decoded(order)

    def _own_order(self, epoch: int, start: int) -> npt.NDArray[np.uint64]:
        """Return the positions in the file of the images that this process gets, from batch `start` on."""
        order = self.order(epoch)[start * self.batch_size :]
        rank, count = self.processes.rank, self.processes.count
        if count == 1:
            return order
        if self.train:
            return order.reshape(-1, self.batch_size)[:, self.processes.share(self.batch_size)].ravel()
        batches = np.split(order, range(self.batch_size, len(order), self.batch_size))
        return np.concatenate([order[:0], *batches[rank::count]])

    def batches_with_indices(self, epoch: int = 0, start: int = 0) -> Iterator[IndexedBatch]:
        """Yield the batches of `batches`, each with the positions of its images in the file.

        The positions are copied to the device once, before the first batch, and nothing waits for them.

        Yields:
            uint8 images [B, 3, H, W], int64 labels [B] and int64 indices [B], on the loader's device.
        """
        order = torch.from_numpy(self._own_order(epoch, start).astype(np.int64))
        indices = order.to(self.device, non_blocking=True).split(self.own_batch_size)
        for (images, labels), chosen in zip(self.batches(epoch, start), indices, strict=len(order) > 0):
            yield images, labels, chosen

    def _decoded(self, order: npt.NDArray[np.uint64]) -> Iterator[Batch]:
        """Yield the images at these positions in the file, in batches on the device."""
        self.close()
        self._running = self._decoder.batches(order)
        yield from self._running

    def take_cache(self, other: BetonLoader) -> None:
        """Do nothing, since this loader caches no images."""

    def close(self) -> None:
        """End the running decoding threads, if there are any."""
        if self._running is not None:
            self._running.close()
            self._running = None

    def __enter__(self) -> BetonLoader:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()


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
    loader: LoaderKind = "auto",
    sampler: SamplerKind = "shuffle",
    verify: bool = True,
    processes: Processes = ALONE,
) -> BetonLoader:
    """Open a .beton, after checking it against its manifest, as a loader of batches on `device`.

    Args:
        path: the .beton.
        batch_size: images per batch.
        train: shuffle, and drop the last batch if it is not full; otherwise give every image in file order.
        device: the device of the batches; copies to CUDA are asynchronous and overlap with training.
        seed: the seed of the shuffled orders.
        workers: decoding threads, at most as many as this process may use; all of these if not given.
        indices: int64 [M], the positions in the file of the images to use; all images if not given.
        cache_on_device: keep the decoded images on the device after the first epoch.
        loader: what decodes: 'ffcv', 'memmap' (the same batches, by a memory map), or 'auto', FFCV if it is installed.
        sampler: the images of a training epoch: each once ('shuffle'), or each class equally often ('balanced').
        verify: compare the file's SHA-256 with the manifest's.
        processes: the processes that share the batches.

    Returns:
        A loader whose `batches(epoch)` yields (uint8 images [B, 3, H, W] in channels-last format, int64 labels [B]);
        its `batches_with_indices(epoch)` also yields the images' positions in the file, int64 [B].

    Raises:
        DataError: the file or its manifest is missing or damaged, or they disagree.
        ConfigError: a training batch is larger than the data set or cannot be divided among the processes, or FFCV is
            asked for and cannot be imported.

    Warns:
        FastCifarWarning: there are more workers than this process may use, for example because the run comes from a
            larger machine; it uses fewer.
    """
    path = Path(os.path.expanduser(path))
    index, _ = open_beton(path, verify=verify)
    available = index.samples if indices is None else len(indices)
    if train and batch_size > available:
        raise ConfigError(
            f"batch_size is {batch_size}; {path} has {available} images to train on: choose at most {available}"
        )
    if train and batch_size % processes.count:
        raise ConfigError(
            f"batch_size is {batch_size}; it must be a multiple of the {processes.count} processes: choose "
            f"{batch_size - batch_size % processes.count or processes.count}"
        )
    create = CachedLoader if cache_on_device else BetonLoader
    return create(
        index,
        batch_size=batch_size,
        train=train,
        device=device,
        workers=_decoding_threads(workers),
        seed=seed,
        indices=indices,
        loader=loader,
        sampler=sampler,
        processes=processes,
    )


def _decoding_threads(workers: int | None) -> int:
    most = decoding_threads()
    if workers is not None and workers > most:
        text = f"workers is {workers}, and this process may use {most}: decoding with {most}"
        warnings.warn(text, FastCifarWarning, stacklevel=3)
    return min(workers or most, most)


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
