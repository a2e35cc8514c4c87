"""Draw the images of a training epoch so that each class is equally often in it."""

from __future__ import annotations

import numpy as np

from fastcifar.data.images import Labels
from fastcifar.data.split import Indices


def balanced_draws(labels: Labels, count: int, generator: np.random.Generator) -> Indices:
    """Return the positions in `labels`, int64 [N], of `count` images in random order: int64 [count].

    Each class that has images is drawn equally often, or once more where `count` is not a multiple of the number of
    classes; chance decides which. Within a class, each image is drawn equally often, or once more: a class that has
    too many images gives a random part of them, another one all of its images, several times.
    """
    classes = np.unique(labels)
    draws = np.full(len(classes), count // len(classes))
    draws[generator.permutation(len(classes))[: count % len(classes)]] += 1
    drawn = [
        _draw(np.flatnonzero(labels == label), times, generator) for label, times in zip(classes, draws, strict=True)
    ]
    return generator.permutation(np.concatenate(drawn))


def _draw(positions: Indices, count: int, generator: np.random.Generator) -> Indices:
    """Go through the positions in random order, again and again, until `count` are drawn."""
    rounds = -(-count // len(positions))
    orders = [generator.permutation(positions) for _ in range(rounds)]
    return np.concatenate([positions[:0], *orders])[:count]
