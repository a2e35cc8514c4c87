from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from fastcifar import create_model
from fastcifar.analysis.grad_cam import grad_cam
from tests.helpers import TinyNet


def _by_definition(head: nn.Module, features: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    """Grad-CAM computed from its definition, one image and one channel at a time, without hooks."""
    maps = []
    for feature, target in zip(features, targets.tolist(), strict=True):
        leaf = feature.detach()[None].requires_grad_()
        head(leaf)[0, target].backward()
        weighted = torch.zeros_like(feature[0])
        for channel in range(len(feature)):
            weighted += leaf.grad[0, channel].mean() * feature[channel].detach()
        maps.append(weighted.clamp(min=0))
    large = F.interpolate(torch.stack(maps)[:, None], size=(32, 32), mode="bilinear", align_corners=False)[:, 0]
    return torch.stack([one / one.max() if one.max() > 0 else one for one in large])


def test_grad_cam_equals_its_definition_on_a_small_network() -> None:
    torch.manual_seed(0)
    model = TinyNet().eval()
    images, targets = torch.randn(6, 3, 32, 32), torch.arange(6)
    layers = list(model)
    features, head = nn.Sequential(*layers[:3]), nn.Sequential(*layers[3:])
    expected = _by_definition(head, features(images), targets)
    assert torch.allclose(grad_cam(model, images, targets), expected, atol=1e-5)


@pytest.mark.parametrize("name", ["custom_resnet", "dilated_cnn"])
def test_grad_cam_of_a_network_with_global_pooling_follows_from_the_weights_of_its_head(name: str) -> None:
    """After global pooling, the mean gradient of a feature map is its weight divided by the number of positions."""
    torch.manual_seed(0)
    model = create_model(name).eval()
    images, targets = torch.randn(6, 3, 32, 32), torch.tensor([1, 9, 4, 4, 0, 7])
    outputs: list[torch.Tensor] = []
    stage = model.get_submodule("layer3" if name == "custom_resnet" else "block4")
    hook = stage.register_forward_hook(lambda module, inputs, output: outputs.append(output.detach()))
    with torch.no_grad():
        model(images)
    hook.remove()
    weight = model.get_submodule("head")[-1].weight.detach()[targets]
    maps = torch.einsum("bk,bkhw->bhw", weight, outputs[0]).clamp(min=0)
    large = F.interpolate(maps[:, None], size=(32, 32), mode="bilinear", align_corners=False)[:, 0]
    expected = large / large.amax(dim=(1, 2), keepdim=True).clamp(min=1e-9)
    assert expected.any()
    assert torch.allclose(grad_cam(model, images, targets), expected, atol=1e-5)
    assert not any(module._forward_hooks for module in model.modules())


def test_grad_cam_leaves_no_gradients_and_works_with_frozen_weights() -> None:
    model = TinyNet().eval().requires_grad_(False)
    maps = grad_cam(model, torch.randn(2, 3, 32, 32), torch.tensor([0, 1]))
    assert maps.shape == (2, 32, 32)
    assert float(maps.min()) >= 0
    assert all(parameter.grad is None for parameter in model.parameters())


def test_the_map_is_zero_if_no_place_speaks_for_the_class() -> None:
    model = TinyNet().eval()
    with torch.no_grad():
        model[-1].weight.fill_(-1)
    assert not grad_cam(model, torch.randn(2, 3, 32, 32), torch.tensor([0, 1])).any()


def test_grad_cam_needs_feature_maps() -> None:
    model = nn.Sequential(nn.Flatten(), nn.Linear(3 * 32 * 32, 10)).eval()
    with pytest.raises(ValueError, match="feature maps"):
        grad_cam(model, torch.randn(1, 3, 32, 32), torch.tensor([0]))
