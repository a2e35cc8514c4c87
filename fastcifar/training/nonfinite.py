"""Losses and gradients that are not finite: detected and counted on the device, before the weights are updated.

Source of the check before the update: pytorch/torchtitan.
"""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor


def all_finite(loss: Tensor, optimizer: torch.optim.Optimizer) -> Tensor:
    """Whether the loss and all gradients are finite: bool [], on the device."""
    grads = [weight.grad for group in optimizer.param_groups for weight in group["params"] if weight.grad is not None]
    # Euclidean norms of the gradients, since torch's maximum norm takes twenty times as long on a CPU.
    return torch.isfinite(loss.detach()) & torch.isfinite(torch.stack(torch._foreach_norm(grads))).all()


class NonFiniteCounter:
    """Counts a run's non-finite steps on the device. After more than `allowed`, no step may update the weights."""

    def __init__(self, device: torch.device, allowed: int) -> None:
        self.allowed = allowed
        self._count = torch.zeros((), device=device)
        self._first = torch.full((), -1, dtype=torch.int64, device=device)

    def count(self, finite: Tensor, step: int | Tensor) -> Tensor:
        """Count a step that is not finite (`finite`, bool []); return whether all updates have ended, bool []."""
        self._count += ~finite
        self._first.copy_(torch.where((self._first < 0) & ~finite, step, self._first))
        return self._count > self.allowed

    @contextmanager
    def no_updates(self) -> Iterator[None]:
        """Let every step in the block be skipped, and count none of them."""
        self._count.fill_(torch.inf)
        try:
            yield
        finally:
            self.reset()

    def reset(self) -> None:
        """Begin to count anew."""
        self._count.zero_()
        self._first.fill_(-1)

    def exceeded(self) -> tuple[int, int] | None:
        """Return the count of non-finite steps and the first one's number, if more than allowed; None otherwise.

        Reading them waits for the device.
        """
        count = int(self._count)
        return (count, int(self._first)) if count > self.allowed else None
