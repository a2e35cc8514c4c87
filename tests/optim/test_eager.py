from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

from fastcifar.optim import eager


@pytest.mark.parametrize("name", ["Adam", "SGD"])
def test_the_steps_are_those_of_torch(name: str) -> None:
    options: dict[str, Any] = {"lr": 0.1, "weight_decay": 0.1, "fused": True}
    options |= {"momentum": 0.9} if name == "SGD" else {}
    torch.manual_seed(0)
    model, other = (nn.Linear(3, 2) for _ in range(2))
    other.load_state_dict(model.state_dict())
    optimizers = [getattr(torch.optim, name)(model.parameters(), **options)]
    optimizers += [getattr(eager, name)(other.parameters(), **options)]
    for _ in range(3):
        images = torch.randn(4, 3)
        for network, optimizer in zip((model, other), optimizers, strict=True):
            optimizer.zero_grad()
            network(images).square().sum().backward()
            optimizer.step()
    assert torch.equal(model.weight, other.weight)
    theirs, ours = (optimizer.state_dict() for optimizer in optimizers)
    optimizers[0].load_state_dict(ours)
    optimizers[1].load_state_dict(theirs)
    assert ours["param_groups"] == theirs["param_groups"]


def test_hooks_are_called_around_a_step() -> None:
    model, called = nn.Linear(2, 2), []
    optimizer = eager.Adam(model.parameters())
    optimizer.register_step_pre_hook(lambda *_: called.append("before"))
    optimizer.register_step_post_hook(lambda *_: called.append("after"))
    model(torch.ones(1, 2)).sum().backward()
    optimizer.step()
    assert called == ["before", "after"]
