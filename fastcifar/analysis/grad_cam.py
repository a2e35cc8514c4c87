"""Where in an image a network finds a class: Grad-CAM.

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
    """For each image, how much each place speaks for a class.

    A = the last feature maps before the head, y = the class's logit: ReLU(Σₖ αₖ Aₖ), αₖ the mean of ∂y/∂Aₖ over the
    places, enlarged bilinearly to the image's size.

    Args:
        model: a network in eval mode, so that no image's logits depend on the others.
        images: float [B, 3, H, W], normalised.
        targets: int64 [B], the class to explain in each image.

    Returns:
        float32 [B, H, W] from 0 to 1, each map scaled to its own highest value; zeros where no place speaks for it.

    Raises:
        ValueError: no layer of the network gives feature maps [B, K, h, w] of more than one place.
    """
    with torch.enable_grad(), _recording_features(model) as features:
        logits = model(images.detach().requires_grad_())  # so that features have a gradient even if no weight wants one
        if not features:
            raise ValueError(f"{type(model).__name__}: has no layer whose output is feature maps, which Grad-CAM needs")
        score = logits.gather(1, targets[:, None]).sum()
        (gradient,) = torch.autograd.grad(score, features[-1])
    weights = gradient.float().mean(dim=(2, 3), keepdim=True)
    maps = F.relu((weights * features[-1].detach().float()).sum(dim=1, keepdim=True))
    maps = F.interpolate(maps, size=images.shape[2:], mode="bilinear", align_corners=False).squeeze(1)
    highest = maps.amax(dim=(1, 2), keepdim=True)
    return maps / highest.where(highest > 0, 1)


@contextmanager
def _recording_features(model: nn.Module) -> Iterator[list[torch.Tensor]]:
    """A list that a forward pass fills: the newest of the outputs [B, K, h, w] of any layer but a pooling one."""
    newest: list[torch.Tensor] = []

    def record(module: nn.Module, inputs: object, output: object) -> None:
        feature_maps = isinstance(output, torch.Tensor) and output.dim() == 4 and output.shape[2] * output.shape[3] > 1
        if feature_maps and not isinstance(module, _POOLING):
            newest[:] = [output]  # type: ignore[list-item]  # a tensor, as asked above

    hooks = [module.register_forward_hook(record) for module in model.modules() if module is not model]
    try:
        yield newest
    finally:
        for hook in hooks:
            hook.remove()
