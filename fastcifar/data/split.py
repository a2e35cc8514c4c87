"""Split a training set into images to train on and images to validate on."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from fastcifar.errors import ConfigError

Indices = npt.NDArray[np.int64]


def stratified_split(labels: npt.NDArray[np.int64], fraction: float, seed: int) -> tuple[Indices, Indices]:
    """Choose the same fraction of each class for validation, at random.

    `labels` are int64 [N]. The fraction is above 0 and below 1, and is rounded to whole images.

    Returns:
        The positions to train on and the positions to validate on: two sorted int64 arrays without a common element,
        which together hold 0 to N - 1.

    Raises:
        ConfigError: the fraction leaves no image to train on, or none to validate on.
    """
    generator = np.random.default_rng(np.random.SeedSequence(entropy=seed, spawn_key=(0x5EED, 1)))
    chosen: list[Indices] = []
    for label in np.unique(labels):
        positions = generator.permutation(np.flatnonzero(labels == label))
        chosen.append(positions[: round(fraction * len(positions))])
    validation = np.sort(np.concatenate(chosen))
    training = np.setdiff1d(np.arange(len(labels)), validation)
    if not len(validation) or not len(training):
        raise ConfigError(
            f"val_fraction is {fraction}, which leaves {len(training)} images to train on and {len(validation)} to "
            "validate on: choose another fraction"
        )
    return training, validation
