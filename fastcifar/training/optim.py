"""The optimizer and its one-cycle schedule."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from fastcifar.config import OptimSettings


def create_optimizer(model: nn.Module, settings: OptimSettings) -> torch.optim.Optimizer:
    """Adam, or SGD with momentum, with an L2 penalty; its update is one kernel over all parameters."""
    shared: dict[str, Any] = {"lr": settings.max_lr, "weight_decay": settings.weight_decay, "fused": True}
    if settings.optimizer == "sgd":
        return torch.optim.SGD(model.parameters(), momentum=settings.momentum, **shared)
    return torch.optim.Adam(model.parameters(), **shared)


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
    """Give the optimizer the rate, and the momentum if it has one, of `step`; the rate."""
    lr = one_cycle_lr(step, total_steps, settings)
    for group in optimizer.param_groups:
        group["lr"] = lr
        if "momentum" in group:
            group["momentum"] = one_cycle_momentum(step, total_steps, settings)
    return lr


@torch.no_grad()
def add_l1_gradient(optimizer: torch.optim.Optimizer, factor: float) -> None:
    """Add `factor` times the sign of each weight, the gradient of an L1 penalty, to its gradient."""
    for group in optimizer.param_groups:
        weights = [weight for weight in group["params"] if weight.grad is not None]
        torch._foreach_add_([weight.grad for weight in weights], torch._foreach_sign(weights), alpha=factor)


def _two_lines(step: int, total_steps: int, pct_start: float, first: float, peak: float, last: float) -> float:
    turn = pct_start * total_steps - 1
    if step < turn:
        return first + (peak - first) * step / turn
    return peak + (last - peak) * (step - turn) / (total_steps - 1 - turn)
