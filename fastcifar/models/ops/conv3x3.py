"""3 × 3 convolutions that pick the fastest of three ways on the CPU.

oneDNN's convolutions are fast only while the image is large. Of 2 × 2 positions or fewer, every one sees every other:
the convolution is a linear layer from all of them to all of them, which spares the padding's products. On processors
with matrix units (AMX), which take 16 or 32 positions of a row at once, images of up to 8 × 8 leave these idle: the
weights' gradient runs at down to an eighth of the speed that it has where images lie side by side in one, with a column
of zeros after each.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

from fastcifar.machine import has_amx

MATMUL_MAX_SIDE = 2
"""Height and width up to which each position is within reach of every other."""
PACK_MAX_PIXELS = 64
"""Positions, height × width, up to which images side by side are faster on AMX; measured from 2 × 2 to 16 × 16."""
MAX_PACK = 50
"""Images in a row, at most; from 10 on it makes no difference."""


class Conv3x3(nn.Conv2d):
    """A 3 × 3 convolution with stride 1 and a padding of 1: torch's own, but for small bfloat16 images on the CPU."""

    def __init__(self, inputs: int, outputs: int, *, bias: bool = False) -> None:
        super().__init__(inputs, outputs, kernel_size=3, padding=1, bias=bias)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """[B, inputs, H, W] to [B, outputs, H, W]."""
        convolve = _select_algorithm(images)
        if convolve is None:
            return super().forward(images)
        dtype = torch.get_autocast_dtype("cpu")
        result = convolve(images.to(dtype), self.weight.to(dtype))
        return result if self.bias is None else result + self.bias.to(dtype)[:, None, None]


def conv3x3_as_matmul(images: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
    """What `F.conv2d(images, weight, padding=1)` gives for images of at most 2 × 2, as a linear layer.

    Args:
        images: [B, I, H, W].
        weight: [O, I, 3, 3].

    Returns:
        [B, O, H, W], channels-last.
    """
    return _Dense.apply(images, weight)  # type: ignore[no-any-return]


def conv3x3_packed(images: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
    """What `F.conv2d(images, weight, padding=1)` gives, of images [B, I, H, W] that lie in rows in larger ones.

    Args and result as those of `conv3x3_as_matmul`, with images of any size.
    """
    batch, width = len(images), images.shape[-1]
    beside = next(count for count in range(min(MAX_PACK, batch), 0, -1) if batch % count == 0)
    rows = images.permute(0, 2, 3, 1).unflatten(0, (-1, beside)).transpose(1, 2)  # [B / beside, H, beside, W, I]
    large = F.pad(rows, (0, 0, 0, 1)).flatten(2, 3).permute(0, 3, 1, 2)
    result = F.conv2d(large, weight, padding=1).permute(0, 2, 3, 1).unflatten(2, (beside, width + 1))
    return _images(result[:, :, :, :width].transpose(1, 2), images.shape)


def _select_algorithm(images: torch.Tensor) -> Callable[[torch.Tensor, torch.Tensor], torch.Tensor] | None:
    if (
        images.device.type != "cpu"
        or not torch.is_autocast_enabled("cpu")
        or torch.get_autocast_dtype("cpu") is not torch.bfloat16
        or torch.compiler.is_compiling()
    ):
        return None
    height, width = images.shape[-2:]
    if max(height, width) <= MATMUL_MAX_SIDE:
        return conv3x3_as_matmul
    return conv3x3_packed if height * width <= PACK_MAX_PIXELS and _has_amx() else None


_has_amx = functools.cache(has_amx)


class _Dense(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, images: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
        (outputs, inputs), (height, width) = weight.shape[:2], images.shape[-2:]
        matrix = weight.new_empty(height, width, outputs, height, width, inputs)
        for row, column, taps in _taps(weight.permute(0, 2, 3, 1), height, width):
            matrix[row, column] = taps
        matrix = matrix.view(height * width * outputs, height * width * inputs)
        rows = images.permute(0, 2, 3, 1).reshape(len(images), -1)
        ctx.save_for_backward(rows, matrix)
        ctx.image_shape, ctx.weight_shape = images.shape, weight.shape
        return _images(rows @ matrix.t(), images.shape)

    @staticmethod
    def backward(ctx: Any, grad: torch.Tensor) -> tuple[torch.Tensor | None, torch.Tensor | None]:
        rows, matrix = ctx.saved_tensors
        (outputs, inputs), (height, width) = ctx.weight_shape[:2], ctx.image_shape[-2:]
        grad = grad.permute(0, 2, 3, 1).reshape(len(grad), -1)
        images_grad = weight_grad = None
        if ctx.needs_input_grad[0]:
            images_grad = _images(grad @ matrix, ctx.image_shape)
        if ctx.needs_input_grad[1]:
            matrix_grad = (grad.t() @ rows).view(height, width, outputs, height, width, inputs)
            sums = torch.zeros(outputs, 3, 3, inputs)
            for row, column, taps in _taps(sums, height, width):
                taps += matrix_grad[row, column]
            weight_grad = sums.to(grad.dtype).permute(0, 3, 1, 2)
        return images_grad, weight_grad


def _taps(weight: torch.Tensor, height: int, width: int) -> Iterator[tuple[int, int, torch.Tensor]]:
    """For each position (row, column) of an image, the taps of [O, 3, 3, I] with which it sees all the positions."""
    for row in range(height):
        for column in range(width):
            yield row, column, weight[:, 1 - row : 1 - row + height, 1 - column : 1 - column + width]


def _images(positions: torch.Tensor, image_shape: torch.Size) -> torch.Tensor:
    """Positions in the order of the images, [..., C], to [B, C, H, W], channels-last."""
    batch, _, height, width = image_shape
    return positions.reshape(batch, height, width, -1).permute(0, 3, 1, 2)
