"""Max pooling and ReLU of bfloat16 images in channels-last memory on the CPU.

torch's convert each number to float32 and back, and keep where each maximum was in eight bytes. Here bfloat16 is
compared as the integer that it is stored as, and a place takes a byte. The loops run in torch's own OpenMP threads:
those of another pool would wait for cores on which torch's spin after each convolution.
"""

from __future__ import annotations

import ctypes
import functools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numba
import numpy as np
import torch
from llvmlite import ir
from numba.core import types
from numba.extending import intrinsic
from numba.np.numpy_support import carray
from torch import nn
from torch.autograd.function import once_differentiable

GRAIN_SIZE = 1 << 15
"""Numbers that a thread takes at a time."""
MINUS_INFINITY = -128
"""Its bits as an int16: below lie those of the other negative numbers, above those of NaN and the rest."""
NAN = 0x7FFF
"""The bits of one, as an int16 the largest."""
POINTER: Any = types.CPointer
"""numba's type of pointers, which has no annotations."""


class MaxPool2x2(nn.MaxPool2d):
    """The largest of each 2 × 2 positions: [B, C, H, W] to [B, C, ⌊H / 2⌋, ⌊W / 2⌋]."""

    def __init__(self) -> None:
        super().__init__(2)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        takes = _is_supported(images) and min(images.shape[-2:]) >= 2
        return _MaxPool.apply(images) if takes else super().forward(images)  # type: ignore[no-any-return]


class ReLU(nn.ReLU):
    """The images [B, C, H, W] themselves, their negative numbers set to 0 in place."""

    def __init__(self) -> None:
        super().__init__(inplace=True)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return _ReLU.apply(images) if _is_supported(images) else super().forward(images)


def _is_supported(images: torch.Tensor) -> bool:
    """Whether the kernels take such images."""
    return (
        images.device.type == "cpu"
        and images.dtype is torch.bfloat16
        and images.dim() == 4
        and images.is_contiguous(memory_format=torch.channels_last)
        and not torch.compiler.is_compiling()
        and _gomp_parallel() is not None
    )


class _MaxPool(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, images: torch.Tensor) -> torch.Tensor:
        batch, channels, height, width = ctx.shape = images.shape
        shape = (batch, channels, height // 2, width // 2)
        result = torch.empty(shape, dtype=images.dtype, memory_format=torch.channels_last)
        places = torch.empty(shape, dtype=torch.int8, memory_format=torch.channels_last)
        _run(_pool, batch * shape[2], shape[2], height, width, channels, images, result, places)
        ctx.save_for_backward(places)
        return result

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: torch.Tensor) -> torch.Tensor:
        (places,) = ctx.saved_tensors
        batch, channels, height, width = ctx.shape
        gradient = gradient.contiguous(memory_format=torch.channels_last)
        result = torch.empty(ctx.shape, dtype=gradient.dtype, memory_format=torch.channels_last)
        if height % 2 or width % 2:  # the last row or column is in no window
            result.zero_()
        rows = height // 2
        _run(_max_pool_backward, batch * rows, rows, height, width, channels, gradient, result, places)
        return result


class _ReLU(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, images: torch.Tensor) -> torch.Tensor:
        _run(_relu_forward, -(-images.numel() // GRAIN_SIZE), images.numel(), images)
        ctx.mark_dirty(images)
        ctx.save_for_backward(images)
        return images

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: torch.Tensor) -> torch.Tensor:
        (images,) = ctx.saved_tensors
        gradient = gradient.contiguous(memory_format=torch.channels_last)
        result = torch.empty_like(images)
        _run(_relu_backward, -(-images.numel() // GRAIN_SIZE), images.numel(), gradient, result, images)
        return result


def _address_of_int16(_: Any, address: Any) -> Any:
    return POINTER(types.int16)(types.int64), _as_pointer


def _address_of_int8(_: Any, address: Any) -> Any:
    return POINTER(types.int8)(types.int64), _as_pointer


def _as_pointer(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
    return builder.inttoptr(arguments[0], context.get_value_type(signature.return_type))


def _fetch_and_add(_: Any, counter: Any) -> Any:
    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        return builder.atomic_rmw("add", arguments[0], ir.Constant(ir.IntType(64), 1), "monotonic")

    return types.int64(POINTER(types.int64)), generate


_bits: Any = intrinsic(_address_of_int16)
_bytes: Any = intrinsic(_address_of_int8)
"""Addresses as pointers."""
_next: Any = intrinsic(_fetch_and_add)
"""The number that a counter held, which goes up by one, whichever thread asks."""


def _kernel(function: Callable[[Any], None]) -> Any:
    """Compile what all threads run, given a counter, the number of pieces to count, and what else `_run` was given."""
    signature = types.void(POINTER(types.int64))
    try:
        return numba.cfunc(signature, cache=True)(function)
    except RuntimeError:  # numba found no folder for its cache that it may write to
        return numba.cfunc(signature)(function)


@numba.njit(inline="always")
def _to_sortable_int16(bits: Any) -> Any:  # pragma: no cover
    """A number's bits as an int16 in the order of the numbers: −0 is 0, and NaN the largest."""
    if bits > np.int16(MINUS_INFINITY) and bits < np.int16(0):
        return np.int16(NAN)
    return _flip_negative(bits)


@numba.njit(inline="always")
def _flip_negative(bits: Any) -> Any:  # pragma: no cover
    """Sign and magnitude as two's complement, and back."""
    return np.int16(-32768) - bits if bits < np.int16(0) else bits


@numba.njit(inline="always")
def _window(images: Any, at: Any, width: Any, channels: Any) -> Any:  # pragma: no cover
    """The channels of four neighbours, row by row, of which the first is the image's position number `at`."""
    return (
        carray(_bits(images + 2 * at * channels), (channels,)),
        carray(_bits(images + 2 * (at + 1) * channels), (channels,)),
        carray(_bits(images + 2 * (at + width) * channels), (channels,)),
        carray(_bits(images + 2 * (at + width + 1) * channels), (channels,)),
    )


@_kernel
def _pool(data: Any) -> None:  # pragma: no cover
    _, pieces, rows, height, width, channels, images, result, places = carray(data, (9,))
    while True:
        piece = _next(data)
        if piece >= pieces:
            break
        above = (piece // rows * height + piece % rows * 2) * width
        for column in range(width // 2):
            at, to = above + 2 * column, (piece * (width // 2) + column) * channels
            first, second, third, fourth = _window(images, at, width, channels)
            largest = carray(_bits(result + 2 * to), (channels,))
            place = carray(_bytes(places + to), (channels,))
            for channel in range(channels):
                a, b = _to_sortable_int16(first[channel]), _to_sortable_int16(second[channel])
                c, d = _to_sortable_int16(third[channel]), _to_sortable_int16(fourth[channel])
                upper, lower = max(a, b), max(c, d)
                right = b > a if upper >= lower else d > c
                largest[channel] = _flip_negative(max(upper, lower))
                place[channel] = np.int8(right) + np.int8(2) * np.int8(lower > upper)


@_kernel
def _max_pool_backward(data: Any) -> None:  # pragma: no cover
    _, pieces, rows, height, width, channels, gradient, result, places = carray(data, (9,))
    while True:
        piece = _next(data)
        if piece >= pieces:
            break
        above = (piece // rows * height + piece % rows * 2) * width
        for column in range(width // 2):
            at, to = above + 2 * column, (piece * (width // 2) + column) * channels
            first, second, third, fourth = _window(result, at, width, channels)
            given = carray(_bits(gradient + 2 * to), (channels,))
            place = carray(_bytes(places + to), (channels,))
            for channel in range(channels):
                bits, where = given[channel], place[channel]
                first[channel] = bits if where == 0 else np.int16(0)
                second[channel] = bits if where == 1 else np.int16(0)
                third[channel] = bits if where == 2 else np.int16(0)
                fourth[channel] = bits if where == 3 else np.int16(0)


@_kernel
def _relu_forward(data: Any) -> None:  # pragma: no cover
    _, pieces, size, images = carray(data, (4,))
    while True:
        piece = _next(data)
        if piece >= pieces:
            break
        count = min(GRAIN_SIZE, size - piece * GRAIN_SIZE)
        values = carray(_bits(images + 2 * piece * GRAIN_SIZE), (count,))
        for number in range(count):
            bits = values[number]
            values[number] = bits if bits > np.int16(MINUS_INFINITY) else np.int16(0)


@_kernel
def _relu_backward(data: Any) -> None:  # pragma: no cover
    _, pieces, size, gradient, result, images = carray(data, (6,))
    while True:
        piece = _next(data)
        if piece >= pieces:
            break
        count, at = min(GRAIN_SIZE, size - piece * GRAIN_SIZE), 2 * piece * GRAIN_SIZE
        given, values = carray(_bits(gradient + at), (count,)), carray(_bits(images + at), (count,))
        to = carray(_bits(result + at), (count,))
        for number in range(count):
            to[number] = given[number] if values[number] != 0 else np.int16(0)


def _run(kernel: Any, pieces: int, *numbers: int | torch.Tensor) -> None:
    """Run a kernel in torch's threads until its pieces are done."""
    values = (number if isinstance(number, int) else number.data_ptr() for number in numbers)
    data = np.array([0, pieces, *values], dtype=np.int64)
    in_parallel = _gomp_parallel()
    assert in_parallel is not None
    in_parallel(kernel.address, data.ctypes.data, torch.get_num_threads(), 0)


@functools.cache
def _gomp_parallel() -> Any:
    """GNU OpenMP's `GOMP_parallel` of the library that torch brings; None where it brings none."""
    library = next((Path(torch.__file__).parent / "lib").glob("libgomp*"), None)
    if library is None:
        return None
    in_parallel = ctypes.CDLL(str(library)).GOMP_parallel
    in_parallel.argtypes = [ctypes.c_void_p, ctypes.c_void_p, ctypes.c_uint, ctypes.c_uint]
    in_parallel.restype = None
    return in_parallel
