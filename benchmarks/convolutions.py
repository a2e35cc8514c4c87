"""Time each 3 × 3 convolution of a recipe on the CPU, by every algorithm that can compute it.

python -m benchmarks.convolutions speedrun era-fast --out benchmarks/results/convolutions-cpu.json
"""

from __future__ import annotations

import functools
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Annotated, Any, NamedTuple

import torch
import torch.nn.functional as F
import tyro
from torch import Tensor, nn

from benchmarks.harness import Timing, new_results, run_command, summarize, time_interleaved
from fastcifar import get_recipe
from fastcifar.checks import AT_LEAST_1, check
from fastcifar.config import TrainConfig
from fastcifar.data.manifest import Manifest, open_beton
from fastcifar.device import Runtime, resolve_runtime
from fastcifar.errors import ConfigError
from fastcifar.machine import bfloat16_unit
from fastcifar.models import model_from_config
from fastcifar.models.ops import conv3x3
from fastcifar.models.ops.conv3x3 import Algorithm, Conv3x3, select_algorithm
from fastcifar.models.ops.winograd import conv3x3_winograd, is_supported

TORCH, WINOGRAD, PACKED, MATMUL = "torch", "Winograd", "packed", "matrix product"
ALGORITHMS: dict[str, Algorithm] = {
    TORCH: functools.partial(F.conv2d, padding=1),
    WINOGRAD: conv3x3_winograd,
    PACKED: conv3x3.conv3x3_packed,
    MATMUL: conv3x3.conv3x3_as_matmul,
}


class Layer(NamedTuple):
    """A convolution of a network."""

    inputs: int
    outputs: int
    height: int
    width: int


@dataclass(frozen=True, kw_only=True)
class Convolutions(Timing):
    """Time forward and backward pass of each 3 × 3 convolution, by every algorithm that can compute it, in turn."""

    recipes: Annotated[tuple[str, ...], tyro.conf.Positional] = ("speedrun", "era-fast")
    """Recipes by name; their convolutions are timed at every image size of the training."""
    batch_size: int = 500
    """Images per batch."""

    def __post_init__(self) -> None:
        super().__post_init__()
        check(self, batch_size=AT_LEAST_1)


def main(options: Convolutions) -> None:
    """Time the convolutions from the command line.

    Raises:
        ConfigError: the device is not the CPU.
    """
    options.runtime()
    configs = [get_recipe(name, device=options.device, data_dir=options.data_dir, amp=True) for name in options.recipes]
    _, manifest = open_beton(options.data_dir / "train.beton")
    runtime = resolve_runtime(configs[0].runtime)
    if runtime.device.type != "cpu":
        raise ConfigError(f"device is {options.device}; it must be cpu: other devices use torch's convolutions alone")
    settings = {"batch_size": options.batch_size, "rounds": options.rounds}
    results = new_results("convolutions", runtime, manifest, settings=settings)
    for config in configs:
        for size, layer in find_layers(config, manifest):
            place = {"recipe": config.name, "image_size": size, **layer._asdict()}
            results.runs += [place | run for run in _time(layer, options, runtime)]
            results.write(options.out)


def find_layers(config: TrainConfig, manifest: Manifest) -> Iterator[tuple[int, Layer]]:
    """Yield the different convolutions at each image size of a training, and the size."""
    height, _, channels = manifest.image_shape
    model, found = model_from_config(config.model, len(manifest.class_names)).to("meta"), dict[Layer, None]()

    def add(module: nn.Module, arguments: tuple[Tensor, ...]) -> None:
        assert isinstance(module, Conv3x3)
        found[Layer(module.in_channels, module.out_channels, *arguments[0].shape[2:])] = None

    for module in model.modules():
        if isinstance(module, Conv3x3):
            module.register_forward_pre_hook(add)
    for size in (*config.resize.resize_sizes, height):
        found.clear()
        model(torch.empty(2, channels, size, size, device="meta"))
        yield from ((size, layer) for layer in found)


def _time(layer: Layer, options: Convolutions, runtime: Runtime) -> Iterator[dict[str, Any]]:
    """Yield the seconds, the operations and the error of each algorithm for a layer."""
    dtype, (inputs, outputs, height, width) = runtime.amp_dtype or torch.float32, layer
    shapes = (
        (options.batch_size, inputs, height, width),
        (outputs, inputs, 3, 3),
        (options.batch_size, outputs, height, width),
    )
    tensors = images, *_ = [
        torch.randn(shape).to(dtype).contiguous(memory_format=torch.channels_last) for shape in shapes
    ]
    with runtime.autocast():
        chosen = select_algorithm(images, dtype, outputs, bfloat16_unit()) or ALGORITHMS[TORCH]
    exact = _outputs_and_gradients(ALGORITHMS[TORCH], *(tensor.float() for tensor in tensors))
    possible = (name for name in ALGORITHMS if is_possible(name, images, outputs))
    blocks = {name: functools.partial(_outputs_and_gradients, ALGORITHMS[name], *tensors) for name in possible}
    for name, seconds in time_interleaved(blocks, rounds=options.rounds, runtime=runtime).items():
        errors = [_error(*pair) for pair in zip(blocks[name](), exact, strict=True)]
        fields = {"chosen": ALGORITHMS[name] is chosen, "flop": 3 * 2 * images.numel() * outputs * 9, "errors": errors}
        yield {"algorithm": name, "seconds": summarize(seconds), **fields}


def is_possible(name: str, images: Tensor, outputs: int) -> bool:
    """Whether an algorithm can convolve images [B, C, H, W]."""
    side = max(images.shape[2:])
    if name == MATMUL:
        return side <= conv3x3.MATMUL_MAX_SIDE
    return name != WINOGRAD or (side > conv3x3.MATMUL_MAX_SIDE and is_supported(images, images.dtype, outputs))


def _outputs_and_gradients(convolve: Algorithm, images: Tensor, weight: Tensor, gradient: Tensor) -> tuple[Tensor, ...]:
    images, weight = images.detach().requires_grad_(), weight.detach().requires_grad_()
    outputs = convolve(images, weight)
    return outputs.detach(), *torch.autograd.grad(outputs, (images, weight), gradient)


def _error(result: Tensor, exact: Tensor) -> float:
    """The root mean square error, relative to the root mean square."""
    return float((result.float() - exact).norm() / exact.norm())


if __name__ == "__main__":
    run_command(main, __doc__)
