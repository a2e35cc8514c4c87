"""Grad-CAM: a map of the places in an image that speak for a class.

Source: Selvaraju et al., *Grad-CAM: Visual Explanations from Deep Networks via Gradient-Based Localization*, ICCV 2017.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
import torch.nn.functional as F
from torch import nn

_POOLING = (nn.MaxPool2d, nn.AvgPool2d, nn.AdaptiveMaxPool2d, nn.AdaptiveAvgPool2d)


def grad_cam(model: nn.Module, images: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    """Compute, for each image, how much each place contributes to the logit of a class.

    With the last feature maps A before the head and the class's logit y, the map is ReLU(Σₖ αₖ Aₖ), where αₖ is the
    mean of ∂y/∂Aₖ over all positions. It is resized to the image's size by bilinear interpolation.

    Args:
        model: a network in eval mode, so that the logits of an image do not depend on the other images.
        images: float [B, 3, H, W], normalised.
        targets: int64 [B], the class to explain in each image.

    Returns:
        float32 [B, H, W] from 0 to 1, each map divided by its maximum; all zeros if no place speaks for the class.

    Raises:
        ValueError: no layer of the network outputs feature maps [B, K, h, w] with more than one position.
    """
    with torch.enable_grad(), _recording_features(model) as features:
        logits = model(images.detach().requires_grad_())  # features get a gradient even if all weights are frozen
        if not features:
            raise ValueError(f"{type(model).__name__}: Grad-CAM needs a layer whose output is feature maps")
        score = logits.gather(1, targets[:, None]).sum()
        (gradient,) = torch.autograd.grad(score, features[-1])
    weights = gradient.float().mean(dim=(2, 3), keepdim=True)
    maps = F.relu((weights * features[-1].detach().float()).sum(dim=1, keepdim=True))
    maps = F.interpolate(maps, size=images.shape[2:], mode="bilinear", align_corners=False).squeeze(1)
    highest = maps.amax(dim=(1, 2), keepdim=True)
    return maps / highest.where(highest > 0, 1)


@contextmanager
def _recording_features(model: nn.Module) -> Iterator[list[torch.Tensor]]:
    """Yield a list to which a forward pass writes the last output [B, K, h, w] of any layer but a pooling layer."""
    newest: list[torch.Tensor] = []

    def record(module: nn.Module, inputs: object, output: object) -> None:
        feature_maps = isinstance(output, torch.Tensor) and output.dim() == 4 and output.shape[2] * output.shape[3] > 1
        if feature_maps and not isinstance(module, _POOLING):
            newest[:] = [output]  # type: ignore[list-item]  # a tensor, as checked above

    hooks = [module.register_forward_hook(record) for module in model.modules() if module is not model]
    try:
        yield newest
    finally:
        for hook in hooks:
            hook.remove()
