from __future__ import annotations

import copy

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from fastcifar import create_model
from fastcifar.analysis.receptive_field import receptive_fields


def _conv(*arguments: int, **options: object) -> nn.Conv2d:
    return nn.Conv2d(*arguments, bias=False, **options)  # type: ignore[arg-type]


class Branches(nn.Module):
    """Two branches of different lengths, added and concatenated, then functional pooling."""

    def __init__(self) -> None:
        super().__init__()
        self.first = _conv(3, 4, 3, padding=1)
        self.short = _conv(4, 4, 1)
        self.long = nn.Sequential(_conv(4, 4, 3, padding=2, dilation=2), _conv(4, 4, 5, padding=2))
        self.last = _conv(8, 4, 3, padding=1, stride=2)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        x = F.relu(self.first(images))
        x = torch.cat((self.short(x) + self.long(x), x), dim=1)
        return self.last(F.avg_pool2d(x, 3, 2))  # type: ignore[no-any-return]


SMALL = {
    "one": nn.Sequential(_conv(3, 4, 3)),
    "strides": nn.Sequential(_conv(3, 4, 5, stride=2, padding=1), _conv(4, 4, 3, stride=3), _conv(4, 4, 2)),
    "dilations": nn.Sequential(_conv(3, 4, 3, dilation=3), _conv(4, 4, 3, dilation=2, stride=2), _conv(4, 4, 3)),
    "oblong": nn.Sequential(
        _conv(3, 4, (1, 7), padding=(0, 3)), _conv(4, 4, (3, 1), stride=(2, 1)), nn.AvgPool2d((2, 3), stride=(1, 2))
    ),
    "pools": nn.Sequential(nn.AvgPool2d(3, 2, padding=1), _conv(3, 6, 3, groups=3), nn.AvgPool2d(2), _conv(6, 4, 1)),
    "branches": Branches(),
    "adaptive": nn.Sequential(_conv(3, 4, 3, padding=1), nn.AdaptiveAvgPool2d(9), _conv(4, 4, 3)),
}


@pytest.mark.parametrize("name", SMALL)
def test_fields_of_small_networks_agree_with_gradients(name: str) -> None:
    assert receptive_fields(SMALL[name], (3, 72, 72))[""] == _gradient_extent(SMALL[name], 72)


@pytest.mark.parametrize(
    ("name", "side", "expected"), [("custom_resnet", 104, 64), ("dilated_cnn", 168, 99)], ids=["resnet", "dilated"]
)
def test_fields_of_the_networks_features_agree_with_gradients(name: str, side: int, expected: int) -> None:
    features = nn.Sequential(*list(create_model(name).children())[:-1])
    assert receptive_fields(features)[""] == _gradient_extent(features, side) == (expected, expected)


def test_fields_of_the_stages() -> None:
    fields = receptive_fields(create_model("custom_resnet"))
    stages = {name: fields[name][0] for name in ("prep", "layer1.0", "layer1", "layer2", "layer3", "head")}
    assert stages == {"prep": 3, "layer1.0": 6, "layer1": 14, "layer2": 20, "layer3": 64, "head": 88}
    assert receptive_fields(create_model("custom_resnet", conv_bias=True, layer2_residual=True))["layer3"] == (80, 80)


def test_a_mean_and_a_linear_layer_depend_on_every_position() -> None:
    def mean_of(network: nn.Module) -> nn.Module:
        class Mean(nn.Module):
            def __init__(self) -> None:
                super().__init__()
                self.network = network

            def forward(self, images: torch.Tensor) -> torch.Tensor:
                return self.network(images).mean(dim=(2, 3))  # type: ignore[no-any-return]

        return Mean()

    convolution = _conv(3, 4, 5, stride=2, padding=2)
    flat = nn.Sequential(convolution, nn.Flatten(), nn.Linear(4 * 16 * 16, 10))
    assert receptive_fields(flat)[""] == receptive_fields(mean_of(convolution))[""] == (35, 35)


def test_the_field_of_a_global_gate_is_the_image_and_its_padding() -> None:
    class Gated(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv = _conv(3, 4, 3, padding=1)

        def forward(self, images: torch.Tensor) -> torch.Tensor:
            x = self.conv(images)
            return x * x.mean(dim=(2, 3), keepdim=True).sigmoid()

    assert receptive_fields(Gated(), (3, 8, 8))[""] == (10, 10)


def _gradient_extent(network: nn.Module, side: int) -> tuple[int, int]:
    """Height and width of the region of pixels with a gradient from the centre of the output.

    Weights are positive and the network is linear, with average pooling instead of max pooling, so that no two paths
    cancel.
    """
    linear = _linear(copy.deepcopy(network)).double()
    for parameter in linear.parameters():
        nn.init.constant_(parameter, 1 / parameter[0].numel())
    images = torch.ones(1, 3, side, side, dtype=torch.float64, requires_grad=True)
    output = linear(images)
    output[0, 0, output.shape[2] // 2, output.shape[3] // 2].backward()
    assert images.grad is not None
    reached = images.grad[0].sum(dim=0).nonzero()
    assert reached.min() > 0
    assert reached.max() < side - 1, "the field is inside the image"
    height, width = (reached.amax(dim=0) - reached.amin(dim=0) + 1).tolist()
    return height, width


def _linear(module: nn.Module) -> nn.Module:
    if isinstance(module, nn.MaxPool2d):
        return nn.AvgPool2d(module.kernel_size, module.stride, module.padding)
    if isinstance(module, nn.BatchNorm2d | nn.ReLU):
        return nn.Identity()
    for name, child in module.named_children():
        setattr(module, name, _linear(child))
    return module


def test_the_model_is_unchanged() -> None:
    model = create_model("dilated_cnn").train()
    before = copy.deepcopy(model.state_dict())
    receptive_fields(model)
    assert model.training
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert model(torch.zeros(2, 3, 32, 32)).shape == (2, 10)


def test_errors_of_the_network_itself_are_raised() -> None:
    with pytest.raises(RuntimeError, match="shapes cannot be multiplied"):
        receptive_fields(nn.Sequential(nn.Flatten(), nn.Linear(5, 2)))
