"""Transform tiles of images for Winograd's convolution on the CPU.

The matrices of F(m × m, 3 × 3) turn a 3 × 3 convolution into products of single numbers. A tile of m × m output pixels
depends on a tile of (m + 2) × (m + 2) input pixels d; with the weight g,

    output = Aᵀ [(G g Gᵀ) ⊙ (Bᵀ d B)] A

The products are summed over channels, so each of the (m + 2)² positions is a matrix product over all tiles. The larger
the tiles, the fewer the multiplications, and the larger the rounding errors. Transforms are computed in float32, from
and to float32 or bfloat16.

Sources: Lavin and Gray, *Fast Algorithms for Convolutional Neural Networks*, 2015; the choice of the points:
Barabasz et al., *Error Analysis and Improving the Accuracy of Winograd Convolution for Deep Neural Networks*, 2018.
"""

import functools
import itertools
from enum import IntEnum
from typing import Any, NamedTuple

import numba
import numpy as np
import numpy.typing as npt
import torch
from llvmlite import ir  # type: ignore[import-untyped]
from numba import carray, types  # type: ignore[attr-defined]
from numba.extending import intrinsic
from torch import Tensor

from fastcifar.models.ops.openmp import POINTER, kernel, launch, next_chunk, pointer_to

Matrix = npt.NDArray[np.float64]
VECTOR_BYTES = 32
"""Bytes that are transformed at a time."""
FLOAT32_LANES, BFLOAT16_LANES = VECTOR_BYTES // 4, VECTOR_BYTES // 2
GRAIN_SIZE = 8
"""Tiles that a thread transforms at a time."""
OUTSIDE = -1
"""Stands for the offset of a pixel outside the image."""
ROUNDING_ERROR = 1e-9
"""Smaller numbers in a matrix are zeros."""
CONTRACT = ("contract",)
"""LLVM's flag that allows a multiplication and an addition to become one instruction."""


class Format(NamedTuple):
    """A number format of images and products, with the vector size and the interpolation points of its transforms."""

    dtype: torch.dtype
    lanes: int
    """Numbers that are transformed at a time; channels are a multiple of it."""
    points: dict[int, tuple[float, ...]]
    """Interpolation points, besides infinity, by the side m of the output tiles."""

    @property
    def vector(self) -> ir.VectorType:
        """The type of the numbers that are transformed at a time."""
        return ir.VectorType(ir.FloatType(), self.lanes)


FLOAT32 = Format(
    torch.float32,
    FLOAT32_LANES,
    {
        3: (0, 1, -1, 2),
        4: (0, 1, -1, 2, -2),
        5: (0, 1, -1, 2, -2, 1 / 2),
        6: (0, 1, -1, 2, -2, 1 / 2, -1 / 2),
        7: (0, 3 / 4, -3 / 4, 5 / 4, -5 / 4, 2, -2, 2 / 5),
        8: (0, 2 / 5, -2 / 5, 4 / 5, -4 / 5, 5 / 4, -5 / 4, 5 / 2, -5 / 2),
    },
)
"""The points of 7 and 8 had the smallest rounding errors among fractions between 1/4 and 3: 2e-5 and 3e-5 of the
largest output."""
BFLOAT16 = Format(torch.bfloat16, BFLOAT16_LANES, {3: (0, 3 / 4, -3 / 4, 2), 4: (0, 2 / 3, -2 / 3, 3 / 2, -3 / 2)})
"""These points had the smallest rounding errors, whose root mean square is 1.1 % and 1.3 % of that of the outputs and
gradients; those of 5 had 3.8 %."""
FORMATS = {format_.dtype: format_ for format_ in (FLOAT32, BFLOAT16)}


class Tiles(IntEnum):
    """The three transforms of tiles."""

    INPUT = 0
    """Bᵀ d B of the input's overlapping tiles, (m + 2) × (m + 2) pixels."""
    OUTPUT = 1
    """Aᵀ M A, the output's m × m pixels, from the products M."""
    GRADIENT = 2
    """A y Aᵀ of the m × m pixels of the output's gradient: the gradient of the products."""


class Matrices(NamedTuple):
    """Winograd's matrices of one tile size."""

    output: Matrix
    """Aᵀ, [m, m + 2]."""
    input: Matrix
    """Bᵀ, [m + 2, m + 2]."""
    weight: Matrix
    """G, [m + 2, 3]."""


def winograd_matrices(side: int, format_: Format) -> Matrices:
    """Compute the matrices for output tiles of `side` × `side` pixels, by interpolation at its points and infinity."""
    points = np.array(format_.points[side])
    powers = np.vander(points, 3, increasing=True)
    differences = points[:, None] - points + np.eye(len(points))
    weight = np.vstack([powers / differences.prod(axis=1, keepdims=True), [0, 0, 1]])
    rows = [np.append(np.poly(np.delete(points, i))[::-1], 0) for i in range(len(points))]
    last = np.eye(side)[:, -1:]
    output = np.hstack([np.vander(points, side, increasing=True).T, last])
    return Matrices(output, np.vstack([*rows, np.poly(points)[::-1]]), weight)


def _factors(kind: Tiles, side: int, format_: Format) -> list[Matrix]:
    """Two factors of a transform's matrix, the one that is applied first first.

    The numbers of two points ±p differ only in sign. Sums and differences of pairs halve the multiplications.
    """
    output, input_, _ = winograd_matrices(side, format_)
    butterfly, points = np.eye(side + 2), format_.points[side]
    for i, point in enumerate(points[1:], 1):
        if point == -points[i - 1]:
            butterfly[i - 1 : i + 1, i - 1 : i + 1] = [[1, 1], [1, -1]]
    inverse = np.linalg.inv(butterfly)
    if kind is Tiles.OUTPUT:
        return [butterfly, output @ inverse]
    mixed = inverse @ (input_ if kind is Tiles.INPUT else output.T)
    return [np.where(abs(mixed) < ROUNDING_ERROR, 0, mixed), butterfly]


def transform(kind: Tiles, side: int, images: Tensor, products: Tensor, *, rotated: bool = False) -> None:
    """Transform all tiles of `images` into `products`; for `Tiles.OUTPUT`, the tiles of `products` into `images`.

    Images are [B, C, H, W], channels-last, of a dtype in `FORMATS`; products of the same [(side + 2)², rows, C], where
    the first rows are the images' tiles, in the order of the images, row by row. If `rotated`, the pixels of each tile
    are taken as if it were rotated by half a turn.
    """
    batch, channels, height, width = images.shape
    pixel_bytes, border = channels * images.itemsize, 1 if kind is Tiles.INPUT else 0
    offsets = _pixel_offsets(height, width, side, border, pixel_bytes, rotated)
    count, tiles = batch * len(offsets), (len(offsets), offsets.shape[1], height * width * pixel_bytes)
    stride = products.stride(0) * products.itemsize
    arguments = 10 * side + kind, count, *tiles, pixel_bytes, images, offsets, products, stride
    launch(compiled_kernel(images.dtype), -(-count // GRAIN_SIZE), *arguments)


@functools.lru_cache(256)
def _pixel_offsets(height: int, width: int, side: int, border: int, pixel_bytes: int, rotated: bool) -> Tensor:
    """The offsets in bytes of the pixels of each tile from the image's first pixel, row by row; `OUTSIDE` for others.

    int64 [tiles of an image, (side + 2 · border)²]; in the opposite order if `rotated`.
    """
    y, x = (np.arange(0, size, side)[:, None] - border + np.arange(side + 2 * border) for size in (height, width))
    y, x = y[:, None, :, None], x[None, :, None, :]
    inside = (y >= 0) & (y < height) & (x >= 0) & (x < width)
    offsets = np.where(inside, (y * width + x) * pixel_bytes, OUTSIDE).reshape(-1, (side + 2 * border) ** 2)
    return torch.from_numpy(np.ascontiguousarray(offsets[:, ::-1] if rotated else offsets))


def tiles_per_image(height: int, width: int, side: int) -> int:
    """The number of output tiles that cover an image."""
    return -(-height // side) * -(-width // side)


@functools.cache
def compiled_kernel(dtype: torch.dtype) -> Any:
    """Compile the kernel for numbers of a type, which takes some seconds unless numba's cache has it."""
    return kernel(_transform_float32 if dtype is torch.float32 else _transform_bfloat16)


def _multiply(builder: Any, matrix: Matrix, values: list[Any]) -> list[Any]:
    """Emit the product of a matrix and a column of vectors."""
    results, vector = [], values[0].type
    for row in matrix:
        total = None
        for factor, value in zip(row, values, strict=True):
            if factor:
                term = builder.fmul(value, ir.Constant(vector, [float(factor)] * vector.count), flags=CONTRACT)
                total = term if total is None else builder.fadd(total, term, flags=CONTRACT)
        results.append(total)
    return results


def _emit_transform(builder: Any, factors: list[Matrix], load: Any, store: Any) -> None:
    """Emit one transform of a tile: first its rows, then its columns."""
    rows = []
    for i in range(factors[0].shape[1]):
        row = [load(i * factors[0].shape[1] + j) for j in range(factors[0].shape[1])]
        for matrix in factors:
            row = _multiply(builder, matrix, row)
        rows.append(row)
    for j, column in enumerate(zip(*rows, strict=True)):
        values = list(column)
        for matrix in factors:
            values = _multiply(builder, matrix, values)
        for i, value in enumerate(values):
            store(i * len(values) + j, value)


def _load(builder: Any, address: Any, format_: Format) -> Any:
    """Emit the load of a vector."""
    if format_ is FLOAT32:
        return builder.load(builder.inttoptr(address, format_.vector.as_pointer()), align=4)
    bits, half_bits, shift = _bits(format_)
    half = builder.load(builder.inttoptr(address, half_bits.as_pointer()), align=2)
    return builder.bitcast(builder.shl(builder.zext(half, bits), shift), format_.vector)


def _store(builder: Any, value: Any, address: Any, format_: Format) -> None:
    """Emit the store of a vector; bfloat16 is the first half of a float32, rounded to the nearest."""
    if format_ is FLOAT32:
        builder.store(value, builder.inttoptr(address, format_.vector.as_pointer()), align=4)
        return
    bits, half_bits, shift = _bits(format_)
    rounded = builder.add(builder.bitcast(value, bits), ir.Constant(bits, [1 << 15] * format_.lanes))
    half = builder.trunc(builder.lshr(rounded, shift), half_bits)
    builder.store(half, builder.inttoptr(address, half_bits.as_pointer()), align=2)


def _bits(format_: Format) -> tuple[Any, Any, Any]:
    """The types of the bits of a vector of float32 and of bfloat16, and a shift from one to the other."""
    bits, half_bits = (ir.VectorType(ir.IntType(size), format_.lanes) for size in (32, 16))
    return bits, half_bits, ir.Constant(bits, [16] * format_.lanes)


def _transform_vector(format_: Format) -> Any:
    """Return an intrinsic that runs the transform `code` of one tile, for the channels of one vector.

    The addresses of the tile's pixels are in an array, those of its products `stride` bytes apart; `offset` is that of
    the channels.
    """

    def generate(_: Any, builder: Any, signature: Any, arguments: Any) -> None:
        code, pixels, products, stride, offset = arguments

        def pixel(index: int) -> Any:
            address = builder.load(builder.gep(pixels, [ir.Constant(ir.IntType(32), index)]))
            return builder.add(address, offset)

        def product(index: int) -> Any:
            return builder.add(builder.add(products, builder.mul(stride, stride.type(index))), offset)

        for side, kind in itertools.product(format_.points, Tiles):
            source, target = (product, pixel) if kind is Tiles.OUTPUT else (pixel, product)
            with builder.if_then(builder.icmp_signed("==", code, code.type(10 * side + kind))):
                _emit_transform(
                    builder,
                    _factors(kind, side, format_),
                    lambda index, source=source: _load(builder, source(index), format_),
                    lambda index, value, target=target: _store(builder, value, target(index), format_),
                )

    def transform_vector(_: Any, code: Any, pixels: Any, products: Any, stride: Any, offset: Any) -> Any:
        return types.void(types.int64, POINTER(types.int64), types.int64, types.int64, types.int64), generate

    return intrinsic(transform_vector)


_transform_float32_vector, _transform_bfloat16_vector = _transform_vector(FLOAT32), _transform_vector(BFLOAT16)
_int64_pointer: Any = pointer_to(types.int64)


@numba.njit(inline="always")
def _transform_tiles(data: Any, transform_vector: Any) -> None:  # pragma: no cover
    """Transform tiles until none is left, all channels of a pixel one vector after the other."""
    _, num_chunks, code, count, tiles, tile_pixels, image_bytes, pixel_bytes, images, offsets, products, stride = (
        carray(data, (12,))
    )
    padding = np.zeros(pixel_bytes, np.int8)  # read as zeros, or overwritten with what no one reads
    outside = padding.ctypes.data
    addresses = np.empty(100, np.int64)
    pixels = _int64_pointer(addresses.ctypes.data)
    relative = carray(_int64_pointer(offsets), (tiles, tile_pixels))
    while True:
        chunk = next_chunk(data)
        if chunk >= num_chunks:
            break
        for tile in range(chunk * GRAIN_SIZE, min((chunk + 1) * GRAIN_SIZE, count)):
            image, found = images + tile // tiles * image_bytes, relative[tile % tiles]
            for i in range(tile_pixels):
                addresses[i] = image + found[i] if found[i] != OUTSIDE else outside
            for offset in range(0, pixel_bytes, VECTOR_BYTES):
                transform_vector(code, pixels, products + tile * pixel_bytes, stride, offset)


def _transform_float32(data: Any) -> None:  # pragma: no cover
    _transform_tiles(data, _transform_float32_vector)


def _transform_bfloat16(data: Any) -> None:  # pragma: no cover
    _transform_tiles(data, _transform_bfloat16_vector)
