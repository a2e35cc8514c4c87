"""Receptive fields: the part of the image that one position of a layer's output can depend on.

Rows of the image are set to NaN, which every operation passes on: the output positions that become NaN depend on those
rows. The fields are the theoretical ones, whatever the weights, and count pixels in the padding around the image; for
those, the image is surrounded by a margin. Definition: Araujo, Norris, Sim, *Computing Receptive Fields of
Convolutional Neural Networks*, 2019.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from contextlib import suppress
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

Field = tuple[int, int]
"""Height and width in pixels."""

MARGIN = 192
"""Pixels added on each side of the image: the largest field that can be measured; divisible by the usual strides."""


def receptive_fields(model: nn.Module, image_shape: Sequence[int] = (3, 32, 32)) -> dict[str, Field]:
    """Measure the receptive field of each module's output, by the module's qualified name ("" for the network).

    An output whose positions depend on the whole image, such as a mean, or on more than about `MARGIN` pixels, gets the
    field of all positions of the last output before it for which this is not so. A copy of the network, which takes
    float32 images [B, C, H, W], is run on the CPU; `image_shape` is C, H, W.

    Returns:
        An entry for each module that was called and returned one tensor; for its last call if there were several.
    """
    model = copy.deepcopy(model).cpu().double().eval()  # no algorithm for float64, such as Winograd's, mixes positions
    for module in model.modules():
        if isinstance(module, nn.Conv2d):
            module.forward = partial(_convolve_mean, module)  # type: ignore[method-assign]
    pools = [module for module in model.modules() if isinstance(module, nn.AdaptiveAvgPool2d | nn.AdaptiveMaxPool2d)]
    hooks = [pool.register_forward_hook(_fix_window) for pool in pools]
    shapes = _each_output(model, torch.zeros(1, *image_shape), lambda output: output.shape)
    for hook in hooks:
        hook.remove()
    heights, widths = (_extents(model, image_shape, shapes, axis) for axis in (2, 3))
    return {name: (heights[name], widths[name]) for name in shapes}


def _extents(model: nn.Module, image_shape: Sequence[int], shapes: dict[str, torch.Size], axis: int) -> dict[str, int]:
    """The heights (axis 2) or widths (axis 3) of the fields, given the outputs' shapes for the image alone."""
    shape = [1, *image_shape]
    shape[axis] += 2 * MARGIN
    grown = _each_output(model, torch.zeros(shape), lambda output: output.shape, Exception)
    strides = {
        name: round(2 * MARGIN / (large[axis] - shapes[name][axis]))
        for name, large in grown.items()
        if len(large) == 4 and large[axis] > shapes[name][axis]
    }
    rows = torch.arange(max(strides.values(), default=1))  # in image i, row i after the middle one is NaN
    images = torch.zeros(len(rows), *shape[1:])
    images.transpose(1, axis)[rows, shape[axis] // 2 + rows] = torch.nan
    found = _each_output(model, images, lambda output: output.isnan().movedim(axis, 1).flatten(2).any(2), Exception)
    extents, of_all_positions = {}, 1
    for name in shapes:
        extents[name] = of_all_positions
        if name in strides and not found[name][:, [0, -1]].any():
            row, position = found[name].nonzero().T
            distance = row - strides[name] * position
            extents[name] = int(distance.max() - distance.min()) + 1
            of_all_positions = extents[name] + (shapes[name][axis] - 1) * strides[name]
    return extents


def _each_output(
    model: nn.Module, images: torch.Tensor, see: Callable[[torch.Tensor], Any], *errors: type[Exception]
) -> dict[str, Any]:
    """Return see(output) by the module's name, in the order of the calls, up to an error of the given types."""
    seen: dict[str, Any] = {}

    def hook(_: nn.Module, __: object, output: object, name: str) -> None:
        if isinstance(output, torch.Tensor):
            seen.pop(name, None)
            seen[name] = see(output)

    handles = [module.register_forward_hook(partial(hook, name=name)) for name, module in model.named_modules()]
    with torch.no_grad(), suppress(*errors):  # a linear layer takes images of one size only
        model(images.double())
    for handle in handles:
        handle.remove()
    return seen


def _convolve_mean(layer: nn.Conv2d, images: torch.Tensor) -> torch.Tensor:
    """Convolve the channels' mean, which reads the same windows at a fraction of the cost."""
    window, mean = images.new_ones(1, 1, *layer.kernel_size), images.mean(dim=1, keepdim=True)
    return F.conv2d(mean, window, None, layer.stride, layer.padding, layer.dilation).repeat(1, layer.out_channels, 1, 1)


def _fix_window(pool: nn.Module, inputs: tuple[torch.Tensor], output: torch.Tensor) -> None:
    """Let an adaptive pooling read the largest of this call's windows from now on, at any image size."""
    sizes = list(zip(inputs[0].shape[2:], output.shape[2:], strict=True))
    kernel = [max(-(-(i + 1) * size // count) - i * size // count for i in range(count)) for size, count in sizes]
    stride = [size // count if count > 1 else 1 for size, count in sizes]
    pool.forward = partial(F.max_pool2d, kernel_size=kernel, stride=stride)
