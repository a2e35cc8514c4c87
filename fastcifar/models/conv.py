"""3 × 3 convolutions that pick the fastest of three ways on the CPU.

oneDNN's convolutions are fast only while the image is large. Of 2 × 2 positions or fewer, every one sees every other:
the convolution is a linear layer from all of them to all of them, which spares the padding's products. On processors
with matrix units (AMX) a convolution at 4 × 4 still leaves these idle: its weights' gradient runs at an eighth of the
speed of a matrix product. Gathering each position's nine neighbours first ("im2col") makes all three directions such
products.

Source of the latter: Chellapilla, Puri, Simard, *High Performance Convolutional Neural Networks for Document
Processing*, 2006.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

from fastcifar.machine import has_amx

LARGEST_DENSE = 2
"""Height and width up to which each position is within reach of every other."""
LARGEST_PRODUCT = 16
"""Positions, height × width, up to which the gathered product is faster on AMX; measured at 4 × 4 and 8 × 8."""


class Conv3x3(nn.Conv2d):
    """A 3 × 3 convolution with stride 1 and a padding of 1: torch's own, but for small bfloat16 images on the CPU."""

    def __init__(self, inputs: int, outputs: int, *, bias: bool = False) -> None:
        super().__init__(inputs, outputs, kernel_size=3, padding=1, bias=bias)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """[B, inputs, H, W] to [B, outputs, H, W]."""
        convolve = _faster_way(images)
        if convolve is None:
            return super().forward(images)
        dtype = torch.get_autocast_dtype("cpu")
        result = convolve(images.to(dtype), self.weight.to(dtype))
        return result if self.bias is None else result + self.bias.to(dtype)[:, None, None]


def convolve_densely(images: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
    """What `F.conv2d(images, weight, padding=1)` gives for images of at most 2 × 2, as a linear layer.

    Args:
        images: [B, I, H, W].
        weight: [O, I, 3, 3].

    Returns:
        [B, O, H, W], channels-last.
    """
    return _Dense.apply(images, weight)  # type: ignore[no-any-return]


def convolve_by_product(images: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
    """What `F.conv2d(images, weight, padding=1)` gives, as one matrix product, with its gradients so, too.

    Args and result as those of `convolve_densely`, with images of any size.
    """
    return _Product.apply(images, weight)  # type: ignore[no-any-return]


def _faster_way(images: torch.Tensor) -> Callable[[torch.Tensor, torch.Tensor], torch.Tensor] | None:
    if (
        images.device.type != "cpu"
        or not torch.is_autocast_enabled("cpu")
        or torch.get_autocast_dtype("cpu") is not torch.bfloat16
        or torch.compiler.is_compiling()
    ):
        return None
    height, width = images.shape[-2:]
    if max(height, width) <= LARGEST_DENSE:
        return convolve_densely
    return convolve_by_product if height * width <= LARGEST_PRODUCT and _has_amx() else None


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


class _Product(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, images: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
        patches = _patches(images)
        ctx.save_for_backward(patches, weight)
        ctx.image_shape = images.shape
        outputs, inputs = weight.shape[:2]
        rows = weight.permute(0, 2, 3, 1).reshape(outputs, 9 * inputs)
        return _images(patches @ rows.t(), images.shape)

    @staticmethod
    def backward(ctx: Any, grad: torch.Tensor) -> tuple[torch.Tensor | None, torch.Tensor | None]:
        patches, weight = ctx.saved_tensors
        outputs, inputs = weight.shape[:2]
        images_grad = weight_grad = None
        if ctx.needs_input_grad[0]:
            flipped = weight.flip(2, 3).permute(1, 2, 3, 0).reshape(inputs, 9 * outputs)
            images_grad = _images(_patches(grad) @ flipped.t(), ctx.image_shape)
        if ctx.needs_input_grad[1]:
            positions = grad.permute(0, 2, 3, 1).reshape(-1, outputs)
            weight_grad = (positions.t() @ patches).view(outputs, 3, 3, inputs).permute(0, 3, 1, 2)
        return images_grad, weight_grad


def _patches(images: torch.Tensor) -> torch.Tensor:
    """Each position's nine neighbours, zeros beyond the edges: [B, C, H, W] to [B · H · W, 9 · C]."""
    batch, channels, height, width = images.shape
    padded = F.pad(images.permute(0, 2, 3, 1), (0, 0, 1, 1, 1, 1)).contiguous()
    image, row, column, _ = padded.stride()
    windows = padded.as_strided((batch, height, width, 3, 3 * channels), (image, row, column, row, 1))
    return windows.reshape(batch * height * width, 9 * channels)


def _images(positions: torch.Tensor, image_shape: torch.Size) -> torch.Tensor:
    """[B · H · W, C] to [B, C, H, W], channels-last."""
    batch, _, height, width = image_shape
    return positions.view(batch, height, width, -1).permute(0, 3, 1, 2)
