"""3 × 3 convolutions on the CPU by Winograd's algorithm, two to five times fewer multiplications.

In float32 on a processor with AVX2, the forward pass and both gradients together take 0.3 to 0.5 of the time of
oneDNN's convolutions, from 64 channels on. In bfloat16 on one with AVX-512 BF16, most take 0.4 to 0.9 of it.
"""

import functools
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from fastcifar.models.ops.openmp import gomp_parallel
from fastcifar.models.ops.winograd_tiles import FORMATS, Tiles, tiles_per_image, transform, winograd_matrices

MAX_TILES = 256
"""Tiles that are transformed at a time, so that they stay in the cache."""
WEIGHTS_PER_CHUNK = 1 << 15
"""The gradient of a weight adds up `MAX_TILES` tiles at a time for every so many inputs × outputs: the larger the
weight, the longer each addition takes."""
MIN_TILES = {torch.float32: 16, torch.bfloat16: 128}
"""Fewest tiles of a batch; below, the transform of the weights takes longer than it saves."""
MIN_WEIGHTS = 32 * 192
"""Fewest inputs × outputs for which the transforms of the images pay."""


def conv3x3_winograd(images: Tensor, weight: Tensor) -> Tensor:
    """Compute `F.conv2d(images, weight, padding=1)`.

    From images [B, I, H, W] and weight [O, I, 3, 3] to [B, O, H, W], channels-last, all of a dtype in `FORMATS`. I and
    O are multiples of its lanes. Errors are below 2e-4 of the largest output in float32. In bfloat16, their root mean
    square is below 2 % of that of the outputs.
    """
    return _WinogradConv3x3.apply(images, weight)  # type: ignore[no-any-return]


def is_supported(images: Tensor, dtype: torch.dtype, outputs: int) -> bool:
    """Whether the algorithm can convolve images [B, I, H, W], as `dtype`, to this many outputs."""
    lanes = FORMATS[dtype].lanes
    return images.shape[1] % lanes == 0 and outputs % lanes == 0 and gomp_parallel() is not None


def is_faster(images: Tensor, dtype: torch.dtype, outputs: int) -> bool:
    """Whether the algorithm is faster than torch's for such images, and supported."""
    batch, inputs, height, width = images.shape
    tiles = batch * tiles_per_image(height, width, tile_side(height, width, dtype))
    return tiles >= MIN_TILES[dtype] and inputs * outputs >= MIN_WEIGHTS and is_supported(images, dtype, outputs)


def tile_side(height: int, width: int, dtype: torch.dtype) -> int:
    """The side of the output tiles that needs the fewest multiplications."""
    return min(FORMATS[dtype].points, key=lambda side: (tiles_per_image(height, width, side) * (side + 2) ** 2, side))


class _WinogradConv3x3(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, images: Tensor, weight: Tensor) -> Tensor:
        images = images.contiguous(memory_format=torch.channels_last)
        height, width = images.shape[-2:]
        transformed = _transformed_weight(tile_side(height, width, images.dtype), weight)
        ctx.save_for_backward(images, transformed)
        return _convolve(images, transformed)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, Tensor | None]:
        images, transformed_weight = ctx.saved_tensors
        grad = grad.contiguous(memory_format=torch.channels_last)
        images_grad = weight_grad = None
        if ctx.needs_input_grad[0]:
            images_grad = _convolve(grad, transformed_weight.mT, rotated=True)
        if ctx.needs_input_grad[1]:
            weight_grad = _weight_gradient(images, grad)
        return images_grad, weight_grad


def _convolve(images: Tensor, transformed_weight: Tensor, *, rotated: bool = False) -> Tensor:
    """Convolve images with a transformed weight [(side + 2)², I, O], as if rotated by half a turn if `rotated`.

    The tiles of the images and of the result are rotated instead, so that the weight is transformed once per step.
    """
    batch, _, height, width = images.shape
    side = tile_side(height, width, images.dtype)
    result = images.new_empty((batch, height, width, transformed_weight.shape[2])).permute(0, 3, 1, 2)
    for part, target in zip(*(_chunks(tensor, side, MAX_TILES) for tensor in (images, result)), strict=True):
        products = torch.bmm(_transformed(Tiles.INPUT, side, part, rotated=rotated), transformed_weight)
        transform(Tiles.OUTPUT, side, target, products, rotated=rotated)
    return result


def _transformed_weight(side: int, weight: Tensor) -> Tensor:
    """Transform a weight [O, I, 3, 3] to [(side + 2)², I, O]."""
    taps = weight.permute(2, 3, 1, 0).reshape(9, -1).float()
    return (_weight_transform(side, weight.dtype) @ taps).to(weight.dtype).view(-1, weight.shape[1], len(weight))


def _weight_gradient(images: Tensor, grad: Tensor) -> Tensor:
    inputs, outputs, side = images.shape[1], grad.shape[1], tile_side(images.shape[2], images.shape[3], images.dtype)
    max_tiles = MAX_TILES * max(1, inputs * outputs // WEIGHTS_PER_CHUNK)
    sums = images.new_zeros((side + 2) ** 2, outputs, inputs, dtype=torch.float32)
    for image_part, grad_part in zip(*(_chunks(tensor, side, max_tiles) for tensor in (images, grad)), strict=True):
        transformed, products_grad = (
            _transformed(kind, side, part) for kind, part in ((Tiles.INPUT, image_part), (Tiles.GRADIENT, grad_part))
        )
        if sums.dtype is images.dtype:
            torch.baddbmm(sums, products_grad.mT, transformed, out=sums)
        else:
            sums += torch.bmm(products_grad.mT, transformed)
    taps = _weight_transform(side, images.dtype).T @ sums.flatten(1)
    return taps.to(images.dtype).view(3, 3, outputs, inputs).permute(2, 3, 0, 1)


def _transformed(kind: Tiles, side: int, images: Tensor, *, rotated: bool = False) -> Tensor:
    """Transform all tiles of images [B, C, H, W] to products [(side + 2)², rows, C].

    The number of rows is odd: at even distances, the numbers of a tile would displace each other from the cache. A row
    that is no tile contains zeros.
    """
    batch, channels, height, width = images.shape
    count = batch * tiles_per_image(height, width, side)
    products = images.new_empty((side + 2) ** 2, count + 1 - count % 2, channels)
    products[:, count:] = 0
    transform(kind, side, images, products, rotated=rotated)
    return products


def _chunks(images: Tensor, side: int, max_tiles: int) -> Iterator[Tensor]:
    height, width = images.shape[-2:]
    return iter(images.split(max(1, max_tiles // tiles_per_image(height, width, side))))


@functools.cache
def _weight_transform(side: int, dtype: torch.dtype) -> Tensor:
    """The matrix, float32 [(side + 2)², 9], that turns the 9 taps of a filter into G g Gᵀ."""
    matrix = torch.from_numpy(winograd_matrices(side, FORMATS[dtype]).weight)
    return torch.kron(matrix, matrix).float()
