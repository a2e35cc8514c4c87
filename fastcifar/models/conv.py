"""3 × 3 convolutions that pick the faster of two ways on the CPU.

oneDNN's convolutions fill a processor's matrix units (AMX) only while the image is large: at 4 × 4 the gradient of the
weights runs at an eighth of the speed of a matrix product. Gathering each position's nine neighbours first ("im2col")
makes all three directions matrix products.

Source: Chellapilla, Puri, Simard, *High Performance Convolutional Neural Networks for Document Processing*, 2006.
"""

from __future__ import annotations

import functools
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

from fastcifar.machine import has_amx

LARGEST_PRODUCT = 16
"""Positions, height × width, up to which the matrix product is faster; measured at 4 × 4 and 8 × 8."""


class Conv3x3(nn.Conv2d):
    """A 3 × 3 convolution with stride 1 and a padding of 1: torch's own, but for small bfloat16 images on AMX."""

    def __init__(self, inputs: int, outputs: int, *, bias: bool = False) -> None:
        super().__init__(inputs, outputs, kernel_size=3, padding=1, bias=bias)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """[B, inputs, H, W] to [B, outputs, H, W]."""
        if not _multiplies(images):
            return super().forward(images)
        dtype = torch.get_autocast_dtype("cpu")
        product = convolve_by_product(images.to(dtype), self.weight.to(dtype))
        return product if self.bias is None else product + self.bias.to(dtype)[:, None, None]


def convolve_by_product(images: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
    """What `F.conv2d(images, weight, padding=1)` gives, as one matrix product, with its gradients so, too.

    Args:
        images: [B, I, H, W].
        weight: [O, I, 3, 3].

    Returns:
        [B, O, H, W], channels-last.
    """
    return _Product.apply(images, weight)  # type: ignore[no-any-return]


def _multiplies(images: torch.Tensor) -> bool:
    return (
        images.device.type == "cpu"
        and images.shape[-2] * images.shape[-1] <= LARGEST_PRODUCT
        and torch.is_autocast_enabled("cpu")
        and torch.get_autocast_dtype("cpu") is torch.bfloat16
        and not torch.compiler.is_compiling()
        and _has_amx()
    )


_has_amx = functools.cache(has_amx)


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
