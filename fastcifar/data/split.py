"""The training set's split into a part to train on and one to validate on."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from fastcifar.errors import ConfigError

Indices = npt.NDArray[np.int64]


def stratified_split(labels: npt.NDArray[np.int64], fraction: float, seed: int) -> tuple[Indices, Indices]:
    """Positions to train on and to validate on: the same `fraction` of each class, drawn from the seed.

    Args:
        labels: int64 [N].
        fraction: share of each class to validate on, above 0 and below 1; rounded to whole images.
        seed: of the draw.

    Returns:
        Two sorted int64 arrays that share no position and together have all N.

    Raises:
        ConfigError: the fraction leaves no image on one of the sides.
    """
    generator = np.random.default_rng(np.random.SeedSequence(entropy=seed, spawn_key=(0x5EED, 1)))
    eval_split: list[Indices] = []
    for label in np.unique(labels):
        positions = generator.permutation(np.flatnonzero(labels == label))
        eval_split.append(positions[: round(fraction * len(positions))])
    validation = np.sort(np.concatenate(eval_split))
    training = np.setdiff1d(np.arange(len(labels)), validation)
    if not len(validation) or not len(training):
        raise ConfigError(
            f"val_fraction is {fraction}, which leaves {len(training)} images to train on and {len(validation)} to "
            "validate on: choose another"
        )
    return training, validation
