from __future__ import annotations

import pytest
import torch
from torch import nn

from fastcifar import create_model
from tests.models.helpers import parameter_count, stage_shapes

STAGES = {
    "prep": (64, 32, 32),
    "layer1": (128, 16, 16),
    "layer2": (256, 8, 8),
    "layer3": (512, 4, 4),
    "head": (10,),
}


def test_it_has_6_573_130_parameters_and_the_documented_stage_shapes() -> None:
    model = create_model("custom_resnet")
    assert parameter_count(model) == 6_573_130
    assert stage_shapes(model) == STAGES


def test_the_biased_three_block_variant_has_7_756_554_parameters_and_the_same_shapes() -> None:
    model = create_model("custom_resnet", conv_bias=True, layer2_residual=True)
    assert parameter_count(model) == 7_756_554
    assert stage_shapes(model) == STAGES


def test_it_does_379_27_million_multiply_adds_per_image() -> None:
    counts: list[int] = []
    model = create_model("custom_resnet")
    for module in model.modules():
        if isinstance(module, nn.Conv2d):
            module.register_forward_hook(
                lambda conv, _, out: counts.append(out.shape[2] * out.shape[3] * conv.weight.numel())
            )
        elif isinstance(module, nn.Linear):
            counts.append(module.weight.numel())
    model.eval()(torch.zeros(1, 3, 32, 32))
    assert sum(counts) / 1e6 == pytest.approx(379.27, abs=0.02)


def test_pooling_comes_before_the_norm_and_the_residual_is_added() -> None:
    model = create_model("custom_resnet").eval()
    assert [type(layer).__name__ for layer in model.layer1[0]] == ["Conv3x3", "MaxPool2x2", "BatchNorm2d", "ReLU"]
    residual = model.layer1[1]
    x = torch.randn(2, 128, 16, 16)
    assert torch.equal(residual(x), x + residual.branch(x))


def test_dropout_follows_every_relu() -> None:
    model = create_model("custom_resnet", dropout=0.1)
    relus = [module for module in model.modules() if isinstance(module, nn.ReLU)]
    drops = [module for module in model.modules() if isinstance(module, nn.Dropout)]
    assert len(relus) == len(drops) == 8
    assert all(drop.p == 0.1 for drop in drops)
    assert not any(isinstance(module, nn.Dropout) for module in create_model("custom_resnet").modules())


def test_it_returns_logits_for_the_requested_number_of_classes() -> None:
    logits = create_model("custom_resnet", num_classes=7).eval()(torch.zeros(2, 3, 32, 32))
    assert logits.shape == (2, 7)
    assert not torch.allclose(logits.exp().sum(dim=1), torch.ones(2)), "no softmax"


def test_equal_seeds_give_equal_weights() -> None:
    weights = []
    for seed in (1, 1, 2):
        torch.manual_seed(seed)
        weights.append(create_model("custom_resnet").prep.conv.weight)
    assert torch.equal(weights[0], weights[1])
    assert not torch.equal(weights[0], weights[2])
