"""Batch norms whose statistics come from the batches of all processes.

torch's SyncBatchNorm does this on GPUs only, so a CPU gets one of ours.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from fastcifar.parallel import current


def synchronize_norms(model: nn.Module, device: torch.device) -> nn.Module:
    """Replace each batch norm by one with the same parameters, buffers and settings that all processes share.

    Source: torch.nn.SyncBatchNorm.convert_sync_batchnorm.
    """
    if device.type != "cpu":  # only on a GPU
        converted: nn.Module = nn.SyncBatchNorm.convert_sync_batchnorm(model)
        return converted
    for owner in [*model.modules()]:
        for name, norm in owner.named_children():
            if isinstance(norm, nn.BatchNorm2d):
                shared = SharedBatchNorm(norm.num_features, norm.eps, norm.momentum)
                shared.weight, shared.bias = norm.weight, norm.bias
                for buffer, value in norm.named_buffers():
                    setattr(shared, buffer, value)
                setattr(owner, name, shared)
    return model


class SharedBatchNorm(nn.BatchNorm2d):
    """A batch norm that uses the mean and variance over the batches of all processes in training.

    Sums over the batch are float64. So a batch gives the same numbers however it is divided among processes.
    """

    def forward(self, input: Tensor) -> Tensor:
        if not self.training:
            return super().forward(input)
        statistics: tuple[Tensor, ...] = _SharedNorm.apply(input, self.weight, self.bias, self.eps)
        output, mean, var, count = statistics
        self._track(mean, var * (count / (count - 1)))  # the unbiased variance, as torch's batch norm
        return output

    @torch.no_grad()
    def _track(self, mean: Tensor, var: Tensor) -> None:
        """Update the running statistics, unless the norm has none."""
        if self.running_mean is None or self.running_var is None or self.num_batches_tracked is None:
            return
        self.num_batches_tracked.add_(1)
        momentum = 1 / float(self.num_batches_tracked) if self.momentum is None else self.momentum
        self.running_mean.lerp_(mean, momentum)
        self.running_var.lerp_(var, momentum)


class _SharedNorm(torch.autograd.Function):
    """Normalise [B, C, H, W] with the statistics of all processes.

    The results are the output, the mean and variance [C], and the number of values per channel.
    """

    @staticmethod
    def forward(
        ctx: Any, input: Tensor, weight: Tensor, bias: Tensor, eps: float
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        images, pixels = len(input), input[0, 0].numel()
        variances, means = torch.var_mean(_wide(input), (2, 3), correction=0)  # [B, C], added up in float64
        squares = variances.double() + means.double() ** 2
        counts = torch.full_like(squares[0], images)
        total, total_squares, count = current().sum(torch.stack((means.double().sum(0), squares.sum(0), counts)))
        mean = total / count
        var = total_squares / count - mean**2
        mean, var, count = (value.to(weight.dtype) for value in (mean, var.clamp(min=0), count * pixels))
        output = torch.native_batch_norm(input, weight, bias, mean, var, False, 0.0, eps)[0]
        ctx.save_for_backward(input, weight, mean, (var + eps).rsqrt(), count)
        ctx.mark_non_differentiable(mean, var, count)
        return output, mean, var, count

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        input, weight, mean, scale, count = ctx.saved_tensors
        grad = _wide(grads[0])
        normalized = (_wide(input) - _per_channel(mean)) * _per_channel(scale)
        sums = torch.stack([values.sum((2, 3)).double().sum(0) for values in (grad * normalized, grad)])
        weight_grad, bias_grad = sums.to(weight.dtype)
        slope, offset = (current().sum(sums) / count).to(weight.dtype)
        grad = grad - _per_channel(offset) - normalized * _per_channel(slope)
        return (grad * _per_channel(weight * scale)).to(input.dtype), weight_grad, bias_grad, None


def _wide(values: Tensor) -> Tensor:
    """Convert 16-bit values to float32."""
    return values.to(torch.promote_types(values.dtype, torch.float32))


def _per_channel(values: Tensor) -> Tensor:
    return values.view(1, -1, 1, 1)
