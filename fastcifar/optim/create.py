"""Creation of the optimizer and its parameter groups."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from fastcifar.optim.eager import SGD, Adam
from fastcifar.optim.muon import Compiler, Muon
from fastcifar.parallel import ALONE, Processes
from fastcifar.settings import FreezeSettings, OptimSettings


def create_optimizer(
    model: nn.Module,
    settings: OptimSettings,
    freezing: FreezeSettings,
    compiler: Compiler | None = None,
    processes: Processes = ALONE,
) -> torch.optim.Optimizer:
    """Create Adam, SGD with momentum or Muon, with an L2 penalty, for the trainable parameters.

    The parameters of modules that are frozen before the end form their own groups, whose "schedule_fraction" is the
    fraction of the steps in which they train. `compiler` compiles Muon's update; torch's optimizers are fused instead.
    `processes` are those that train the model together.
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
        for group in (_muon_groups(model, trained, settings) if muon else [{"params": list(trained.values())}])
    ]
    if muon:
        return Muon(groups, lr=settings.max_lr, compiler=compiler, processes=processes)
    shared: dict[str, Any] = {"lr": settings.max_lr, "weight_decay": settings.weight_decay, "fused": True}
    if settings.optimizer == "sgd":
        return _with_momentum(SGD(groups, momentum=settings.momentum, **shared))
    return Adam(groups, **shared)


def _with_momentum(sgd: SGD) -> SGD:
    """Begin with a momentum of zero. In a first step that is skipped, torch's fused SGD leaves it uninitialised."""
    for group in sgd.param_groups:
        for parameter in group["params"]:
            sgd.state[parameter]["momentum_buffer"] = torch.zeros_like(parameter)
    return sgd


def _muon_groups(model: nn.Module, trained: dict[str, nn.Parameter], settings: OptimSettings) -> list[dict[str, Any]]:
    """Muon's group of matrices, and SGD's groups of other parameters and of the last layer's weight.

    Source of the division: Jordan et al., *Muon*, 2024.
    """
    head = next((module.weight for module in reversed([*model.modules()]) if isinstance(module, nn.Linear)), None)
    by_kind: dict[str, list[nn.Parameter]] = {"matrices": [], "others": [], "head": []}
    for name, parameter in trained.items():
        kind = "head" if parameter is head else "matrices" if _is_matrix(model, name, parameter) else "others"
        by_kind[kind].append(parameter)
    sgd = {"momentum": settings.momentum, "weight_decay": settings.weight_decay, "use_muon": False}
    groups: list[dict[str, Any]] = [
        {"params": by_kind["matrices"], "momentum": settings.muon_momentum, "weight_decay": 0.0, "use_muon": True},
        {"params": by_kind["others"], "lr_scale": settings.bias_lr / settings.max_lr, **sgd},
        {"params": by_kind["head"], "lr_scale": settings.head_lr / settings.max_lr, **sgd},
    ]
    return [group for group in groups if group["params"]]


def _is_matrix(model: nn.Module, name: str, parameter: nn.Parameter) -> bool:
    """Whether a parameter multiplies activations, as convolution filters and hidden matrices do.

    Biases, norms, embeddings and tables of positions do not. A table of positions is told apart by its shape, [1, ...],
    or by its name, which lacks the "weight" that torch's layers have.
    """
    if parameter.dim() < 2 or parameter.numel() in (len(parameter), parameter[0].numel()):  # one row or one column
        return False
    owner, _, own_name = name.rpartition(".")
    embedding = isinstance(model.get_submodule(owner), nn.Embedding | nn.EmbeddingBag)
    return not embedding and (parameter.dim() >= 4 or "weight" in own_name)


@torch.no_grad()
def add_l1_gradient(optimizer: torch.optim.Optimizer, scale: Callable[[Tensor], Tensor], factor: float) -> None:
    """Add the gradient of an L1 penalty, `factor` times the sign of each weight, scaled by `scale` as the loss is."""
    for group in optimizer.param_groups:
        weights = [weight for weight in group["params"] if weight.grad is not None]
        if not weights:  # the group is frozen
            continue
        signs = torch._foreach_sign(weights)
        torch._foreach_mul_(signs, scale(torch.full((), factor, device=weights[0].device)))
        torch._foreach_add_([weight.grad for weight in weights], signs)
