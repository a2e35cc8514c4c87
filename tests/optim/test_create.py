from __future__ import annotations

import pytest
import torch
from torch import nn

from fastcifar import get_recipe
from fastcifar.optim.create import add_l1_gradient, create_optimizer


def test_adam_has_the_configured_weight_decay() -> None:
    config = get_recipe("era", weight_decay=0.5)
    optimizer = create_optimizer(nn.Linear(2, 2), config.optim, config.freezing)
    assert isinstance(optimizer, torch.optim.Adam)
    assert optimizer.param_groups[0]["weight_decay"] == 0.5


def test_parameters_without_gradients_are_left_out() -> None:
    model = nn.Linear(2, 2)
    model.bias.requires_grad_(False)
    for optimizer in ("adam", "sgd"):
        config = get_recipe("era", optimizer=optimizer)
        groups = create_optimizer(model, config.optim, config.freezing).param_groups
        assert [len(group["params"]) for group in groups] == [1]


def test_frozen_groups_get_no_l1_gradient() -> None:
    config = get_recipe("era", freeze=("0",), freeze_at=(0.5,))
    model = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2))
    optimizer = create_optimizer(model, config.optim, config.freezing)
    model[0].requires_grad_(False)
    model(torch.ones(1, 2)).sum().backward()
    before = model[1].bias.grad.clone()
    add_l1_gradient(optimizer, lambda loss: loss, 0.5)
    assert torch.equal(model[1].bias.grad, before + 0.5 * model[1].bias.sign())
    assert model[0].bias.grad is None


@pytest.mark.parametrize("scale", [None, 256.0])
def test_the_l1_gradient_is_that_of_the_penalty_scaled_like_the_loss(scale: float | None) -> None:
    scaler = torch.amp.GradScaler("cpu", init_scale=scale or 1.0, enabled=scale is not None)
    layer = nn.Linear(3, 2)
    optimizer = torch.optim.SGD(layer.parameters(), lr=0.1)
    penalized = layer(torch.ones(1, 3)).sum() + 0.01 * sum(p.abs().sum() for p in layer.parameters())
    scaler.scale(penalized).backward()
    expected = [parameter.grad.clone() for parameter in layer.parameters() if parameter.grad is not None]
    optimizer.zero_grad()
    scaler.scale(layer(torch.ones(1, 3)).sum()).backward()
    add_l1_gradient(optimizer, scaler.scale, 0.01)
    for parameter, gradient in zip(layer.parameters(), expected, strict=True):
        assert torch.allclose(parameter.grad, gradient)
