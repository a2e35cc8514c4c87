"""Defocus, glass, motion and zoom blur."""

from __future__ import annotations

import math

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from fastcifar.corruptions import filters
from fastcifar.corruptions.draws import Draws


def defocus_blur(images: Tensor, severity: int, draws: Draws) -> Tensor:
    """Spread each pixel over a disk, as a lens that is out of focus."""
    radius, soft = ((0.3, 0.4), (0.4, 0.5), (0.5, 0.6), (1.0, 0.2), (1.5, 0.1))[severity - 1]
    kernel = _disk(filters.relative_size(images), radius, soft).to(images)
    padded = F.pad(images, (kernel.shape[0] // 2,) * 4, mode="reflect")
    channels = images.shape[1]
    if images.is_cpu:  # where it is 15 times as fast; on a GPU, cuDNN would round such images to TF32
        padded = padded.contiguous(memory_format=torch.channels_last)
    return F.conv2d(padded, kernel.expand(channels, 1, -1, -1), groups=channels)


def glass_blur(images: Tensor, severity: int, draws: Draws) -> Tensor:
    """Replace each pixel by one up or left of it, at random, between two slight Gaussian blurs.

    The original means to swap the two pixels. But NumPy's views make it copy one over the other, so this copies, too.
    """
    sigma, iterations = ((0.05, 1), (0.25, 1), (0.4, 1), (0.25, 2), (0.4, 2))[severity - 1]
    scale, (height, width) = filters.relative_size(images), images.shape[-2:]
    reach = max(1, round(scale))
    blurred = _truncate(filters.gaussian_blur(images, sigma * scale))
    row, column = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
    place = (row * width + column).flatten().to(images.device)
    inside = ((row > reach) & (column > reach)).flatten().to(images.device)
    for iteration in range(iterations):
        up, left = (draws.uniform(2, height * width, name=str(iteration)) * (reach + 1)).long().unbind(1)
        index = place - (up * width + left) * inside
        blurred = blurred.flatten(2).gather(2, index[:, None].expand(-1, images.shape[1], -1)).view_as(images)
    return filters.gaussian_blur(blurred, sigma * scale)


def motion_blur(images: Tensor, severity: int, draws: Draws) -> Tensor:
    """Blur along a line up to 45° off the horizontal, as a moving camera."""
    radius, sigma = ((6, 1.0), (6, 1.5), (6, 2.0), (8, 2.0), (9, 2.5))[severity - 1]
    scale = filters.relative_size(images)
    return filters.motion_blur(images, radius * scale, sigma * scale, draws.between(-45, 45))


def zoom_blur(images: Tensor, severity: int, draws: Draws) -> Tensor:
    """Average over growing zoom factors, as a camera that moves towards its subject."""
    factors = np.arange(1, (1.06, 1.11, 1.16, 1.21, 1.26)[severity - 1], 0.01).tolist()
    total = images.clone()
    for factor in factors:
        total += filters.clipped_zoom(images, factor)
    return total / (len(factors) + 1)


def _disk(scale: float, radius: float, soft: float) -> Tensor:
    """Return a disk of `radius` pixels with edges softened by a Gaussian of `soft` pixels, both times `scale`."""
    margin = max(1, round(scale))  # of the Gaussian, which is cut off there
    half = math.ceil(radius * scale) + margin
    y, x = torch.meshgrid(torch.arange(-half, half + 1), torch.arange(-half, half + 1), indexing="ij")
    disk = (x**2 + y**2 <= (radius * scale) ** 2).float()
    weights = (-0.5 * (torch.arange(-margin, margin + 1) / (soft * scale)) ** 2).exp()
    weights /= weights.sum()
    softened = F.conv2d(disk[None, None], torch.outer(weights, weights)[None, None], padding=margin)[0, 0]
    return softened / softened.sum()


def _truncate(images: Tensor) -> Tensor:
    """Return images as 8 bits hold them, rounded down."""
    return (255 * images + 1e-3).floor() / 255
