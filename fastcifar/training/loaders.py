"""The loaders of a run: which images it trains on, and which it is evaluated on."""

from __future__ import annotations

import functools

import numpy as np
import torch

from fastcifar.config import TrainConfig
from fastcifar.data.images import Labels
from fastcifar.data.loader import BetonLoader, create_loader
from fastcifar.data.manifest import Manifest, open_beton
from fastcifar.data.pair import read_pair
from fastcifar.data.split import Indices, stratified_split, stratified_subset
from fastcifar.parallel import current
from fastcifar.settings import DataSettings


def create_loaders(config: TrainConfig, device: torch.device) -> tuple[BetonLoader, BetonLoader, Manifest]:
    """Return the training loader, the evaluation loader (test set or validation split) and the training manifest."""
    data, seed = config.data, config.runtime.seed
    train_path, test_path = data.data_dir / "train.beton", data.data_dir / "test.beton"
    index, manifest = open_beton(train_path, verify=data.verify)
    train_indices, test_indices = choose_indices(index.labels, data, seed)
    if data.val_fraction:
        test_path = train_path
    else:
        read_pair(data.data_dir)
    create = functools.partial(
        create_loader,
        device=device,
        seed=seed,
        loader=data.loader,
        workers=data.workers,
        cache_on_device=data.cache_on_device,
        processes=current(),
    )
    verify_test = data.verify and test_path != train_path
    train = functools.partial(create, train_path, batch_size=data.batch_size, train=True, sampler=data.sampler)
    return (
        train(indices=train_indices, verify=False),
        create(test_path, batch_size=data.test_batch_size, train=False, indices=test_indices, verify=verify_test),
        manifest,
    )


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
