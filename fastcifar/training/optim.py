"""The optimizers and their one-cycle schedule."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import nn

from fastcifar.config import OptimSettings, TrainConfig

Compiler = Callable[[Callable[..., None]], Callable[..., None]]


def create_optimizer(model: nn.Module, config: TrainConfig, compiled: Compiler | None = None) -> torch.optim.Optimizer:
    """Adam, SGD with momentum, or Muon, with an L2 penalty, over the parameters that train.

    Those of a part that is to be frozen are groups of their own, with its share of the steps as their "length". Muon's
    update is what `compiled` makes of it, if given; torch's own are fused.
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
        return Muon(groups, lr=config.max_lr, compiled=compiled)
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

    torch.optim.Muon takes two-dimensional parameters only, one at a time; this takes filters together.

    Sources: Jordan et al., *Muon: An optimizer for hidden layers in neural networks*, 2024; the weights' norm from
    KellerJordan/cifar10-airbench (airbench94_muon).
    """

    def __init__(self, groups: list[dict[str, Any]], lr: float, compiled: Compiler | None = None) -> None:
        defaults = {"lr": lr, "lr_ratio": 1.0, "momentum": 0.6, "weight_decay": 0.0, "orthogonal": True}
        super().__init__(groups, defaults)
        self._compiled = compiled is not None
        self._move = compiled(_move) if compiled else _move

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override]
        """Move every parameter that has a gradient; nothing where `found_inf`, float32 [], is set and 1."""
        found_inf: torch.Tensor | None = getattr(self, "found_inf", None)
        if found_inf is not None and found_inf.device.type == "cpu" and not self._compiled:
            if found_inf:  # reading it waits for nothing there
                return
            found_inf = None
        for group in self.param_groups:
            weights = [weight for weight in group["params"] if weight.grad is not None]
            if weights:
                grads = [weight.grad for weight in weights]
                averages = [self._average(weight) for weight in weights]
                lr = torch.as_tensor(group["lr"]) if self._compiled else group["lr"]  # else compiled for each number
                settings = group["momentum"], group["weight_decay"], group["orthogonal"]
                self._move(weights, grads, averages, lr, found_inf, *settings)

    def _average(self, weight: torch.Tensor) -> torch.Tensor:
        state = self.state[weight]
        if "momentum_buffer" not in state:
            state["momentum_buffer"] = torch.zeros_like(weight)
        return cast(torch.Tensor, state["momentum_buffer"])


def _move(
    weights: list[torch.Tensor],
    grads: list[torch.Tensor],
    averages: list[torch.Tensor],
    lr: float | torch.Tensor,
    found_inf: torch.Tensor | None,
    momentum: float,
    weight_decay: float,
    orthogonal: bool,
) -> None:
    """A group's step, in place."""
    factor: float | torch.Tensor = -lr
    decay: float | torch.Tensor = momentum
    skip: torch.Tensor | None = None
    if weight_decay:
        grads = list(torch._foreach_add(grads, weights, alpha=weight_decay))
    if found_inf is not None:
        skip = found_inf.bool()
        grads = [torch.where(skip, 0.0, grad) for grad in grads]
        factor, decay = (found_inf - 1) * lr, torch.where(skip, 1.0, momentum)
    torch._foreach_mul_(averages, decay)
    torch._foreach_add_(averages, grads)
    updates = list(torch._foreach_add(grads, averages, alpha=momentum))
    if orthogonal:
        updates = orthogonalize(updates)
        scales = [len(weight) ** 0.5 / norm for weight, norm in zip(weights, torch._foreach_norm(weights), strict=True)]
        if skip is not None:
            scales = [torch.where(skip, 1.0, scale) for scale in scales]
        torch._foreach_mul_(weights, scales)
    torch._foreach_mul_(updates, factor)
    torch._foreach_add_(weights, updates)


NEWTON_SCHULZ = (3.4445, -4.7750, 2.0315)
"""Coefficients of the quintic, steepest at zero: singular values end between about 0.7 and 1.2, not at 1."""
NEWTON_SCHULZ_STEPS = 3
"""More would magnify the rounding of the matrices' products with their transposes."""


def orthogonalize(filters: list[torch.Tensor]) -> list[torch.Tensor]:
    """Each filter bank with the singular values of its matrix pushed towards 1, by Newton–Schulz steps in bfloat16.

    Args:
        filters: [O, I, H, W], taken as [O, H · W · I], the order of channels-last memory. On CUDA all go through the
            steps as one batch, filled up with zeros, since launches cost more than products there; on the CPU those of
            one shape do.

    Source: Jordan et al., 2024, whose coefficients these are.
    """
    matrices = [bank.movedim(1, -1).flatten(1) for bank in filters]
    wide = [matrix if len(matrix) <= matrix.shape[1] else matrix.mT for matrix in matrices]
    results = list(filters)
    for numbers in _batches(wide):
        batch = _newton_schulz(_stack([wide[number].bfloat16() for number in numbers]))
        for number, result in zip(numbers, batch, strict=True):
            bank, (rows, columns) = filters[number], wide[number].shape
            result = result[:rows, :columns]
            matrix = result if wide[number] is matrices[number] else result.mT
            results[number] = matrix.reshape(bank.movedim(1, -1).shape).movedim(-1, 1).to(bank.dtype)
    return results


def _stack(matrices: list[torch.Tensor]) -> torch.Tensor:
    """[M, rows, columns], as large as the largest, the others filled up with zeros."""
    height, width = (max(matrix.shape[side] for matrix in matrices) for side in (0, 1))
    return torch.stack(
        [F.pad(matrix, (0, width - matrix.shape[1], 0, height - matrix.shape[0])) for matrix in matrices]
    )


def _batches(matrices: list[torch.Tensor]) -> list[list[int]]:
    """The numbers of those that are multiplied together."""
    if matrices[0].is_cuda:  # only on a GPU
        return [list(range(len(matrices)))]
    by_shape: dict[torch.Size, list[int]] = {}
    for number, matrix in enumerate(matrices):
        by_shape.setdefault(matrix.shape, []).append(number)
    return list(by_shape.values())


def _newton_schulz(batch: torch.Tensor) -> torch.Tensor:
    """bfloat16 [M, O, K], O at most K, to the same.

    A step multiplies the matrix by a · I + b · G + c · G², where G is its product with its own transpose. All the steps
    are polynomials in the first G, so they are taken on [O, O] matrices, and their product, scale · I + rest,
    multiplies the wide matrix once.

    Source of steps apart from the matrix: *IFNSO: Iteration-Free Newton–Schulz Orthogonalization*, 2026.
    """
    a, b, c = NEWTON_SCHULZ
    x = batch / (batch.norm(dim=(1, 2), keepdim=True) + 1e-7)
    gram = x @ x.mT
    scale, rest = a, torch.baddbmm(gram, gram, gram, beta=b, alpha=c)
    tail = rest
    for _ in range(NEWTON_SCHULZ_STEPS - 1):
        half = torch.baddbmm(gram, tail, gram, beta=a)
        gram = torch.baddbmm(half, half, tail, beta=a)
        tail = torch.baddbmm(gram, gram, gram, beta=b, alpha=c)
        rest = torch.baddbmm(rest, tail, rest, beta=a) + scale * tail
        scale *= a
    return torch.baddbmm(x, rest, x, beta=scale)


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


def rate_table(optimizer: torch.optim.Optimizer, total_steps: int, settings: OptimSettings) -> torch.Tensor:
    """What `schedule` gives in every step: float32 [steps, 1 + groups], the step's number and then each group's rate,
    on the parameters' device."""
    rows = []
    for step in range(total_steps):
        schedule(optimizer, step, total_steps, settings)
        rows.append([step, *(group["lr"] for group in optimizer.param_groups)])
    return torch.tensor(rows, dtype=torch.float32, device=optimizer.param_groups[0]["params"][0].device)


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
