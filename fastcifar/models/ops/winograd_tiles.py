"""Transform tiles of images for Winograd's convolution, in float32 on the CPU.

The matrices of F(m × m, 3 × 3) turn a 3 × 3 convolution into products of single numbers. A tile of m × m output pixels
depends on a tile of (m + 2) × (m + 2) input pixels d; with the weight g,

    output = Aᵀ [(G g Gᵀ) ⊙ (Bᵀ d B)] A

The products are summed over channels, so each of the (m + 2)² positions is a matrix product over all tiles. The larger
the tiles, the fewer the multiplications, and the larger the rounding errors.

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
from llvmlite import ir  # type: ignore[import-untyped]
from numba import carray, types  # type: ignore[attr-defined]
from numba.extending import intrinsic
from torch import Tensor

from fastcifar.models.ops.openmp import POINTER, kernel, launch, next_chunk, pointer_to

Matrix = npt.NDArray[np.float64]
POINTS = {
    3: (0, 1, -1, 2),
    4: (0, 1, -1, 2, -2),
    5: (0, 1, -1, 2, -2, 1 / 2),
    6: (0, 1, -1, 2, -2, 1 / 2, -1 / 2),
    7: (0, 3 / 4, -3 / 4, 5 / 4, -5 / 4, 2, -2, 2 / 5),
    8: (0, 2 / 5, -2 / 5, 4 / 5, -4 / 5, 5 / 4, -5 / 4, 5 / 2, -5 / 2),
}
"""Interpolation points, besides infinity, by the side m of the output tiles. Those of 7 and 8 had the smallest rounding
errors among fractions between 1/4 and 3: 2e-5 and 3e-5 of the largest output."""
LANES = 8
"""Numbers in a vector register; channels are a multiple of it."""
VECTOR = ir.VectorType(ir.FloatType(), LANES)
GRAIN_SIZE = 8
"""Tiles that a thread transforms at a time."""
ROUNDING_ERROR = 1e-9
"""Smaller numbers in a matrix are zeros."""
CONTRACT = ("contract",)
"""LLVM's flag that allows a multiplication and an addition to become one instruction."""


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


def winograd_matrices(side: int) -> Matrices:
    """Compute the matrices for output tiles of `side` × `side` pixels, by interpolation at `POINTS` and infinity."""
    points = np.array(POINTS[side])
    powers = np.vander(points, 3, increasing=True)
    differences = points[:, None] - points + np.eye(len(points))
    weight = np.vstack([powers / differences.prod(axis=1, keepdims=True), [0, 0, 1]])
    rows = [np.append(np.poly(np.delete(points, i))[::-1], 0) for i in range(len(points))]
    last = np.eye(side)[:, -1:]
    output = np.hstack([np.vander(points, side, increasing=True).T, last])
    return Matrices(output, np.vstack([*rows, np.poly(points)[::-1]]), weight)


def _factors(kind: Tiles, side: int) -> list[Matrix]:
    """Two factors of a transform's matrix, the one that is applied first first.

    The numbers of two points ±p differ only in sign. Sums and differences of pairs halve the multiplications.
    """
    output, input_, _ = winograd_matrices(side)
    butterfly = np.eye(side + 2)
    for i, point in enumerate(POINTS[side][1:], 1):
        if point == -POINTS[side][i - 1]:
            butterfly[i - 1 : i + 1, i - 1 : i + 1] = [[1, 1], [1, -1]]
    inverse = np.linalg.inv(butterfly)
    if kind is Tiles.OUTPUT:
        return [butterfly, output @ inverse]
    mixed = inverse @ (input_ if kind is Tiles.INPUT else output.T)
    return [np.where(abs(mixed) < ROUNDING_ERROR, 0, mixed), butterfly]


def transform(kind: Tiles, side: int, images: Tensor, products: Tensor) -> None:
    """Transform all tiles of `images` into `products`; for `Tiles.OUTPUT`, the tiles of `products` into `images`.

    Images are float32 [B, C, H, W], channels-last; products float32 [(side + 2)², tiles, C], with the images' tiles in
    the order of the images, row by row.
    """
    _, channels, height, width = images.shape
    count, border = products.shape[1], 1 if kind is Tiles.INPUT else 0
    arguments = 10 * side + kind, count, side, border, height, width, channels, images, products
    launch(compiled_kernel(), -(-count // GRAIN_SIZE), *arguments)


@functools.cache
def compiled_kernel() -> Any:
    """Compile the kernel, which takes some seconds unless numba's cache has it."""
    return kernel(_transform)


def _multiply(builder: Any, matrix: Matrix, values: list[Any]) -> list[Any]:
    """Emit the product of a matrix and a column of vectors."""
    results = []
    for row in matrix:
        total = None
        for factor, value in zip(row, values, strict=True):
            if factor:
                term = builder.fmul(value, ir.Constant(VECTOR, [float(factor)] * LANES), flags=CONTRACT)
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


def _type_transform(_: Any, code: Any, pixels: Any, products: Any, stride: Any, offset: Any) -> Any:
    """Emit the transform `code` of one tile, for the channels in one vector register.

    The addresses of the tile's pixels are in an array, those of its products `stride` bytes apart; `offset` is that of
    the channels.
    """

    def generate(_: Any, builder: Any, signature: Any, arguments: Any) -> None:
        code, pixels, products, stride, offset = arguments

        def pixel(index: int) -> Any:
            address = builder.load(builder.gep(pixels, [ir.Constant(ir.IntType(32), index)]))
            return builder.inttoptr(builder.add(address, offset), VECTOR.as_pointer())

        def product(index: int) -> Any:
            address = builder.add(products, builder.mul(stride, stride.type(index)))
            return builder.inttoptr(builder.add(address, offset), VECTOR.as_pointer())

        for side, kind in itertools.product(POINTS, Tiles):
            source, target = (product, pixel) if kind is Tiles.OUTPUT else (pixel, product)
            with builder.if_then(builder.icmp_signed("==", code, code.type(10 * side + kind))):
                _emit_transform(
                    builder,
                    _factors(kind, side),
                    lambda index, source=source: builder.load(source(index), align=4),
                    lambda index, value, target=target: builder.store(value, target(index), align=4),
                )

    return types.void(types.int64, POINTER(types.int64), types.int64, types.int64, types.int64), generate


_transform_vector: Any = intrinsic(_type_transform)
_int64_pointer: Any = pointer_to(types.int64)


@numba.njit(inline="always")
def _find_pixels(found: Any, tile: Any, side: Any, border: Any, image: Any, outside: Any) -> None:  # pragma: no cover
    """Write the addresses of a tile's pixels to `found`, row by row; for those outside the image, `outside`."""
    start, height, width, pixel_bytes, output_side = image
    columns = (width + output_side - 1) // output_side
    rows = (height + output_side - 1) // output_side
    first = start + tile // (rows * columns) * height * width * pixel_bytes
    top = tile % (rows * columns) // columns * output_side - border
    left = tile % columns * output_side - border
    for i in range(side):
        for j in range(side):
            y, x = top + i, left + j
            inside = 0 <= y < height and 0 <= x < width
            found[i * side + j] = first + (y * width + x) * pixel_bytes if inside else outside


def _transform(data: Any) -> None:  # pragma: no cover
    _, num_chunks, code, count, output_side, border, height, width, channels, images, products = carray(data, (11,))
    pixel_bytes = 4 * channels
    image = images, height, width, pixel_bytes, output_side
    outside = np.zeros(channels, np.float32)  # read as zeros, or overwritten with what no one reads
    addresses = np.empty(100, np.int64)
    pixels = _int64_pointer(addresses.ctypes.data)
    while True:
        chunk = next_chunk(data)
        if chunk >= num_chunks:
            break
        for tile in range(chunk * GRAIN_SIZE, min((chunk + 1) * GRAIN_SIZE, count)):
            _find_pixels(addresses, tile, output_side + 2 * border, border, image, outside.ctypes.data)
            for offset in range(0, pixel_bytes, 4 * LANES):
                _transform_vector(code, pixels, products + tile * pixel_bytes, count * pixel_bytes, offset)
