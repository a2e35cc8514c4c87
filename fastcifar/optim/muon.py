"""Muon: momentum whose update is orthogonalised, for convolution filters and hidden matrices."""

from collections.abc import Callable
from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor

from fastcifar.device import has_bfloat16
from fastcifar.optim.eager import EagerOptimizer
from fastcifar.parallel import ALONE, Processes

Compiler = Callable[[Callable[..., None]], Callable[..., None]]


class Muon(EagerOptimizer):
    """Nesterov momentum with an orthogonalised update for matrices; SGD with Nesterov momentum for other parameters.

    A filter bank [O, I, H, W] is treated as a matrix [O, I · H · W], and one with fewer or more dimensions likewise.
    Before each step it is rescaled to the norm √O of a matrix with orthogonal rows, so that the learning rate alone
    determines how far a step turns it. A group has "use_muon", "momentum", "weight_decay" (an L2 penalty) and "lr".

    torch.optim.Muon takes only 2-D parameters, one at a time; this one processes filters together.

    Like torch's fused optimizers, it divides the gradients by the attribute `grad_scale`, float32 [], and changes
    nothing if the attribute `found_inf`, float32 [], is 1. Both are read on the device.

    Several processes on the CPU of one machine divide the orthogonalisation; see `can_share`.

    Sources: Jordan et al., *Muon: An optimizer for hidden layers in neural networks*, 2024; the rescaling from
    KellerJordan/cifar10-airbench (airbench94_muon).
    """

    _step_supports_amp_scaling = True  # tells torch.amp.GradScaler to set these attributes

    def __init__(
        self,
        groups: list[dict[str, Any]],
        lr: float,
        compiler: Compiler | None = None,
        processes: Processes = ALONE,
    ) -> None:
        defaults = {"lr": lr, "lr_scale": 1.0, "momentum": 0.6, "weight_decay": 0.0, "use_muon": True}
        super().__init__(groups, defaults)
        self._compiled = compiler is not None
        self._update = compiler(_update_group) if compiler else _update_group
        device = self.param_groups[0]["params"][0].device
        self._dtype = torch.bfloat16 if has_bfloat16(device) else torch.float32
        self._processes = processes if can_share(device, processes) and compiler is None else ALONE

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override]
        """Update every parameter that has a gradient."""
        found_inf: Tensor | None = getattr(self, "found_inf", None)
        grad_scale: Tensor | None = getattr(self, "grad_scale", None)
        if found_inf is not None and found_inf.device.type == "cpu" and not self._compiled:
            if found_inf:  # reading it does not wait on the CPU
                return
            found_inf = None
        for group in self.param_groups:
            weights = [weight for weight in group["params"] if weight.grad is not None]
            if weights:
                grads = [weight.grad for weight in weights]
                averages = [self._average(weight) for weight in weights]
                lr = torch.as_tensor(group["lr"]) if self._compiled else group["lr"]  # a number causes a recompilation
                settings = group["momentum"], group["weight_decay"], group["use_muon"], self._dtype, self._processes
                self._update(weights, grads, averages, lr, grad_scale, found_inf, *settings)

    def _average(self, weight: Tensor) -> Tensor:
        state = self.state[weight]
        if "momentum_buffer" not in state:
            state["momentum_buffer"] = torch.zeros_like(weight)
        return cast(Tensor, state["momentum_buffer"])


def _update_group(
    weights: list[Tensor],
    grads: list[Tensor],
    averages: list[Tensor],
    lr: float | Tensor,
    grad_scale: Tensor | None,
    found_inf: Tensor | None,
    momentum: float,
    weight_decay: float,
    use_muon: bool,
    dtype: torch.dtype,
    processes: Processes,
) -> None:
    """Update the weights of one group in place."""
    factor: float | Tensor = -lr
    decay: float | Tensor = momentum
    skip: Tensor | None = None
    if grad_scale is not None:
        grads = list(torch._foreach_mul(grads, 1 / grad_scale))
    if weight_decay:
        grads = list(torch._foreach_add(grads, weights, alpha=weight_decay))
    if found_inf is not None:
        skip = found_inf.bool()
        grads = [torch.where(skip, 0.0, grad) for grad in grads]
        factor, decay = (found_inf - 1) * lr, torch.where(skip, 1.0, momentum)
    torch._foreach_mul_(averages, decay)
    torch._foreach_add_(averages, grads)
    updates = list(torch._foreach_add(grads, averages, alpha=momentum))
    if use_muon:
        updates = orthogonalize(updates, dtype, processes)
        scales = [len(weight) ** 0.5 / norm for weight, norm in zip(weights, torch._foreach_norm(weights), strict=True)]
        if skip is not None:
            scales = [torch.where(skip, 1.0, scale) for scale in scales]
        torch._foreach_mul_(weights, scales)
    torch._foreach_mul_(updates, factor)
    torch._foreach_add_(weights, updates)


NEWTON_SCHULZ = (3.4445, -4.7750, 2.0315)
"""Coefficients of the quintic polynomial, chosen for a steep slope at zero: singular values end up between about 0.7
and 1.2, not at 1."""

NEWTON_SCHULZ_STEPS = 3
"""Number of Newton–Schulz steps; more would amplify the rounding errors of the Gram matrices."""


def can_share(device: torch.device, processes: Processes) -> bool:
    """Tell whether processes should orthogonalise one part of the filter banks each, and exchange the results.

    On a CPU the products take longer than an exchange on one machine, but not than one between machines. On GPUs,
    nothing would hide the exchange, and its gain is not measured.
    """
    return device.type == "cpu" and processes.on_one_machine


def orthogonalize(
    filters: list[Tensor], dtype: torch.dtype = torch.bfloat16, processes: Processes = ALONE
) -> list[Tensor]:
    """Move the singular values of the filter banks' matrices close to 1, by Newton–Schulz steps in `dtype`.

    A filter bank [O, I, H, W] is treated as a matrix [O, H · W · I], the order of channels-last memory. On CUDA they
    form one batch, padded with zeros, since launches cost more there than products; on the CPU each is a batch.
    `dtype` is bfloat16, or float32 where bfloat16 is emulated. Several processes that give the same filters compute a
    part of them each, and exchange the results.

    Sources: Jordan et al., 2024, including the coefficients; padding to one batch: hiverge/cifar10-speedrun.
    """
    matrices = [bank.movedim(1, -1).flatten(1) for bank in filters]
    wide = [matrix if len(matrix) <= matrix.shape[1] else matrix.mT for matrix in matrices]
    owners = _divide(wide, processes.count)
    own = [index for index, owner in enumerate(owners) if owner == processes.rank]
    results = [torch.empty(matrix.shape, dtype=dtype, device=matrix.device) for matrix in wide]
    for indices in _batches(wide, own):
        batch = _newton_schulz(_stack([wide[index].to(dtype) for index in indices]))
        for index, result in zip(indices, batch, strict=True):
            rows, columns = wide[index].shape
            results[index] = result[:rows, :columns]
    processes.copy_from(results, owners)
    return [
        (result if matrix is flat else result.mT).reshape(bank.movedim(1, -1).shape).movedim(-1, 1).to(bank.dtype)
        for bank, flat, matrix, result in zip(filters, matrices, wide, results, strict=True)
    ]


def _divide(matrices: list[Tensor], count: int) -> list[int]:
    """The process, of `count`, that orthogonalises each matrix: the most work first, each by the one with the least."""
    work = [rows**2 * (2 * columns + 9 * rows) for rows, columns in (matrix.shape for matrix in matrices)]
    owners, loads = [0] * len(matrices), [0] * count
    for index in sorted(range(len(matrices)), key=lambda index: -work[index]):
        owners[index] = loads.index(min(loads))
        loads[owners[index]] += work[index]
    return owners


def _stack(matrices: list[Tensor]) -> Tensor:
    """Stack M matrices, padded with zeros to a common size: [M, rows, columns]."""
    height, width = (max(matrix.shape[side] for matrix in matrices) for side in (0, 1))
    return torch.stack(
        [F.pad(matrix, (0, width - matrix.shape[1], 0, height - matrix.shape[0])) for matrix in matrices]
    )


def _batches(matrices: list[Tensor], indices: list[int]) -> list[list[int]]:
    """The indices of the matrices that form each batch."""
    if matrices[0].is_cuda and indices:  # only on a GPU
        return [indices]
    return [[index] for index in indices]


def _newton_schulz(batch: Tensor) -> Tensor:
    """Orthogonalise matrices, bfloat16 or float32 [M, O, K] with O ≤ K.

    The textbook loop is, with X scaled to norm 1,

        for _ in range(NEWTON_SCHULZ_STEPS):
            G = X @ X.mT
            X = a * X + (b * G + c * G @ G) @ X

    All steps are polynomials in the first Gram matrix G. They are therefore computed on [O, O] matrices, and their
    product, scale · I + rest, multiplies the wide matrix once.

    Source of the steps on Gram matrices: *IFNSO: Iteration-Free Newton–Schulz Orthogonalization*, 2026.
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
