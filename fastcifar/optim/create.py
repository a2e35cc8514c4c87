"""Creation of the optimizer and its parameter groups."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from fastcifar.optim.muon import Compiler, Muon
from fastcifar.settings import FreezeSettings, OptimSettings


def create_optimizer(
    model: nn.Module, settings: OptimSettings, freezing: FreezeSettings, compiler: Compiler | None = None
) -> torch.optim.Optimizer:
    """Create Adam, SGD with momentum or Muon, with an L2 penalty, for the trainable parameters.

    The parameters of modules that are frozen before the end form their own groups, whose "schedule_fraction" is the
    fraction of the steps in which they train. `compiler` compiles Muon's update; torch's optimizers are fused instead.
    """
    fractions = dict(zip(freezing.freeze, freezing.freeze_at, strict=True))
    by_fraction: dict[float, dict[str, nn.Parameter]] = {}
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            by_fraction.setdefault(fractions.get(name.split(".")[0], 1.0), {})[name] = parameter
    muon = settings.optimizer == "muon"
    groups = [
        {**group, "schedule_fraction": fraction}
        for fraction, trained in by_fraction.items()
        for group in (_muon_groups(trained, settings) if muon else [{"params": list(trained.values())}])
    ]
    if muon:
        return Muon(groups, lr=settings.max_lr, compiler=compiler)
    shared: dict[str, Any] = {"lr": settings.max_lr, "weight_decay": settings.weight_decay, "fused": True}
    if settings.optimizer == "sgd":
        return torch.optim.SGD(groups, momentum=settings.momentum, **shared)
    return torch.optim.Adam(groups, **shared)


def _muon_groups(trained: dict[str, nn.Parameter], settings: OptimSettings) -> list[dict[str, Any]]:
    filters = [parameter for parameter in trained.values() if parameter.dim() == 4]
    vectors = [parameter for parameter in trained.values() if parameter.dim() < 2]
    matrices = [parameter for parameter in trained.values() if parameter.dim() == 2]
    sgd = {"momentum": settings.momentum, "weight_decay": settings.weight_decay, "use_muon": False}
    groups: list[dict[str, Any]] = [
        {"params": filters, "momentum": settings.muon_momentum, "weight_decay": 0.0, "use_muon": True},
        {"params": vectors, "lr_scale": settings.bias_lr / settings.max_lr, **sgd},
        {"params": matrices, "lr_scale": settings.head_lr / settings.max_lr, **sgd},
    ]
    return [group for group in groups if group["params"]]


@torch.no_grad()
def add_l1_gradient(optimizer: torch.optim.Optimizer, scale: Callable[[Tensor], Tensor], factor: float) -> None:
    """Add the gradient of an L1 penalty, `factor` times the sign of each weight, scaled by `scale` as the loss is."""
    for group in optimizer.param_groups:
        weights = [weight for weight in group["params"] if weight.grad is not None]
        signs = torch._foreach_sign(weights)
        torch._foreach_mul_(signs, scale(torch.full((), factor, device=weights[0].device)))
        torch._foreach_add_([weight.grad for weight in weights], signs)
