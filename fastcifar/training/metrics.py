"""The metrics of training steps, as tensors that stay on the device."""

from __future__ import annotations

from typing import NamedTuple

import torch


class StepMetrics(NamedTuple):
    """The metrics of one step, or their sums over several: float32 [] each, on the device."""

    loss: torch.Tensor
    """Mean cross-entropy in nats; 0 for a skipped step."""
    correct: torch.Tensor
    """Images classified correctly; 0 for a skipped step."""
    skipped: torch.Tensor
    """1 for a skipped step."""

    @classmethod
    def zeros(cls, device: torch.device) -> StepMetrics:
        """The sums before the first step."""
        return cls(*torch.zeros(3, device=device).unbind())

    def plus(self, other: StepMetrics) -> StepMetrics:
        """The sums of both, with one kernel launch on a GPU."""
        return StepMetrics(*torch._foreach_add(list(self), list(other)))

    def means(self, steps: int, batch_size: int) -> tuple[float, float, int]:
        """Mean loss, accuracy and the number of skipped steps, over `steps` steps; waits for the device.

        The mean loss leaves out skipped steps; it is NaN if all were skipped.
        """
        loss, correct, skipped = torch.stack(tuple(self)).tolist()
        mean_loss = loss / (steps - skipped) if skipped < steps else float("nan")
        return mean_loss, correct / (steps * batch_size), int(skipped)
