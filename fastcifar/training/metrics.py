"""The metrics of training steps, as tensors that stay on the device."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from fastcifar.parallel import Processes


class StepMetrics(NamedTuple):
    """The metrics of one step, or their sums over several: float32 [] each, on the device."""

    loss: Tensor
    """Mean cross-entropy in nats; 0 for a skipped step."""
    correct: Tensor
    """Number of correctly classified images; 0 for a skipped step."""
    skipped: Tensor
    """1 for a skipped step, 0 for any other."""

    @classmethod
    def zeros(cls, device: torch.device) -> StepMetrics:
        """Return the sums before the first step, which are 0."""
        return cls(*torch.zeros(3, device=device).unbind())

    def plus(self, other: StepMetrics) -> StepMetrics:
        """Return the sum of each metric, computed with one kernel launch on a GPU."""
        return StepMetrics(*torch._foreach_add(list(self), list(other)))

    def means(self, steps: int, batch_size: int) -> tuple[float, float, int]:
        """Return mean loss, accuracy (0 to 1) and number of skipped steps over `steps` steps; waits for the device.

        The mean loss leaves out skipped steps; it is NaN if all were skipped.
        """
        loss, correct, skipped = torch.stack(tuple(self)).tolist()
        mean_loss = loss / (steps - skipped) if skipped < steps else float("nan")
        return mean_loss, correct / (steps * batch_size), int(skipped)


def average_metrics(processes: Processes, loss: Tensor, correct: Tensor) -> tuple[Tensor, Tensor]:
    """Return the mean loss and the number of correct images of the whole batch, given those of a process's share."""
    if processes.count == 1:
        return loss, correct
    loss_sum, total = processes.sum(torch.stack((loss.float(), correct.float()))).unbind()
    return loss_sum / processes.count, total
