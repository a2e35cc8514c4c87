"""Gaussian, shot and impulse noise."""

from __future__ import annotations

import functools
import math

import torch
from torch import Tensor

from fastcifar.corruptions.draws import Draws

_QUANTILES = 4096


def gaussian_noise(images: Tensor, severity: int, draws: Draws) -> Tensor:
    """Add normal noise, as in low light."""
    scale = (0.04, 0.06, 0.08, 0.09, 0.10)[severity - 1]
    return images + scale * draws.normal(*images.shape[1:])


def shot_noise(images: Tensor, severity: int, draws: Draws) -> Tensor:
    """Replace each value by a count of photons, whose distribution is Poisson's; the images have 256 levels."""
    photons = (500, 250, 100, 75, 50)[severity - 1]
    levels = (255 * images).round().long()
    quantiles = (draws.uniform(*images.shape[1:]) * _QUANTILES).long()
    return _photon_counts(photons, images.device).take(levels * _QUANTILES + quantiles) / photons


def impulse_noise(images: Tensor, severity: int, draws: Draws) -> Tensor:
    """Replace a few values of single channels by 0 or 1 (salt and pepper)."""
    amount = (0.01, 0.02, 0.03, 0.05, 0.07)[severity - 1]
    number = draws.uniform(*images.shape[1:])
    noisy = torch.where(number < amount / 2, 0.0, images)
    return torch.where(number >= 1 - amount / 2, 1.0, noisy)


@functools.cache
def _photon_counts(photons: int, device: torch.device) -> Tensor:
    """Return the quantiles of Poisson's distribution for each level: float32 [256, _QUANTILES].

    Level 255 has a mean of `photons`. A table is faster than torch.poisson, whose numbers would depend on the batch.
    """
    means = torch.arange(256, dtype=torch.float64)[:, None] / 255 * photons
    counts = torch.arange(math.ceil(photons + 10 * math.sqrt(photons)), dtype=torch.float64)
    chances = (torch.xlogy(counts, means) - means - torch.lgamma(counts + 1)).exp()
    wanted = (torch.arange(_QUANTILES, dtype=torch.float64) + 0.5) / _QUANTILES
    table = torch.searchsorted(chances.cumsum(dim=1), wanted.expand(256, -1).contiguous())
    return table.float().to(device)
