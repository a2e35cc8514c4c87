"""Split a training set into images to train on and images to validate on."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from fastcifar.errors import ConfigError

Indices = npt.NDArray[np.int64]


def stratified_subset(labels: npt.NDArray[np.int64], size: float, seed: int) -> Indices:
    """Choose images at random, with the same fraction of each class up to one image.

    `labels` are int64 [N]. A `size` below 1 is a fraction, and is rounded to whole images; from 1 on, it is a number of
    images. Of several sizes from one seed, the smaller subset is part of the larger one. Each class has an image if
    there are as many images as classes.

    Returns:
        The chosen positions: a sorted int64 array.

    Raises:
        ConfigError: there are fewer images.

    Source of the rounding: the apportionment method of Sainte-Laguë, with which no class loses an image when the
    subset grows.
    """
    count = max(1, round(size * len(labels))) if size < 1 else int(size)
    if count > len(labels):
        raise ConfigError(f"subset is {count}; there are {len(labels)} training images: choose at most these")
    generator = np.random.default_rng(np.random.SeedSequence(entropy=seed, spawn_key=(0x5EED, 2)))
    positions, priority = [], []
    for label in np.unique(labels):
        positions.append(generator.permutation(np.flatnonzero(labels == label)))
        place = np.arange(len(positions[-1]))
        priority.append(np.where(place == 0, 0, (place + 0.5) / len(place)))
    chosen = np.argsort(np.concatenate(priority), kind="stable")[:count]
    return np.sort(np.concatenate(positions)[chosen])


def stratified_split(labels: npt.NDArray[np.int64], fraction: float, seed: int) -> tuple[Indices, Indices]:
    """Choose the same fraction of each class for validation, at random.

    `labels` are int64 [N]. The fraction is above 0 and below 1, and is rounded to whole images. A class of at least two
    images has at least one on each side; the image of a class of one is trained on.

    Returns:
        The positions to train on and the positions to validate on: two sorted int64 arrays without a common element,
        which together hold 0 to N - 1.

    Raises:
        ConfigError: no class has two images, so that none is left to validate on.
    """
    generator = np.random.default_rng(np.random.SeedSequence(entropy=seed, spawn_key=(0x5EED, 1)))
    chosen: list[Indices] = []
    for label in np.unique(labels):
        positions = generator.permutation(np.flatnonzero(labels == label))
        count = round(fraction * len(positions))
        chosen.append(positions[: min(max(count, 1), len(positions) - 1)])
    validation = np.sort(np.concatenate(chosen))
    training = np.setdiff1d(np.arange(len(labels)), validation)
    if not len(validation):
        raise ConfigError(f"a fraction of {fraction} of each class cannot be held out: no class has two images")
    return training, validation
