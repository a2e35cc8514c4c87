"""Test-time augmentation: the views of an image whose logits are averaged."""

from __future__ import annotations

import torch
import torch.nn.functional as F

from fastcifar.pixels import scale_pixels
from fastcifar.settings import TTASettings

NO_TTA = TTASettings()
"""No test-time augmentation."""


def tta_views(images: torch.Tensor, tta: str) -> tuple[list[float], list[torch.Tensor]]:
    """Return the weights and the additional views of images [B, C, H, W] that test-time augmentation averages over.

    "flip": the mirror images, weight ½. "flip-shift": six views, {original, shifted by (−1, −1), shifted by (+1, +1)} ×
    {plain, mirrored}; the unshifted pair has weight ½, the four shifted views share the other ½. The images themselves
    have the remaining weight. The shift is one pixel of 32 × 32 images, and in proportion for larger ones.

    Source: KellerJordan/cifar10-airbench.
    """
    if tta == "flip":
        return [0.5], [images.flip(-1)]
    height, width = images.shape[2:]
    shift = scale_pixels(1, width, least=1)
    padded = F.pad(images, [shift] * 4, mode="reflect")
    shifted = [padded[:, :, first : first + height, first : first + width] for first in (0, 2 * shift)]
    return [0.25, *[0.125] * 4], [images.flip(-1), *shifted, *(view.flip(-1) for view in shifted)]
