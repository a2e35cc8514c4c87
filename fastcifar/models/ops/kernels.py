"""Max pooling and ReLU for bfloat16 images in channels-last memory on the CPU.

torch converts each number to float32 and back, and stores the position of each maximum in eight bytes. These kernels
compare bfloat16 as the integers that it is stored as, and store a position in one byte. In float32, torch's pooling and
ReLU are as fast.

On two cores with AMX, a training step takes 0.90 to 0.92 of the time with the recipe `era-fast`, and 0.95 to 0.99 with
`speedrun`.
"""

from typing import Any

import numba
import numpy as np
import torch
from numba import carray, types  # type: ignore[attr-defined]
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from fastcifar.models.ops.openmp import gomp_parallel, kernel, launch, next_chunk, pointer_to

GRAIN_SIZE = 1 << 15
"""Elements that a thread processes at a time."""
MINUS_INFINITY = -128
"""The bits of −∞ as an int16; those of other negative numbers are below, those of NaNs and all others above."""
NAN = 0x7FFF
"""The bits of a NaN, the largest int16."""


class MaxPool2x2(nn.MaxPool2d):
    """2 × 2 max pooling with stride 2: [B, C, H, W] to [B, C, ⌊H / 2⌋, ⌊W / 2⌋].

    Images of a single row or column, which small inputs become, stay as they are.
    """

    def __init__(self) -> None:
        super().__init__(2)

    def forward(self, images: Tensor) -> Tensor:
        if min(images.shape[-2:]) < 2:
            return images
        return _MaxPool.apply(images) if is_supported(images) else super().forward(images)  # type: ignore[no-any-return]


class ReLU(nn.ReLU):
    """ReLU of images [B, C, H, W], in place."""

    def __init__(self) -> None:
        super().__init__(inplace=True)

    def forward(self, images: Tensor) -> Tensor:
        return _ReLU.apply(images) if is_supported(images) else super().forward(images)


def is_supported(images: Tensor) -> bool:
    """Whether the kernels support such images on this machine."""
    return (
        images.device.type == "cpu"
        and images.dtype is torch.bfloat16
        and images.dim() == 4
        and images.is_contiguous(memory_format=torch.channels_last)
        and not torch.compiler.is_compiling()
        and gomp_parallel() is not None
    )


class _MaxPool(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, images: Tensor) -> Tensor:
        batch, channels, height, width = ctx.shape = images.shape
        shape = (batch, channels, height // 2, width // 2)
        result = torch.empty(shape, dtype=images.dtype, memory_format=torch.channels_last)
        argmax = torch.empty(shape, dtype=torch.int8, memory_format=torch.channels_last)
        launch(_max_pool_forward, batch * shape[2], shape[2], height, width, channels, images, result, argmax)
        ctx.save_for_backward(argmax)
        return result

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        (argmax,) = ctx.saved_tensors
        batch, channels, height, width = ctx.shape
        gradient = gradient.contiguous(memory_format=torch.channels_last)
        result = torch.empty(ctx.shape, dtype=gradient.dtype, memory_format=torch.channels_last)
        if height % 2 or width % 2:  # no window contains the last row or column
            result.zero_()
        rows = height // 2
        launch(_max_pool_backward, batch * rows, rows, height, width, channels, gradient, result, argmax)
        return result


class _ReLU(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, images: Tensor) -> Tensor:
        launch(_relu_forward, -(-images.numel() // GRAIN_SIZE), images.numel(), images)
        ctx.mark_dirty(images)
        ctx.save_for_backward(images)
        return images

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        (images,) = ctx.saved_tensors
        gradient = gradient.contiguous(memory_format=torch.channels_last)
        result = torch.empty_like(images)
        launch(_relu_backward, -(-images.numel() // GRAIN_SIZE), images.numel(), gradient, result, images)
        return result


_int16_pointer: Any = pointer_to(types.int16)
_int8_pointer: Any = pointer_to(types.int8)


@numba.njit(inline="always")
def _int16_array(address: Any, count: Any) -> Any:  # pragma: no cover
    return carray(_int16_pointer(address), (count,))


@numba.njit(inline="always")
def _int8_array(address: Any, count: Any) -> Any:  # pragma: no cover
    return carray(_int8_pointer(address), (count,))


@numba.njit(inline="always")
def _to_sortable_int16(bits: Any) -> Any:  # pragma: no cover
    """Map a number's bits to an int16 with the order of the numbers; −0 becomes 0, and NaN is the largest."""
    if bits > np.int16(MINUS_INFINITY) and bits < np.int16(0):
        return np.int16(NAN)
    return _flip_negative(bits)


@numba.njit(inline="always")
def _flip_negative(bits: Any) -> Any:  # pragma: no cover
    """Convert sign and magnitude to two's complement, or back."""
    return np.int16(-32768) - bits if bits < np.int16(0) else bits


@numba.njit(inline="always")
def _window(images: Any, pixel: Any, width: Any, channels: Any) -> Any:  # pragma: no cover
    """The channels of the 2 × 2 pixels, row by row, whose top left one is at index `pixel`."""
    return (
        _int16_array(images + 2 * pixel * channels, channels),
        _int16_array(images + 2 * (pixel + 1) * channels, channels),
        _int16_array(images + 2 * (pixel + width) * channels, channels),
        _int16_array(images + 2 * (pixel + width + 1) * channels, channels),
    )


@kernel
def _max_pool_forward(data: Any) -> None:  # pragma: no cover
    _, num_chunks, rows, height, width, channels, images, result, argmax = carray(data, (9,))
    while True:
        chunk = next_chunk(data)
        if chunk >= num_chunks:
            break
        first_pixel = (chunk // rows * height + chunk % rows * 2) * width
        for column in range(width // 2):
            pixel, offset = first_pixel + 2 * column, (chunk * (width // 2) + column) * channels
            first, second, third, fourth = _window(images, pixel, width, channels)
            largest = _int16_array(result + 2 * offset, channels)
            index = _int8_array(argmax + offset, channels)
            for channel in range(channels):
                a, b = _to_sortable_int16(first[channel]), _to_sortable_int16(second[channel])
                c, d = _to_sortable_int16(third[channel]), _to_sortable_int16(fourth[channel])
                upper, lower = max(a, b), max(c, d)
                right = b > a if upper >= lower else d > c
                largest[channel] = _flip_negative(max(upper, lower))
                index[channel] = np.int8(right) + np.int8(2) * np.int8(lower > upper)


@kernel
def _max_pool_backward(data: Any) -> None:  # pragma: no cover
    _, num_chunks, rows, height, width, channels, gradient, result, argmax = carray(data, (9,))
    while True:
        chunk = next_chunk(data)
        if chunk >= num_chunks:
            break
        first_pixel = (chunk // rows * height + chunk % rows * 2) * width
        for column in range(width // 2):
            pixel, offset = first_pixel + 2 * column, (chunk * (width // 2) + column) * channels
            first, second, third, fourth = _window(result, pixel, width, channels)
            given = _int16_array(gradient + 2 * offset, channels)
            index = _int8_array(argmax + offset, channels)
            for channel in range(channels):
                bits, winner = given[channel], index[channel]
                first[channel] = bits if winner == 0 else np.int16(0)
                second[channel] = bits if winner == 1 else np.int16(0)
                third[channel] = bits if winner == 2 else np.int16(0)
                fourth[channel] = bits if winner == 3 else np.int16(0)


@kernel
def _relu_forward(data: Any) -> None:  # pragma: no cover
    _, num_chunks, size, images = carray(data, (4,))
    while True:
        chunk = next_chunk(data)
        if chunk >= num_chunks:
            break
        count = min(GRAIN_SIZE, size - chunk * GRAIN_SIZE)
        values = _int16_array(images + 2 * chunk * GRAIN_SIZE, count)
        for i in range(count):
            bits = values[i]
            values[i] = bits if bits > np.int16(MINUS_INFINITY) else np.int16(0)


@kernel
def _relu_backward(data: Any) -> None:  # pragma: no cover
    _, num_chunks, size, gradient, result, images = carray(data, (6,))
    while True:
        chunk = next_chunk(data)
        if chunk >= num_chunks:
            break
        count, offset = min(GRAIN_SIZE, size - chunk * GRAIN_SIZE), 2 * chunk * GRAIN_SIZE
        given, values = _int16_array(gradient + offset, count), _int16_array(images + offset, count)
        output = _int16_array(result + offset, count)
        for i in range(count):
            output[i] = given[i] if values[i] != 0 else np.int16(0)
