"""Create the loader of a .beton."""

from __future__ import annotations

import os
import warnings
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch

from fastcifar.checks import check_divisible
from fastcifar.data.cached_loader import CachedLoader
from fastcifar.data.loader import BetonLoader
from fastcifar.data.manifest import open_beton
from fastcifar.errors import ConfigError, FastCifarWarning
from fastcifar.machine import decoding_threads
from fastcifar.parallel import ALONE, Processes
from fastcifar.settings import LoaderKind, SamplerKind


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
    if train:
        check_divisible(batch_size, processes.count)
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
