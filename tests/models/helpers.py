"""Helpers of the networks' tests."""

from __future__ import annotations

import torch
from torch import nn


def parameter_count(model: nn.Module) -> int:
    return sum(parameter.numel() for parameter in model.parameters())


def stage_shapes(model: nn.Module) -> dict[str, tuple[int, ...]]:
    """The shape of each direct child's output for a 32 × 32 image, without the batch dimension."""
    shapes: dict[str, tuple[int, ...]] = {}
    for name, stage in model.named_children():
        stage.register_forward_hook(lambda _, __, out, name=name: shapes.update({name: tuple(out.shape[1:])}))
    model.eval()(torch.zeros(1, 3, 32, 32))
    return shapes
