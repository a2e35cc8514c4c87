from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from fastcifar import create_model, get_recipe
from fastcifar.errors import ConfigError
from fastcifar.models import model_from_config
from fastcifar.models.speed_cnn import GELU_SCALE, ConvGroup


def test_the_widths_of_the_groups_can_be_set() -> None:
    model = create_model("speed_cnn", widths=(8, 12, 20))
    assert [getattr(model, f"group{number}").conv2.out_channels for number in (1, 2, 3)] == [8, 12, 20]
    assert model.eval()(torch.zeros(2, 3, 32, 32)).shape == (2, 10)
    with pytest.raises(ConfigError, match=r"widths is \[8, 12\]; it must be three values, one per group"):
        create_model("speed_cnn", widths=(8, 12))
    with pytest.raises(ConfigError, match="model custom_resnet has no option widths; its options are num_classes, "):
        create_model("custom_resnet", widths=(8, 12, 20))


def test_activations_are_gelu_times_a_factor() -> None:
    torch.manual_seed(0)
    group = ConvGroup(8, 16)
    images = torch.randn(4, 8, 12, 12)
    expected = F.gelu(F.batch_norm(group.pool(group.conv1(images)), None, None, training=True))
    expected = F.gelu(F.batch_norm(group.conv2(expected), None, None, training=True))
    torch.testing.assert_close(group(images) / GELU_SCALE, expected, atol=0.06, rtol=0)


def test_a_third_convolution_has_a_residual_connection() -> None:
    torch.manual_seed(0)
    group = ConvGroup(8, 16, depth=3).eval()
    images = torch.randn(4, 8, 12, 12)
    first = group.activation1(group.norm1(group.pool(group.conv1(images))))
    third = group.norm3(group.conv3(group.activation2(group.norm2(group.conv2(first)))))
    torch.testing.assert_close(group(images), F.silu(first + third))
    shallow = ConvGroup(8, 16).eval()
    shallow.load_state_dict(group.state_dict(), strict=False)
    torch.testing.assert_close(shallow(images), group.activation2(group.norm2(group.conv2(first))))


def test_the_depth_is_a_setting() -> None:
    deep = model_from_config(get_recipe("speedrun", widths=(8, 12, 20), depth=3).model, num_classes=7)
    assert isinstance(deep.group3, ConvGroup)
    assert deep.group3.conv3.weight.shape == (20, 20, 3, 3)
    assert deep(torch.zeros(2, 3, 16, 16)).shape == (2, 7)
    with pytest.raises(ConfigError, match="depth is 4; it must be 2 or 3"):
        create_model("speed_cnn", depth=4)
    with pytest.raises(ConfigError, match="model custom_resnet has no option depth; its options are num_classes, "):
        model_from_config(get_recipe("era", depth=3).model, num_classes=10)
