"""Receptive fields: how much of the image one position of a layer's output can depend on.

The network runs once, in eval mode, and each operation that it calls passes on what its inputs depended on, so that
residual branches, concatenations and functional calls are all followed. The field is the theoretical one, along the
longest path: the height and width in pixels between the outermost that can matter, whatever the weights, those of the
padding around the image counted. Only convolutions and pooling widen it; of other operations, one that keeps height
and width is taken to act on each position alone, and one that does not (flatten, mean) to read them all.

Source of the arithmetic: Araujo, Norris, Sim, *Computing Receptive Fields of Convolutional Neural Networks*, 2019.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.weak import WeakIdKeyDictionary

Field = tuple[int, int]
"""Height and width in pixels."""


@dataclass(frozen=True)
class ReceptiveField1d:
    """Along one axis, output position i depends on the pixels from i · jump + first to i · jump + last."""

    jump: int = 1
    first: int = 0
    last: int = 0

    @property
    def size(self) -> int:
        """Pixels from the first to the last."""
        return self.last - self.first + 1

    def through(self, window: Window) -> ReceptiveField1d:
        """After an operation each of whose outputs reads such a window."""
        first = self.first - window.padding * self.jump
        last = self.last + (window.dilation * (window.kernel - 1) - window.padding) * self.jump
        return ReceptiveField1d(self.jump * window.stride, first, last)

    def over_all(self, positions: int) -> ReceptiveField1d:
        """After an operation each of whose outputs reads all positions."""
        return ReceptiveField1d(0, self.first, self.last + (positions - 1) * self.jump)

    def joined(self, other: ReceptiveField1d, positions: int) -> ReceptiveField1d:
        """What depends on both; where they move differently, as the middle one of the positions sees it."""
        jump, middle = max(self.jump, other.jump), positions // 2
        shifts = [(reach.jump - jump) * middle for reach in (self, other)]
        return ReceptiveField1d(
            jump,
            min(self.first + shifts[0], other.first + shifts[1]),
            max(self.last + shifts[0], other.last + shifts[1]),
        )


@dataclass(frozen=True)
class Window:
    """What a convolution or a pooling reads along one axis."""

    kernel: int
    stride: int
    dilation: int = 1
    padding: int = 0


def receptive_fields(model: nn.Module, image_shape: Sequence[int] = (3, 32, 32)) -> dict[str, Field]:
    """The receptive field of each module's output by its qualified name, "" for the network's own.

    Args:
        model: a network from float32 images [B, C, H, W]; a copy of it is run, on the CPU.
        image_shape: C, H, W.

    Returns:
        An entry for each module that was called and gave one tensor; of its last call, if there were more.
    """
    fields: dict[str, Field] = {}
    tracer = _Tracer()

    def note(name: str, output: Any) -> None:
        if isinstance(output, torch.Tensor) and output in tracer.reaches:
            height, width = tracer.reaches[output]
            fields[name] = height.size, width.size

    model = copy.deepcopy(model).cpu().eval()
    for name, module in model.named_modules():
        module.register_forward_hook(lambda _, __, output, name=name: note(name, output))
    images = torch.zeros(1, *image_shape)
    tracer.reaches[images] = (ReceptiveField1d(), ReceptiveField1d())
    with torch.no_grad(), tracer:
        model(images)
    return fields


class _Tracer(TorchDispatchMode):
    """Keeps, for each tensor that depends on the image, its reach in rows and in columns."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.reaches: Any = WeakIdKeyDictionary()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        sources = [
            (self.reaches[tensor], _places(tensor))
            for tensor in tree_leaves((args, kwargs))
            if isinstance(tensor, torch.Tensor) and tensor in self.reaches
        ]
        outputs = func(*args, **kwargs)
        if sources:
            windows = _windows(func, args, kwargs)
            for output in tree_leaves(outputs):
                if isinstance(output, torch.Tensor):
                    places = _places(output)
                    self.reaches[output] = tuple(
                        _reach([(reach[axis], there[axis]) for reach, there in sources], places[axis], windows, axis)
                        for axis in (0, 1)
                    )
        return outputs


def _reach(
    sources: list[tuple[ReceptiveField1d, int]], places: int, windows: list[Window] | None, axis: int
) -> ReceptiveField1d:
    """Of an output with so many places along an axis, from the reach and the places of what it was computed from."""
    if windows:
        return sources[0][0].through(windows[axis])
    joined, *others = (reach if there == places else reach.over_all(there) for reach, there in sources)
    for other in others:
        joined = joined.joined(other, places)
    return joined


def _places(tensor: torch.Tensor) -> tuple[int, int]:
    """Height and width of [B, C, H, W]; anything else has one place."""
    return (tensor.shape[2], tensor.shape[3]) if tensor.dim() == 4 else (1, 1)


def _windows(func: Any, args: Sequence[Any], kwargs: dict[str, Any]) -> list[Window] | None:
    """Of a convolution or a pooling in rows and in columns; None for other operations."""
    names = [argument.name for argument in func._schema.arguments]
    given = {**dict(zip(names, args, strict=False)), **kwargs}
    match func.overloadpacket.__name__:
        case "convolution" if not given["transposed"]:
            kernel = given["weight"].shape[2:]
            options = (given["stride"], given["dilation"], given["padding"])
        case "max_pool2d_with_indices" | "avg_pool2d":
            kernel = given["kernel_size"]
            options = (given.get("stride") or kernel, given.get("dilation", 1), given.get("padding", 0))
        case "_adaptive_avg_pool2d" | "adaptive_max_pool2d":
            return [
                _adaptive_window(inside, outside)
                for inside, outside in zip(given["self"].shape[2:], _pair(given["output_size"]), strict=True)
            ]
        case _:
            return None
    return [Window(*values) for values in zip(*map(_pair, (kernel, *options)), strict=True)]


def _adaptive_window(inside: int, outside: int) -> Window:
    """The largest of an adaptive pooling's windows, which differ where the sizes do not divide."""
    largest = max(-(-(i + 1) * inside // outside) - i * inside // outside for i in range(outside))
    return Window(kernel=largest, stride=inside // outside)


def _pair(value: Any) -> tuple[int, int]:
    if isinstance(value, int):
        return value, value
    first, *others = value
    return (first, *others) if others else (first, first)
