"""3 × 3 convolutions that use the fastest of four algorithms on the CPU.

For images of at most 2 × 2, every output pixel depends on every input pixel, so the convolution is a matrix product.
That avoids multiplying padding zeros.

Winograd's algorithm saves more than half of the multiplications, in float32 and, on processors with AVX-512 BF16 but
without AMX, in bfloat16.

With AMX, oneDNN's convolutions are fast for large images only. AMX tiles need rows of 16 or 32 pixels. Images up to
8 × 8 do not fill them, and the weight gradient can be 8 times slower. We therefore pack several images side by side
into one wide image, separated by a zero column.
"""

from collections.abc import Callable, Iterator
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fastcifar.machine import bfloat16_unit
from fastcifar.models.ops.winograd import conv3x3_winograd, is_faster

MATMUL_MAX_SIDE = 2
"""Largest height and width at which every output pixel depends on every input pixel."""
PACK_MAX_PIXELS = 64
"""Largest height × width at which packing is faster on AMX; measured from 2 × 2 to 16 × 16."""
MAX_PACK = 50
"""Largest number of images packed into one; from 10 on it makes no difference."""
MIN_FLOAT32_BATCH = 16
"""Fewest float32 images for which the matrix of a convolution of 2 × 2 pixels pays."""
Algorithm = Callable[[Tensor, Tensor], Tensor]


class Conv3x3(nn.Conv2d):
    """A 3 × 3 convolution with stride 1 and padding 1; on the CPU, by the algorithm that is fastest for the images.

    Its attribute `bfloat16_unit` is the CPU flag of the bfloat16 instructions (`fastcifar.machine.bfloat16_unit`).
    """

    def __init__(self, inputs: int, outputs: int, *, bias: bool = False) -> None:
        super().__init__(inputs, outputs, kernel_size=3, padding=1, bias=bias)
        self.bfloat16_unit = bfloat16_unit()

    def forward(self, images: Tensor) -> Tensor:
        """Convolve images [B, inputs, H, W] to [B, outputs, H, W]."""
        dtype = _compute_dtype(images)
        convolve = select_algorithm(images, dtype, self.out_channels, self.bfloat16_unit)
        if convolve is None:
            return super().forward(images)
        result = convolve(images.to(dtype), self.weight.to(dtype))
        return result if self.bias is None else result + self.bias.to(dtype)[:, None, None]


def conv3x3_as_matmul(images: Tensor, weight: Tensor) -> Tensor:
    """Compute `F.conv2d(images, weight, padding=1)` for images of at most 2 × 2 as a matrix product.

    From images [B, I, H, W] and weight [O, I, 3, 3] to [B, O, H, W], channels-last.
    """
    return _MatmulConv3x3.apply(images, weight)  # type: ignore[no-any-return]


def conv3x3_packed(images: Tensor, weight: Tensor) -> Tensor:
    """Compute `F.conv2d(images, weight, padding=1)` with images packed side by side.

    Arguments and result as for `conv3x3_as_matmul`, but for images of any size.
    """
    batch, width = len(images), images.shape[-1]
    pack = next(count for count in range(min(MAX_PACK, batch), 0, -1) if batch % count == 0)
    rows = images.permute(0, 2, 3, 1).unflatten(0, (-1, pack)).transpose(1, 2)  # [B / pack, H, pack, W, I]
    wide = F.pad(rows, (0, 0, 0, 1)).flatten(2, 3).permute(0, 3, 1, 2)  # [B / pack, I, H, pack · (W + 1)]
    result = F.conv2d(wide, weight, padding=1).permute(0, 2, 3, 1).unflatten(2, (pack, width + 1))
    return _to_images(result[:, :, :, :width].transpose(1, 2), images.shape)


def select_algorithm(images: Tensor, dtype: torch.dtype, outputs: int, bfloat16_unit: str) -> Algorithm | None:
    """Return the fastest algorithm to convolve images [B, C, H, W] in a precision; None for torch's own.

    `bfloat16_unit` is the CPU flag of the bfloat16 instructions, such as "avx512_bf16".
    """
    is_mixed = dtype is torch.bfloat16 and torch.is_autocast_enabled("cpu")
    supported = images.device.type == "cpu" and (is_mixed or dtype is torch.float32)
    if not supported or torch.compiler.is_compiling():
        return None
    height, width = images.shape[-2:]
    if max(height, width) <= MATMUL_MAX_SIDE:
        return conv3x3_as_matmul if is_mixed or len(images) >= MIN_FLOAT32_BATCH else None
    if is_mixed and bfloat16_unit != "avx512_bf16":
        return conv3x3_packed if bfloat16_unit == "amx_bf16" and height * width <= PACK_MAX_PIXELS else None
    return conv3x3_winograd if is_faster(images, dtype, outputs) else None


def _compute_dtype(images: Tensor) -> torch.dtype:
    """The precision in which autocast, or torch without it, convolves images."""
    return torch.get_autocast_dtype("cpu") if torch.is_autocast_enabled("cpu") else images.dtype


class _MatmulConv3x3(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, images: Tensor, weight: Tensor) -> Tensor:
        (outputs, inputs), (height, width) = weight.shape[:2], images.shape[-2:]
        matrix = weight.new_empty(height, width, outputs, height, width, inputs)
        for row, column, taps in _taps(weight.permute(0, 2, 3, 1), height, width):
            matrix[row, column] = taps
        matrix = matrix.view(height * width * outputs, height * width * inputs)
        rows = images.permute(0, 2, 3, 1).reshape(len(images), -1)
        ctx.save_for_backward(rows, matrix)
        ctx.image_shape, ctx.weight_shape = images.shape, weight.shape
        return _to_images(rows @ matrix.t(), images.shape)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, Tensor | None]:
        rows, matrix = ctx.saved_tensors
        (outputs, inputs), (height, width) = ctx.weight_shape[:2], ctx.image_shape[-2:]
        grad = grad.permute(0, 2, 3, 1).reshape(len(grad), -1)
        images_grad = weight_grad = None
        if ctx.needs_input_grad[0]:
            images_grad = _to_images(grad @ matrix, ctx.image_shape)
        if ctx.needs_input_grad[1]:
            matrix_grad = (grad.t() @ rows).view(height, width, outputs, height, width, inputs)
            sums = torch.zeros(outputs, 3, 3, inputs)
            for row, column, taps in _taps(sums, height, width):
                taps += matrix_grad[row, column]
            weight_grad = sums.to(grad.dtype).permute(0, 3, 1, 2)
        return images_grad, weight_grad


def _taps(weight: Tensor, height: int, width: int) -> Iterator[tuple[int, int, Tensor]]:
    """For each pixel (row, column), the taps of a weight [O, 3, 3, I] that multiply the pixels of the whole image."""
    for row in range(height):
        for column in range(width):
            yield row, column, weight[:, 1 - row : 1 - row + height, 1 - column : 1 - column + width]


def _to_images(pixels: Tensor, image_shape: torch.Size) -> Tensor:
    """Reshape pixels [..., C] in the order of the images to [B, C, H, W], channels-last."""
    batch, _, height, width = image_shape
    return pixels.reshape(batch, height, width, -1).permute(0, 3, 1, 2)
