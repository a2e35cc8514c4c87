"""The loaders of a run: which images it trains on, and which it is evaluated on."""

from __future__ import annotations

import functools
import math

import numpy as np
import torch

from fastcifar.config import TrainConfig
from fastcifar.data.cached_loader import CachedLoader
from fastcifar.data.create import create_loader
from fastcifar.data.images import Labels
from fastcifar.data.loader import BetonLoader
from fastcifar.data.manifest import Manifest, open_beton
from fastcifar.data.pair import read_pair
from fastcifar.data.split import Indices, stratified_split, stratified_subset
from fastcifar.machine import available_memory_bytes
from fastcifar.parallel import current
from fastcifar.settings import DataSettings

CACHE_SHARE = 0.5
"""Share of the device's free memory that cached images may take; the network needs the rest."""


def create_loaders(config: TrainConfig, device: torch.device) -> tuple[BetonLoader, BetonLoader, Manifest]:
    """Return the training loader, the evaluation loader (test set or validation split) and the training manifest."""
    data, seed = config.data, config.runtime.seed
    train_path, test_path = data.data_dir / "train.beton", data.data_dir / "test.beton"
    index, manifest = open_beton(train_path, verify=data.verify)
    train_indices, test_indices = choose_indices(index.labels, data, seed)
    test_manifest = manifest
    if data.val_fraction:
        test_path = train_path
    else:
        _, test_manifest = read_pair(data.data_dir)
    counts = [
        each.samples if chosen is None else len(chosen)
        for each, chosen in ((manifest, train_indices), (test_manifest, test_indices))
    ]
    image_bytes = math.prod(manifest.image_shape)
    create = functools.partial(
        create_loader,
        device=device,
        seed=seed,
        loader=data.loader,
        workers=data.workers,
        cache_on_device=data.cache_on_device and fits_on_device(sum(counts) * image_bytes, device),
        processes=current(),
    )
    verify_test = data.verify and test_path != train_path
    train = functools.partial(create, train_path, batch_size=data.batch_size, train=True, sampler=data.sampler)
    return (
        train(indices=train_indices, verify=False),
        create(test_path, batch_size=data.test_batch_size, train=False, indices=test_indices, verify=verify_test),
        manifest,
    )


def fits_on_device(cache_bytes: int, device: torch.device) -> bool:
    """Tell whether cached images of this size leave the device enough free memory."""
    if device.type == "cuda":  # only on a GPU
        return cache_bytes <= CACHE_SHARE * torch.cuda.mem_get_info(device)[0]
    return cache_bytes <= CACHE_SHARE * available_memory_bytes()


def note_cache(asked: bool, loader: BetonLoader) -> list[str]:
    """Return a note if images that should be cached are decoded in each epoch, since the device has no room for them.

    `asked` is the setting `cache_on_device`, `loader` the training loader that was created with it.
    """
    if not asked or isinstance(loader, CachedLoader):
        return []
    return [f"The images do not fit in {CACHE_SHARE:.0%} of the device's free memory: decoding them in each epoch"]


def choose_indices(labels: Labels, data: DataSettings, seed: int) -> tuple[Indices | None, Indices | None]:
    """Return the positions to train on and those to validate on, int64 [M]; None for the whole file and the test set.

    The validation split comes first, so that it is the same for each size of the subset of the others.
    """
    training = validation = None
    if data.val_fraction:
        training, validation = stratified_split(labels, data.val_fraction, seed)
    if data.subset is not None:
        training = np.arange(len(labels)) if training is None else training
        training = training[stratified_subset(labels[training], data.subset, seed)]
    return training, validation
