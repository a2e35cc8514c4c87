"""Filters and maps of image batches that several corruptions share."""

from __future__ import annotations

import math
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

SIDE = 32
"""The side of the images for which CIFAR-10-C gives lengths in pixels."""


def relative_size(images: Tensor) -> float:
    """Return how much larger than CIFAR-10's the images [B, C, H, W] are, by their shorter side."""
    return min(images.shape[-2:]) / SIDE


def gaussian_blur(
    images: Tensor, sigma: float, *, border: Literal["nearest", "reflect"] = "nearest", truncate: float = 4.0
) -> Tensor:
    """Blur images [..., H, W] with a Gaussian of `sigma` pixels, cut off after `truncate` times sigma.

    Outside of the image is its outermost pixel ("nearest") or its mirror image ("reflect"), as in SciPy.
    """
    height, width = images.shape[-2:]
    rows, columns = (_blur_matrix(size, sigma, border, truncate).to(images) for size in (height, width))
    return rows @ images @ columns.mT


def _blur_matrix(size: int, sigma: float, border: str, truncate: float) -> Tensor:
    """The matrix [size, size] that blurs a column of `size` pixels."""
    radius = int(truncate * sigma + 0.5)
    offsets = torch.arange(-radius, radius + 1)
    weights = (-0.5 * (offsets / sigma) ** 2).exp()
    places = torch.arange(size)[:, None] + offsets
    if border == "nearest":
        places = places.clamp(0, size - 1)
    else:
        places = places % (2 * size)
        places = torch.minimum(places, 2 * size - 1 - places)
    return torch.zeros(size, size).scatter_add_(1, places, (weights / weights.sum()).expand(size, -1))


def motion_blur(images: Tensor, radius: float, sigma: float, angles: Tensor) -> Tensor:
    """Blur each image [B, C, H, W] along a line that goes off in its own direction, `angles` [B] in degrees.

    The weights along the line are one half of a Gaussian of `sigma` pixels. Outside of an image is its outermost pixel.
    Source: MotionBlurImage of ImageMagick, with its `radius`.
    """
    height, width = images.shape[-2:]
    steps = min(2 * math.ceil(radius), math.ceil(4 * sigma))  # the weights after that are below 0.1 %
    weights = [math.exp(-0.5 * (step / sigma) ** 2) for step in range(steps + 1)]
    padded = F.pad(images, (steps,) * 4, mode="replicate")
    row, column = torch.arange(height, device=images.device), torch.arange(width, device=images.device)
    place = ((row[:, None] + steps) * padded.shape[-1] + column + steps).flatten()
    flat, blurred = padded.flatten(2), torch.zeros_like(images).flatten(2)
    down, right = angles.deg2rad().sin(), angles.deg2rad().cos()
    for step, weight in enumerate(weights):
        shift = (step * down - 0.5).ceil().long() * padded.shape[-1] + (step * right - 0.5).ceil().long()
        index = (place + shift[:, None])[:, None].expand_as(blurred)
        blurred.add_(flat.gather(2, index), alpha=weight / sum(weights))
    return blurred.view_as(images)


def clipped_zoom(images: Tensor, factor: float) -> Tensor:
    """Enlarge the middle of images [..., H, W] by a factor of at least 1, with linear interpolation."""
    rows, columns = (_zoom_matrix(size, factor).to(images) for size in images.shape[-2:])
    return rows @ images @ columns.mT


def _zoom_matrix(size: int, factor: float) -> Tensor:
    """The matrix [size, size] that enlarges the middle of a column of `size` pixels."""
    part = math.ceil(size / factor)
    first = (size - part) // 2
    pixels = torch.eye(size)[:, first : first + part]  # a row per input pixel
    enlarged = F.interpolate(pixels[None], size=round(part * factor), mode="linear", align_corners=True)[0]
    left_over = (enlarged.shape[1] - size) // 2
    return enlarged[:, left_over : left_over + size].mT


def plasma(noise: Tensor, decay: float) -> Tensor:
    """Return a cloudy texture from 0 to 1, [B, S, S], from uniform noise [B, S, S] from −1 to 1; S is a power of 2.

    From one octave to the next finer one, the contrast falls by `decay` squared. The texture continues at its edges.
    Source: the diamond-square algorithm (Fournier, Fussell and Carpenter, 1982) as in hendrycks/robustness.
    """
    texture, step, wibble = torch.zeros_like(noise), noise.shape[-1], 100.0

    def fill(rows: slice, columns: slice, neighbors: Tensor) -> None:
        texture[:, rows, columns] = neighbors / 4 + wibble**2 * noise[:, rows, columns]

    while step >= 2:
        corners, middles = slice(0, None, step), slice(step // 2, None, step)
        corner = texture[:, corners, corners].clone()
        below = corner + corner.roll(-1, 1)
        fill(middles, middles, below + below.roll(-1, 2))
        middle = texture[:, middles, middles].clone()
        fill(corners, middles, middle + middle.roll(1, 1) + corner + corner.roll(-1, 2))
        fill(middles, corners, middle + middle.roll(1, 2) + below)
        step, wibble = step // 2, wibble / decay
    low, high = texture.amin((1, 2), keepdim=True), texture.amax((1, 2), keepdim=True)
    return (texture - low) / (high - low)
