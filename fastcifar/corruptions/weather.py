"""Snow, frost, fog and brightness."""

from __future__ import annotations

import torch
from torch import Tensor

from fastcifar.corruptions import filters
from fastcifar.corruptions.draws import Draws

_GRAY = (0.299, 0.587, 0.114)
"""Weights of red, green and blue (ITU-R BT.601)."""
_TINT = (-0.07, 0.01, 0.06)
"""The color of frost: the difference of red, green and blue from gray."""


def snow(images: Tensor, severity: int, draws: Draws) -> Tensor:
    """Whiten the images, and add falling flakes in two directions."""
    mean, std, zoom, threshold, radius, sigma, share = (
        (0.1, 0.2, 1.0, 0.6, 8, 3, 0.95),
        (0.1, 0.2, 1.0, 0.5, 10, 4, 0.9),
        (0.15, 0.3, 1.75, 0.55, 10, 4, 0.9),
        (0.25, 0.3, 2.25, 0.6, 12, 6, 0.85),
        (0.3, 0.3, 1.25, 0.65, 14, 12, 0.8),
    )[severity - 1]
    scale = filters.relative_size(images)
    layer = filters.clipped_zoom(mean + std * draws.normal(1, *images.shape[2:]), max(1.0, zoom * scale))
    flakes = torch.where(layer < threshold, 0.0, layer).clamp(max=1)
    flakes = filters.motion_blur(flakes, radius * scale, sigma * scale, draws.between(-135, -45, name="angle"))
    white = torch.maximum(images, 1.5 * _to_gray(images) + 0.5)
    return share * images + (1 - share) * white + flakes + flakes.flip(2, 3)


def frost(images: Tensor, severity: int, draws: Draws) -> Tensor:
    """Lay a bluish rough texture over the images, each of its own brightness and contrast.

    The original uses five photographs of frost. This texture has their mean colors, contrasts and roughness.
    """
    share, amount = ((1.0, 0.2), (1.0, 0.3), (0.9, 0.4), (0.85, 0.4), (0.75, 0.45))[severity - 1]
    rough = _plasma(images, draws, decay=1.1) - 0.5
    level, contrast = draws.between(0.45, 0.85, 1, 1, 1), draws.between(0.3, 0.75, 1, 1, 1, name="contrast")
    tint = images.new_tensor(_TINT if images.shape[1] == len(_TINT) else (0.0,))[:, None, None]
    return share * images + amount * (level + contrast * rough + tint).clamp(0, 1)


def fog(images: Tensor, severity: int, draws: Draws) -> Tensor:
    """Add a cloudy texture, and lower the contrast in return."""
    amount, decay = ((0.2, 3), (0.5, 3), (0.75, 2.5), (1.0, 2), (1.5, 1.75))[severity - 1]
    highest = images.amax((1, 2, 3), keepdim=True)
    return (images + amount * _plasma(images, draws, decay)) * highest / (highest + amount)


def brightness(images: Tensor, severity: int, draws: Draws) -> Tensor:
    """Raise the value of HSV, the largest of red, green and blue, and keep hue and saturation."""
    amount = (0.05, 0.1, 0.15, 0.2, 0.3)[severity - 1]
    value = images.amax(1, keepdim=True)
    raised = (value + amount).clamp(max=1)
    return torch.where(value > 0, images * raised / value, raised)


def _plasma(images: Tensor, draws: Draws, decay: float) -> Tensor:
    """Return a plasma texture for each image: [B, 1, H, W]."""
    height, width = images.shape[2:]
    side = 1 << (max(height, width) - 1).bit_length()
    return filters.plasma(draws.between(-1, 1, side, side, name="plasma"), decay)[:, None, :height, :width]


def _to_gray(images: Tensor) -> Tensor:
    """Return the brightness of color images: [B, 1, H, W]."""
    if images.shape[1] != len(_GRAY):
        return images.mean(1, keepdim=True)
    return (images * images.new_tensor(_GRAY)[:, None, None]).sum(1, keepdim=True)
