from __future__ import annotations

import torch
from torch import nn

from fastcifar import create_model
from tests.models.helpers import parameter_count, stage_shapes


def test_it_has_under_200_000_parameters_and_halves_the_image_three_times_without_pooling() -> None:
    model = create_model("dilated_cnn")
    assert parameter_count(model) == 196_586
    assert stage_shapes(model) == {
        "block1": (32, 16, 16), "block2": (48, 8, 8), "block3": (56, 4, 4), "block4": (64, 4, 4), "head": (10,),
    }  # fmt: skip
    assert not any(isinstance(module, nn.MaxPool2d | nn.AvgPool2d) for module in model.modules())
    convolutions = [module for module in model.modules() if isinstance(module, nn.Conv2d)]
    assert sum(module.dilation == (2, 2) for module in convolutions) == 1
    assert sum(module.groups > 1 for module in convolutions) == 1
    assert len(convolutions) == 4 * 3 + 1, "the depthwise-separable one counts twice"


def test_the_last_features_depend_on_99_pixels_per_axis() -> None:
    model = create_model("dilated_cnn").eval()
    with torch.no_grad():
        for module in model.modules():
            if isinstance(module, nn.Conv2d):
                module.weight.fill_(1e-2)
    images = torch.zeros(1, 3, 256, 256, requires_grad=True)
    features = model.block4(model.block3(model.block2(model.block1(images + 1))))
    features[0, 0, 16, 16].backward()
    assert images.grad is not None
    depends = images.grad[0].abs().sum(dim=0) > 0
    assert (int(depends.any(dim=0).sum()), int(depends.any(dim=1).sum())) == (99, 99)
