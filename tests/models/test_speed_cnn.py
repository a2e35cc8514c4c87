from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from fastcifar import create_model
from fastcifar.errors import ConfigError
from fastcifar.models.speed_cnn import GELU_SCALE, ConvGroup


def test_the_widths_of_the_groups_can_be_set() -> None:
    model = create_model("speed_cnn", widths=(8, 12, 20))
    assert [getattr(model, f"group{number}").conv2.out_channels for number in (1, 2, 3)] == [8, 12, 20]
    assert model.eval()(torch.zeros(2, 3, 32, 32)).shape == (2, 10)
    with pytest.raises(ConfigError, match=r"widths is \[8, 12\]; it must be three values, one per group"):
        create_model("speed_cnn", widths=(8, 12))
    with pytest.raises(ConfigError, match="does not take these options"):
        create_model("custom_resnet", widths=(8, 12, 20))


def test_activations_are_gelu_times_a_factor() -> None:
    torch.manual_seed(0)
    group = ConvGroup(8, 16)
    images = torch.randn(4, 8, 12, 12)
    expected = F.gelu(F.batch_norm(group.pool(group.conv1(images)), None, None, training=True))
    expected = F.gelu(F.batch_norm(group.conv2(expected), None, None, training=True))
    torch.testing.assert_close(group(images) / GELU_SCALE, expected, atol=0.06, rtol=0)
