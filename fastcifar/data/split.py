"""Split a training set into images to train on and images to validate on."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from fastcifar.errors import ConfigError

Indices = npt.NDArray[np.int64]


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
