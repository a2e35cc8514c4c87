"""What a network starts from: whitening filters, identities, norms without a scale.

Sources: Page, *How to Train Your ResNet*, 2019 (whitening of patches; batch norm without scale), tysam-code/hlb-CIFAR10
(kept filters), KellerJordan/cifar10-airbench (filters and their negatives; identities).
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import nn

from fastcifar.errors import ConfigError
from fastcifar.settings import InitSettings

EPSILON = 5e-4
"""Added to the patches' variances before their inverse root, so that no noise is blown up."""


@torch.no_grad()
def initialize(model: nn.Module, settings: InitSettings) -> None:
    """Do to a fresh network, in place, what needs no data; whitening filters are to be set by `whiten`.

    Raises:
        ConfigError: it is to be whitened, and its first layer with weights is no plain convolution of images.
    """
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.momentum = settings.norm_momentum
            module.weight.requires_grad_(not settings.freeze_norm_scale)
        elif settings.dirac and isinstance(module, nn.Conv2d) and module.groups == 1:
            nn.init.dirac_(module.weight[: module.in_channels])
    if settings.whiten:
        first_convolution(model).weight.requires_grad_(False)
    if settings.head_init_std is not None:
        for module in model.modules():
            if isinstance(module, nn.Linear):
                module.weight.mul_(settings.head_init_std / module.weight.std())


@torch.no_grad()
def whiten(model: nn.Module, images: torch.Tensor) -> None:
    """Set the first convolution's filters to the whitening directions of the images' patches, and their negatives.

    Args:
        model: a network that `initialize` took.
        images: float32 [N, C, H, W], normalised, on the model's device.
    """
    weight = first_convolution(model).weight
    directions = whitening_filters(images, weight.shape[-1])
    both = torch.cat((directions, -directions))[: len(weight)]
    if len(both) < len(weight):  # the filters left over look in directions between those
        mixed = F.normalize(torch.randn(len(weight) - len(both), len(directions), device=images.device), dim=1)
        both = torch.cat((both, (mixed @ directions.flatten(1)).view(-1, *directions.shape[1:])))
    weight.copy_(both)


def whitening_filters(images: torch.Tensor, size: int) -> torch.Tensor:
    """Filters whose responses to the images' patches are uncorrelated and of variance 1, the strongest direction first.

    Args:
        images: float32 [N, C, H, W].
        size: height and width of a patch.

    Returns:
        float32 [C · size², C, size, size].
    """
    channels = images.shape[1]
    patches = images.unfold(2, size, 1).unfold(3, size, 1).permute(0, 2, 3, 1, 4, 5).reshape(-1, channels * size**2)
    covariance = patches.T @ patches / len(patches)
    variances, directions = torch.linalg.eigh(covariance.cpu())  # so small a matrix takes a GPU longer
    variances, directions = variances.to(images.device), directions.to(images.device)
    filters: torch.Tensor = directions.T / (variances[:, None] + EPSILON).sqrt()
    return filters.flip(0).view(-1, channels, size, size)


def first_convolution(model: nn.Module) -> nn.Conv2d:
    """The network's first layer with weights.

    Raises:
        ConfigError: that is no plain convolution.
    """
    layer = next(
        (module for module in model.modules() if isinstance(getattr(module, "weight", None), nn.Parameter)), None
    )
    if not isinstance(layer, nn.Conv2d) or layer.groups != 1:
        raise ConfigError("whiten is set; this network does not begin with a plain convolution")
    return layer
