"""The 15 corruptions by name, and the function that applies one of them to a batch of images."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from fastcifar.corruptions import blur, digital, noise, weather
from fastcifar.corruptions.draws import Draws

SEVERITIES = (1, 2, 3, 4, 5)
Corruption = Callable[[Tensor, int, Draws], Tensor]
"""A function from float images [B, C, H, W] from 0 to 1, a severity and random numbers to images of the same shape."""

KINDS: dict[str, Corruption] = {
    "gaussian_noise": noise.gaussian_noise,
    "shot_noise": noise.shot_noise,
    "impulse_noise": noise.impulse_noise,
    "defocus_blur": blur.defocus_blur,
    "glass_blur": blur.glass_blur,
    "motion_blur": blur.motion_blur,
    "zoom_blur": blur.zoom_blur,
    "snow": weather.snow,
    "frost": weather.frost,
    "fog": weather.fog,
    "brightness": weather.brightness,
    "contrast": digital.contrast,
    "elastic_transform": digital.elastic_transform,
    "pixelate": digital.pixelate,
    "jpeg_compression": digital.jpeg_compression,
}
"""In the order of the paper; the names are those of the files of CIFAR-10-C."""


@torch.no_grad()
def corrupt(images: Tensor, kind: str, severity: int, *, indices: Tensor, seed: int = 0) -> Tensor:
    """Corrupt uint8 images [B, C, H, W], and return uint8 images of the same shape and memory format.

    Args:
        images: the images, on any device.
        kind: a key of `KINDS`.
        severity: from 1 to 5.
        indices: int64 [B] on the same device, the positions of the images in their data set. With the seed they decide
            the random numbers, so that the images do not depend on the batch they are in.
        seed: another seed gives other noise.
    """
    draws = Draws(indices, f"{kind} {severity} seed {seed}")
    corrupted = KINDS[kind](images.float().div_(255).contiguous(), severity, draws)
    # rounded down, as CIFAR-10-C's; the small number keeps k / 255 at k in spite of float32's rounding
    return torch.empty_like(images).copy_(corrupted.clamp_(0, 1).mul_(255).add_(1e-3))
