"""Updates that a loss or a gradient that is not finite never reaches, decided on the device.

Source of the check before the update: pytorch/torchtitan. torch's fused optimizers leave everything as it was where
their `found_inf` is 1, as gradient scaling has them do; `Muon` here does the same.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

import torch

from fastcifar.errors import TrainingError
from fastcifar.training.optim import one_cycle_lr

if TYPE_CHECKING:
    from fastcifar.training.state import TrainState


class FiniteGuard:
    """Counts a run's bad steps; after more of them than are allowed, no update is made any more."""

    def __init__(self, device: torch.device, allowed: int) -> None:
        self._allowed = allowed
        self._held = False
        self._count = torch.zeros((), device=device)
        self._first = torch.full((), -1, dtype=torch.int64, device=device)

    @contextmanager
    def holding(self) -> Iterator[None]:
        """Let no update through in the block, nor count in it, whatever the steps come to."""
        self._count.fill_(torch.inf)
        self._held = True
        try:
            yield
        finally:
            self._held = False
            self._count.zero_()
            self._first.fill_(-1)

    def update(self, state: TrainState, loss: torch.Tensor, step: int | torch.Tensor) -> torch.Tensor:
        """Let the optimizer move the weights if loss and gradients are finite; bool [], whether they are.

        Under float16's loss scaling a gradient that is not finite is the scaler's to handle: it skips the step and
        lowers the scale. There only the loss counts, and what is not finite in it reaches every gradient.
        """
        optimizer, scaler = state.optimizer, state.scaler
        finite = torch.isfinite(loss.detach())
        if not scaler.is_enabled():
            finite = finite & _finite_gradients(optimizer)
        self._count += ~finite
        self._first.copy_(torch.where((self._first < 0) & ~finite, step, self._first))
        if not scaler.is_enabled():
            blocked = ~finite | (self._count > self._allowed)
            optimizer.found_inf = blocked.float()  # type: ignore[attr-defined]
            optimizer.step()
        elif not self._held:
            scaler.step(optimizer)
            scaler.update()
        return finite

    def check(self, state: TrainState) -> None:
        """Read the count from the device, which waits for it.

        Raises:
            TrainingError: there were more bad steps than are allowed.
        """
        count, first = int(self._count), int(self._first)
        if count <= self._allowed:
            return
        steps, config = len(state.train_loader), state.config
        where = f"step {first % steps + 1} of epoch {first // steps + 1}"
        rate = one_cycle_lr(first, state.total_steps, config)
        more = f", and {count - 1} steps after it" if self._allowed else ""
        raise TrainingError(
            f"{where}, at rate {rate:.3g}: the loss or a gradient is not finite{more}; the weights did not take it. "
            "Try a lower --max-lr, or --amp-dtype bfloat16; --on-nonfinite skip passes over such steps"
        )


def _finite_gradients(optimizer: torch.optim.Optimizer) -> torch.Tensor:
    """bool [], by their Euclidean norms: torch's largest magnitude takes twenty times as long on a CPU."""
    grads = [weight.grad for group in optimizer.param_groups for weight in group["params"] if weight.grad is not None]
    return torch.isfinite(torch.stack(torch._foreach_norm(grads))).all()
