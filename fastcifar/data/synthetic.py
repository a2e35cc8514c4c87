"""Synthetic images: ten classes of drawn 32 × 32 shapes, so that everything works without any data.

The augmentation of training images keeps the classes distinct: no two are mirror images of each other, and none depends
on a detail that a crop after padding 4 or an 8 × 8 cutout can remove. The shape may be lighter or darker than the
background and lies anywhere, so a classifier that is linear in the pixels learns little.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt

from fastcifar.data.images import ImageSet

SIDE = 32
"""Pixels per side."""
RADIUS = (7.0, 12.0)
"""Smallest and largest radius of a shape, in pixels."""
ROTATION = 0.2
"""Largest rotation in either direction, in radians; a square rotated by π/4 would be a diamond."""
CONTRAST = 0.5
"""Smallest distance between the two colours in RGB, where black and white have a distance of √3."""
GRADIENT = 0.2
"""Largest change of the background from the centre to an edge, with colours in [0, 1]."""
NOISE = (0.02, 0.12)
"""Smallest and largest standard deviation of the pixel noise, which is drawn per image."""

Floats = npt.NDArray[np.floating[Any]]
AXIS = np.arange(SIDE, dtype=np.float32) - np.float32((SIDE - 1) / 2)
"""The positions of the pixels in a row, in pixels from the middle of the image."""


def _box(u: Floats, v: Floats, half_width: float, half_height: float) -> Floats:
    return np.maximum(np.abs(u) - half_width, np.abs(v) - half_height)


def _triangle(u: Floats, v: Floats) -> Floats:
    """Return the distance to a triangle with its apex at (0, -1), the top, and its base from (-1, 0.8) to (1, 0.8)."""
    base: Floats = v - 0.8
    side: Floats = (1.8 * np.abs(u) - (v + 1)) / math.hypot(1.8, 1)
    return np.maximum(base, side)


def _plus(u: Floats, v: Floats) -> Floats:
    return np.minimum(_box(u, v, 1, 0.27), _box(u, v, 0.27, 1))


def _horizontal_bars(u: Floats, v: Floats) -> Floats:
    nearest = 0.76 * np.clip(np.round(v / 0.76), -1, 1)
    return _box(u, v - nearest, 0.95, 0.2)


def _checkerboard(u: Floats, v: Floats) -> Floats:
    """Return the distance to a board of four by four cells, each half a unit wide."""
    to_line = np.minimum(np.abs(2 * u - np.round(2 * u)), np.abs(2 * v - np.round(2 * v))) / 2
    dark = (np.floor(2 * u) + np.floor(2 * v)) % 2 == 0
    return np.maximum(np.where(dark, -to_line, to_line), _box(u, v, 1, 1))


def _cross(u: Floats, v: Floats) -> Floats:
    root = math.sqrt(0.5)
    return _plus(root * (u + v), root * (v - u))


SHAPES: dict[str, Callable[[Floats, Floats], Floats]] = {
    "disk": lambda u, v: np.hypot(u, v) - 0.95,
    "square": lambda u, v: _box(u, v, 0.85, 0.85),
    "triangle": _triangle,
    "plus": _plus,
    "ring": lambda u, v: np.abs(np.hypot(u, v) - 0.78) - 0.2,
    "horizontal bars": _horizontal_bars,
    "vertical bars": lambda u, v: _horizontal_bars(v, u),
    "checkerboard": _checkerboard,
    "diamond": lambda u, v: (np.abs(u) + np.abs(v) - 1.1) / math.sqrt(2),
    "cross": _cross,
}
"""The classes in the order of their labels. Each function returns the signed distance to the shape's edge, negative
inside, for coordinates in which the shape fills about [-1, 1]²."""


def draw_synthetic(*, train: int = 10_000, test: int = 2_000, seed: int = 0) -> tuple[ImageSet, ImageSet]:
    """Draw a training split and a test split, with images of shape [N, 32, 32, 3].

    Args:
        train: number of training images, the same number per class, in shuffled order.
        test: number of test images; it does not influence the training images.
        seed: the seed of two independent random streams, one per split.
    """
    for_train, for_test = np.random.SeedSequence(seed).spawn(2)
    return _draw(train, np.random.default_rng(for_train)), _draw(test, np.random.default_rng(for_test))


def _draw(count: int, rng: np.random.Generator) -> ImageSet:
    labels = rng.permutation(np.arange(count, dtype=np.int64) % len(SHAPES))
    images = np.empty((count, SIDE, SIDE, 3), dtype=np.uint8)
    for label, distance in enumerate(SHAPES.values()):
        chosen = np.flatnonzero(labels == label)
        images[chosen] = _paint(_coverage(len(chosen), distance, rng), rng)
    return ImageSet(images, labels)


def _uniform(rng: np.random.Generator, low: float, high: float, shape: tuple[int, ...]) -> Floats:
    return rng.random(shape, dtype=np.float32) * np.float32(high - low) + np.float32(low)


def _coverage(count: int, distance: Callable[[Floats, Floats], Floats], rng: np.random.Generator) -> Floats:
    """Place, scale and rotate a shape at random, and return the fraction of each pixel that it covers: [N, 32, 32]."""
    one = (count, 1, 1)
    radius = _uniform(rng, *RADIUS, one)
    room = SIDE / 2 - radius
    x = AXIS[None, None, :] - room * _uniform(rng, -1, 1, one)
    y = AXIS[None, :, None] - room * _uniform(rng, -1, 1, one)
    angle = _uniform(rng, -ROTATION, ROTATION, one)
    cos, sin = np.cos(angle) / radius, np.sin(angle) / radius
    return np.clip(0.5 - radius * distance(cos * x + sin * y, cos * y - sin * x), 0, 1)


def _paint(coverage: Floats, rng: np.random.Generator) -> npt.NDArray[np.uint8]:
    """Paint shapes in two contrasting colours, with a gradient in the background and noise: uint8 [N, 32, 32, 3]."""
    count = len(coverage)
    background, foreground = _uniform(rng, 0, 1, (2, count, 1, 1, 3))
    near = np.linalg.norm(foreground - background, axis=-1, keepdims=True) < CONTRAST
    foreground = np.where(near, (background + np.float32(0.5)) % 1, foreground)
    slope_x, slope_y = _uniform(rng, -GRADIENT, GRADIENT, (2, count, 1, 1, 1)) / np.float32(SIDE / 2)
    slope = slope_x * AXIS[None, None, :, None] + slope_y * AXIS[None, :, None, None]
    pixels = rng.standard_normal((count, SIDE, SIDE, 3), dtype=np.float32)
    pixels *= _uniform(rng, *NOISE, (count, 1, 1, 1))
    covered = coverage[..., None]
    pixels += (background + slope) * (1 - covered) + foreground * covered
    return np.round(np.clip(pixels, 0, 1) * 255).astype(np.uint8)
