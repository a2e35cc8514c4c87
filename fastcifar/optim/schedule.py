"""The one-cycle schedule of learning rate and momentum, as functions of the step."""

import math

import torch
from torch import Tensor

from fastcifar.settings import OptimSettings


def one_cycle_lr(step: int, total_steps: int, settings: OptimSettings) -> float:
    """The learning rate of `step` (from 0) of `total_steps`: linear up to max_lr, then linear down.

    Equal to torch.optim.lr_scheduler.OneCycleLR with two linear phases and `cycle_momentum` off, but a function of the
    step, so that neither a resumed run nor a step that loss scaling skips can shift it. While `final_div_factor` is 1,
    the learning rate does not fall below its first value. Source: Smith and Topin, *Super-Convergence*, 2017.
    """
    first = settings.max_lr / settings.div_factor
    return _two_lines(step, total_steps, settings.pct_start, first, settings.max_lr, first / settings.final_div_factor)


def one_cycle_momentum(step: int, total_steps: int, settings: OptimSettings) -> float:
    """The momentum of `step`: constant, or lowest where the learning rate is highest, on the same two lines."""
    ends = settings.momentum
    peak = ends if settings.peak_momentum is None else settings.peak_momentum
    return _two_lines(step, total_steps, settings.pct_start, ends, peak, ends)


def set_lr(optimizer: torch.optim.Optimizer, step: int, total_steps: int, settings: OptimSettings) -> None:
    """Set the learning rate of each parameter group, and SGD's momentum, for `step`.

    A group's learning rate is "lr_scale" times the schedule's. A group with a "schedule_fraction" goes through the
    whole schedule in that fraction of the steps, so that it has settled by the time it is frozen; then it keeps its
    last learning rate. Source: Brock et al., *FreezeOut*, 2017.
    """
    for group in optimizer.param_groups:
        group_steps = math.ceil(group.get("schedule_fraction", 1.0) * total_steps)
        if step >= group_steps:  # the group is frozen
            continue
        group["lr"] = one_cycle_lr(step, group_steps, settings) * group.get("lr_scale", 1.0)
        if settings.optimizer == "sgd":
            group["momentum"] = one_cycle_momentum(step, group_steps, settings)


def lr_table(optimizer: torch.optim.Optimizer, total_steps: int, settings: OptimSettings) -> Tensor:
    """The learning rates of every step: float32 [steps, 1 + groups] on the parameters' device.

    Each row is the step's number, then the learning rate that `set_lr` gives each group.
    """
    rows = []
    for step in range(total_steps):
        set_lr(optimizer, step, total_steps, settings)
        rows.append([step, *(group["lr"] for group in optimizer.param_groups)])
    return torch.tensor(rows, dtype=torch.float32, device=optimizer.param_groups[0]["params"][0].device)


def _two_lines(step: int, total_steps: int, pct_start: float, first: float, peak: float, last: float) -> float:
    turn = pct_start * total_steps - 1
    if step < turn:
        return first + (peak - first) * step / turn
    return peak + (last - peak) * (step - turn) / (total_steps - 1 - turn)
