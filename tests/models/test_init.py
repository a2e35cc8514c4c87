from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from fastcifar import create_model, get_recipe
from fastcifar.errors import ConfigError
from fastcifar.models.init import initialize, whiten, whitening_filters


def _images() -> torch.Tensor:
    """float32 [64, 3, 16, 16] with correlated neighbours and channels, as in photographs."""
    torch.manual_seed(0)
    smooth = F.interpolate(torch.randn(64, 1, 8, 8), size=(16, 16), mode="bilinear")
    return smooth + 0.2 * torch.randn(64, 3, 16, 16)


@pytest.mark.parametrize("size", [2, 3])
def test_whitened_patches_are_uncorrelated_with_variance_one(size: int) -> None:
    images = _images()
    responses = F.conv2d(images, whitening_filters(images, size)).permute(1, 0, 2, 3).flatten(1)
    covariance = responses @ responses.T / responses.shape[1]
    torch.testing.assert_close(covariance, torch.eye(3 * size**2), atol=0.03, rtol=0)


@pytest.mark.parametrize("kind", ["constant channel", "grey", "one colour"])
def test_no_filter_answers_to_rounding_errors_alone(kind: str) -> None:
    images = _images()
    if kind == "constant channel":
        images[:, 1] = 1e-9
    elif kind == "grey":
        images = images[:, :1].expand(-1, 3, -1, -1) + torch.tensor([0.0, 1e-7, -1e-7]).view(3, 1, 1)
    else:
        images = torch.ones_like(images)
    model = create_model("speed_cnn")
    whiten(model, images)
    responses = F.conv2d(images, next(model.parameters()))
    assert responses.square().mean(dim=(0, 2, 3)).min() > 0.02


def test_the_strongest_direction_comes_first() -> None:
    images = _images()
    norms = whitening_filters(images, 2).flatten(1).norm(dim=1)
    assert torch.equal(norms, norms.sort().values), "the larger the variance, the smaller the factor"


@pytest.mark.parametrize("name", ["custom_resnet", "speed_cnn"])
def test_the_first_convolution_whitens_and_the_others_are_identities(name: str) -> None:
    torch.manual_seed(0)
    config, model = get_recipe("speedrun"), create_model(name)
    initialize(model, config.init)
    whiten(model, _images())
    first, *others = [module for module in model.modules() if isinstance(module, nn.Conv2d)]
    half = 3 * first.kernel_size[0] ** 2
    assert torch.equal(first.weight[:half], -first.weight[half : 2 * half])
    responses = F.conv2d(_images(), first.weight)
    assert torch.allclose((responses**2).mean(dim=(0, 2, 3)), torch.ones(len(first.weight)), atol=0.1)
    assert not first.weight.requires_grad
    for layer in others:
        x = torch.randn(1, layer.in_channels, 5, 5)
        torch.testing.assert_close(layer(x)[:, : layer.in_channels], x[:, : layer.out_channels])
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            assert module.momentum == config.init.norm_momentum
            assert not module.weight.requires_grad
            assert module.bias.requires_grad
        if isinstance(module, nn.Linear):
            assert module.weight.std().item() == pytest.approx(1)


def test_the_default_settings_keep_torchs_initialisation() -> None:
    torch.manual_seed(0)
    model = create_model("speed_cnn")
    before = {name: parameter.clone() for name, parameter in model.named_parameters()}
    initialize(model, get_recipe("era").init)
    assert all(torch.equal(parameter, before[name]) for name, parameter in model.named_parameters())
    assert all(parameter.requires_grad for parameter in model.parameters())


def test_a_network_without_a_first_convolution_cannot_be_whitened() -> None:
    with pytest.raises(ConfigError, match="does not begin with a plain convolution"):
        initialize(nn.Sequential(nn.Linear(3, 3), nn.Conv2d(3, 3, 3)), get_recipe("speedrun").init)
