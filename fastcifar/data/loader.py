"""Batches of a .beton on the device, in an order that depends on the seed and the epoch only."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator

import numpy as np
import numpy.typing as npt
import torch

from fastcifar.data.beton_format import BetonIndex
from fastcifar.data.decoder import Batch, Decoder, IndexedBatch
from fastcifar.data.memmap import MemmapDecoder
from fastcifar.data.sampler import balanced_draws
from fastcifar.errors import ConfigError
from fastcifar.parallel import ALONE, Processes
from fastcifar.settings import LoaderKind, SamplerKind


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
