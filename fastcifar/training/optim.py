"""The optimizers and their one-cycle schedule."""

from __future__ import annotations

import math
from typing import Any, cast

import torch
from torch import nn

from fastcifar.config import OptimSettings, TrainConfig


def create_optimizer(model: nn.Module, config: TrainConfig) -> torch.optim.Optimizer:
    """Adam, SGD with momentum, or Muon, with an L2 penalty, over the parameters that train.

    Those of a part that is to be frozen are groups of their own, with its share of the steps as their "length".
    """
    lengths = dict(zip(config.freeze, config.freeze_after, strict=True))
    by_length: dict[float, dict[str, nn.Parameter]] = {}
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            by_length.setdefault(lengths.get(name.split(".")[0], 1.0), {})[name] = parameter
    muon = config.optimizer == "muon"
    groups = [
        {**group, "length": length}
        for length, trained in by_length.items()
        for group in (_muon_groups(trained, config) if muon else [{"params": list(trained.values())}])
    ]
    if muon:
        return Muon(groups, lr=config.max_lr)
    shared: dict[str, Any] = {"lr": config.max_lr, "weight_decay": config.weight_decay, "fused": True}
    if config.optimizer == "sgd":
        return torch.optim.SGD(groups, momentum=config.momentum, **shared)
    return torch.optim.Adam(groups, **shared)


def _muon_groups(trained: dict[str, nn.Parameter], settings: OptimSettings) -> list[dict[str, Any]]:
    filters = [parameter for parameter in trained.values() if parameter.dim() == 4]
    vectors = [parameter for parameter in trained.values() if parameter.dim() < 2]
    matrices = [parameter for parameter in trained.values() if parameter.dim() == 2]
    sgd = {"momentum": settings.momentum, "weight_decay": settings.weight_decay, "orthogonal": False}
    groups: list[dict[str, Any]] = [
        {"params": filters, "momentum": settings.muon_momentum, "weight_decay": 0.0, "orthogonal": True},
        {"params": vectors, "lr_ratio": settings.bias_lr / settings.max_lr, **sgd},
        {"params": matrices, "lr_ratio": settings.head_lr / settings.max_lr, **sgd},
    ]
    return [group for group in groups if group["params"]]


class Muon(torch.optim.Optimizer):
    """Nesterov momentum whose step, for filters, is made orthogonal; SGD with Nesterov momentum for the rest.

    A filter bank [O, I, H, W] is a matrix [O, I · H · W]. Before each step it is scaled back to the norm √O that a
    matrix with orthogonal rows has, so that the rate alone says how far a step turns it. A group has "orthogonal",
    "momentum", "weight_decay" (an L2 penalty) and "lr".

    torch.optim.Muon takes two-dimensional parameters only, one at a time; this stacks those of one shape.

    Sources: Jordan et al., *Muon: An optimizer for hidden layers in neural networks*, 2024; the weights' norm from
    KellerJordan/cifar10-airbench (airbench94_muon).
    """

    def __init__(self, groups: list[dict[str, Any]], lr: float) -> None:
        defaults = {"lr": lr, "lr_ratio": 1.0, "momentum": 0.6, "weight_decay": 0.0, "orthogonal": True}
        super().__init__(groups, defaults)

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override]
        """Move every parameter that has a gradient; nothing where `found_inf`, float32 [], is set and 1."""
        for group in self.param_groups:
            weights = [weight for weight in group["params"] if weight.grad is not None]
            if weights:
                self._step(weights, group)

    def _step(self, weights: list[torch.Tensor], group: dict[str, Any]) -> None:
        grads = [cast(torch.Tensor, weight.grad) for weight in weights]
        found_inf: torch.Tensor | None = getattr(self, "found_inf", None)
        skip = None if found_inf is None else found_inf.bool()
        if group["weight_decay"]:
            grads = list(torch._foreach_add(grads, weights, alpha=group["weight_decay"]))
        averages = [self._average(weight) for weight in weights]
        decay = group["momentum"]
        if skip is not None:
            grads = [torch.where(skip, 0.0, grad) for grad in grads]
            decay = torch.where(skip, 1.0, decay)
        torch._foreach_mul_(averages, decay)
        torch._foreach_add_(averages, grads)
        updates = list(torch._foreach_add(grads, averages, alpha=group["momentum"]))
        if group["orthogonal"]:
            updates = orthogonalize(updates)
            scales = [
                len(weight) ** 0.5 / norm for weight, norm in zip(weights, torch._foreach_norm(weights), strict=True)
            ]
            if skip is not None:
                scales = [torch.where(skip, 1.0, scale) for scale in scales]
            torch._foreach_mul_(weights, scales)
        if found_inf is not None:
            torch._foreach_mul_(updates, 1 - found_inf)
        torch._foreach_add_(weights, updates, alpha=-group["lr"])

    def _average(self, weight: torch.Tensor) -> torch.Tensor:
        state = self.state[weight]
        if "momentum_buffer" not in state:
            state["momentum_buffer"] = torch.zeros_like(weight)
        return cast(torch.Tensor, state["momentum_buffer"])


NEWTON_SCHULZ = (3.4445, -4.7750, 2.0315)
"""Coefficients of the quintic, steepest at zero: singular values end between about 0.7 and 1.2, not at 1."""
NEWTON_SCHULZ_STEPS = 3
"""More would magnify the rounding of the matrices' products with their transposes."""


def orthogonalize(matrices: list[torch.Tensor]) -> list[torch.Tensor]:
    """Each matrix with its singular values pushed towards 1, by Newton–Schulz steps in bfloat16.

    Args:
        matrices: [O, …], each taken as [O, product of the others]; those of one shape are multiplied in one batch.

    Source: Jordan et al., 2024, whose coefficients these are.
    """
    by_shape: dict[torch.Size, list[int]] = {}
    for number, matrix in enumerate(matrices):
        by_shape.setdefault(matrix.shape, []).append(number)
    results = list(matrices)
    for shape, numbers in by_shape.items():
        batch = torch.stack([matrices[number].flatten(1) for number in numbers])
        for number, result in zip(numbers, _newton_schulz(batch), strict=True):
            results[number] = result.view(shape).to(matrices[number].dtype)
    return results


def _newton_schulz(batch: torch.Tensor) -> torch.Tensor:
    """[M, O, K] to the same.

    A step multiplies the matrix by a · I + b · G + c · G², where G is its product with its own transpose. All the steps
    are polynomials in the first G, so they are taken on [O, O] matrices, and their product, scale · I + rest,
    multiplies the wide matrix once.

    Source of steps apart from the matrix: *IFNSO: Iteration-Free Newton–Schulz Orthogonalization*, 2026.
    """
    a, b, c = NEWTON_SCHULZ
    wide = batch if batch.shape[1] <= batch.shape[2] else batch.mT
    x = wide.bfloat16()
    x = x / (x.norm(dim=(1, 2), keepdim=True) + 1e-7)
    gram = x @ x.mT
    scale, rest = a, torch.baddbmm(gram, gram, gram, beta=b, alpha=c)
    tail = rest
    for _ in range(NEWTON_SCHULZ_STEPS - 1):
        half = torch.baddbmm(gram, tail, gram, beta=a)
        gram = torch.baddbmm(half, half, tail, beta=a)
        tail = torch.baddbmm(gram, gram, gram, beta=b, alpha=c)
        rest = torch.baddbmm(rest, tail, rest, beta=a) + scale * tail
        scale *= a
    x = torch.baddbmm(x, rest, x, beta=scale)
    return x if wide is batch else x.mT


def one_cycle_lr(step: int, total_steps: int, settings: OptimSettings) -> float:
    """The rate of `step` (from 0) of `total_steps`: a line up to max_lr, then a line down.

    The same values as torch.optim.lr_scheduler.OneCycleLR with two linear phases and `cycle_momentum` off; a function
    of the step, so that a resumed run, or a step that loss scaling skipped, cannot shift it. Source: Smith and Topin,
    *Super-Convergence*, 2017; the rate does not fall below where it began while `final_div_factor` is 1.
    """
    first = settings.max_lr / settings.div_factor
    return _two_lines(step, total_steps, settings.pct_start, first, settings.max_lr, first / settings.final_div_factor)


def one_cycle_momentum(step: int, total_steps: int, settings: OptimSettings) -> float:
    """The momentum of `step`: constant, or lowest where the rate is highest, along the same two lines."""
    ends = settings.momentum
    peak = ends if settings.peak_momentum is None else settings.peak_momentum
    return _two_lines(step, total_steps, settings.pct_start, ends, peak, ends)


def schedule(optimizer: torch.optim.Optimizer, step: int, total_steps: int, settings: OptimSettings) -> float:
    """Give the optimizer the rate, and SGD the momentum, of `step`; the rate. A group's "lr_ratio" is kept to it.

    A group with a "length" goes through the whole schedule in that share of the steps, so that a part that is to be
    frozen has settled by then. Source: Brock et al., *FreezeOut*, 2017.
    """
    for group in optimizer.param_groups:
        length = math.ceil(group.get("length", 1.0) * total_steps)
        if step >= length:  # it is frozen
            continue
        group["lr"] = one_cycle_lr(step, length, settings) * group.get("lr_ratio", 1.0)
        if settings.optimizer == "sgd":
            group["momentum"] = one_cycle_momentum(step, length, settings)
    return one_cycle_lr(step, total_steps, settings)


@torch.no_grad()
def add_l1_gradient(optimizer: torch.optim.Optimizer, scaler: torch.amp.GradScaler, factor: float) -> None:
    """Add `factor` times the sign of each weight, the gradient of an L1 penalty, to its gradient, scaled as that is.

    The scale is not read from the device, which would wait for it.
    """
    for group in optimizer.param_groups:
        weights = [weight for weight in group["params"] if weight.grad is not None]
        signs = torch._foreach_sign(weights)
        torch._foreach_mul_(signs, scaler.scale(torch.full((), factor, device=weights[0].device)))
        torch._foreach_add_([weight.grad for weight in weights], signs)


def _two_lines(step: int, total_steps: int, pct_start: float, first: float, peak: float, last: float) -> float:
    turn = pct_start * total_steps - 1
    if step < turn:
        return first + (peak - first) * step / turn
    return peak + (last - peak) * (step - turn) / (total_steps - 1 - turn)
