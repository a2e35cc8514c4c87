"""The optimizer and its one-cycle schedule."""

from __future__ import annotations

import torch
from torch import nn

from fastcifar.config import OptimSettings


def create_optimizer(model: nn.Module, settings: OptimSettings) -> torch.optim.Optimizer:
    """Adam with an L2 penalty, its update one kernel over all parameters."""
    return torch.optim.Adam(model.parameters(), lr=settings.max_lr, weight_decay=settings.weight_decay, fused=True)


def one_cycle_lr(step: int, total_steps: int, settings: OptimSettings) -> float:
    """The rate of `step` (from 0) of `total_steps`: a line up to max_lr, then a line down.

    The same values as torch.optim.lr_scheduler.OneCycleLR with two linear phases and `cycle_momentum` off; a function
    of the step, so that a resumed run, or a step that loss scaling skipped, cannot shift it. Source: Smith and Topin,
    *Super-Convergence*, 2017; the rate does not fall below where it began while `final_div_factor` is 1.
    """
    first = settings.max_lr / settings.div_factor
    last = first / settings.final_div_factor
    peak = settings.pct_start * total_steps - 1
    if step <= peak:
        return first + (settings.max_lr - first) * step / peak
    return settings.max_lr + (last - settings.max_lr) * (step - peak) / (total_steps - 1 - peak)


def set_lr(optimizer: torch.optim.Optimizer, lr: float) -> None:
    """Give every parameter group the rate `lr`."""
    for group in optimizer.param_groups:
        group["lr"] = lr
