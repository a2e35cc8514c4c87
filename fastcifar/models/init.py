"""Initial weights of a network: whitening filters, identity convolutions, batch norms with a fixed scale.

Sources: Page, *How to Train Your ResNet*, 2019 (whitening of patches, fixed batch-norm scales), tysam-code/hlb-CIFAR10
(whitening filters that are not trained), KellerJordan/cifar10-airbench (`init_whiten`: the filters and their negatives,
and the value of `EPSILON`; Dirac initialisation of the other convolutions).
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fastcifar.errors import ConfigError
from fastcifar.settings import InitSettings

EPSILON = 5e-4
"""Added to the variances of the patches before the inverse square root, so that noise is not amplified."""
MIN_VARIANCE = 1e-6
"""Variance of the patches, with pixels of variance 1, below which there is nothing but rounding errors: rounding pixels
to 256 levels alone gives 1e-5."""


@torch.no_grad()
def initialize(model: nn.Module, settings: InitSettings) -> None:
    """Initialise a new network in place, except for the whitening filters, which need images (`whiten`).

    Raises:
        ConfigError: the settings have `whiten`, and the network's first layer with weights is not a plain convolution.
    """
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.momentum = settings.norm_momentum
            module.weight.requires_grad_(not settings.freeze_norm_scale)
        elif settings.dirac and isinstance(module, nn.Conv2d) and module.groups == 1:
            nn.init.dirac_(module.weight[: module.in_channels])
        elif settings.head_init_std is not None and isinstance(module, nn.Linear):
            module.weight.mul_(settings.head_init_std / module.weight.std())
    if settings.whiten:
        first_convolution(model).weight.requires_grad_(False)


@torch.no_grad()
def whiten(model: nn.Module, images: Tensor) -> None:
    """Set the first convolution's filters to the whitening filters of the images' patches, and their negatives.

    The model comes from `initialize`; images are float32 [N, C, H, W], normalised, on its device. Source: `init_whiten`
    of KellerJordan/cifar10-airbench.
    """
    weight = first_convolution(model).weight
    directions = whitening_filters(images, weight.shape[-1])
    both = torch.cat((directions, -directions))[: len(weight)]
    if len(both) < len(weight):  # the remaining filters are random mixtures of these
        mixed = F.normalize(torch.randn(len(weight) - len(both), len(directions), device=images.device), dim=1)
        both = torch.cat((both, (mixed @ directions.flatten(1)).view(-1, *directions.shape[1:])))
    weight.copy_(both)


def whitening_filters(images: Tensor, size: int) -> Tensor:
    """Compute filters whose responses to the images' patches, `size` × `size` pixels, are uncorrelated with variance 1.

    From float32 [N, C, H, W] to float32 [C · size², C, size, size], the direction with the largest variance first.
    Directions without variance, which grey images and a constant channel have, are left out: after such a filter, each
    batch norm would multiply the gradients by a factor of hundreds.
    """
    channels = images.shape[1]
    patches = images.unfold(2, size, 1).unfold(3, size, 1).permute(0, 2, 3, 1, 4, 5).reshape(-1, channels * size**2)
    covariance = patches.T @ patches / len(patches)
    variances, directions = torch.linalg.eigh(covariance.cpu())  # faster than on a GPU for such a small matrix
    variances, directions = variances.to(images.device), directions.to(images.device)
    used = variances > MIN_VARIANCE
    used[-1] = True  # also for images of one colour
    filters: Tensor = directions.T[used] / (variances[used, None].clamp(min=0) + EPSILON).sqrt()
    return filters.flip(0).view(-1, channels, size, size)


def first_convolution(model: nn.Module) -> nn.Conv2d:
    """Return the network's first layer with weights.

    Raises:
        ConfigError: it is not a plain convolution.
    """
    layer = next((layer for layer in model.modules() if isinstance(getattr(layer, "weight", None), nn.Parameter)), None)
    if not isinstance(layer, nn.Conv2d) or layer.groups != 1:
        raise ConfigError("whiten is set, but this network does not begin with a plain convolution")
    return layer
