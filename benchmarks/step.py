"""Time the parts of a training step, and implementations of the augmentation.

python -m benchmarks.step throughput --batch-sizes 512 --out benchmarks/results/throughput-cpu.json
python -m benchmarks.step throughput --recipe speedrun --batch-sizes 1000 --out throughput-speedrun-cpu.json
python -m benchmarks.step augmentation --rounds 20 --out benchmarks/results/augmentation-cpu.json
"""

from __future__ import annotations

import functools
import itertools
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from kornia import augmentation as kornia
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode
from torchvision.transforms import v2

from benchmarks.harness import (
    NOT_EMPTY,
    Block,
    Options,
    TrainingTiming,
    new_results,
    run_command,
    summarize,
    time_interleaved,
)
from fastcifar import get_recipe
from fastcifar.augment import CIFAR10_MEAN, CIFAR10_STD, PixelNormalize, RandomCutout, hflip
from fastcifar.checks import AT_LEAST_1, check
from fastcifar.config import TrainConfig
from fastcifar.models import model_from_config
from fastcifar.training.state import TrainState, create_state
from fastcifar.training.step import train_step

CEILING, FASTCIFAR, STEP = "matrix product", "fastcifar", "a step of era"


def amp_config(options: Options, batch_size: int, recipe: str = "era", **changes: Any) -> TrainConfig:
    """Return the configuration of a recipe with AMP, for this batch size, with changes to its settings."""
    options.runtime()
    shared: dict[str, Any] = {"data_dir": options.data_dir, "device": options.device, **changes}
    return get_recipe(recipe, batch_size=batch_size, amp=True, **shared)


@dataclass(frozen=True, kw_only=True)
class Throughput(TrainingTiming):
    """Time loader, augmentation, model step and whole step, in blocks of steps, in turn.

    The model step is zero_grad, forward, loss, backward and optimizer step on a batch that is already normalised; the
    whole step is the one that `fit` runs. FLOPs are two per multiply-add, counted by torch on the network, three times
    the forward pass for a step. The ceiling is a product of two square matrices on the same device, in the precision of
    the step. On a CPU without AMX, convolutions need fewer multiplications than torch counts, so that a step can be
    above the ceiling. The model step is also timed in float32 and contiguous memory format, PyTorch's defaults.
    """

    batch_sizes: tuple[int, ...] = (512,)
    """Images per step; each value is measured."""
    recipe: str = "era"
    """The recipe whose network and optimizer are timed, at full image size with nothing frozen."""
    steps: int = 2
    """Steps in a block."""
    matrix: int = 4096
    """Rows and columns of the matrices whose product gives the ceiling."""

    def __post_init__(self) -> None:
        super().__post_init__()
        check(self, batch_sizes=NOT_EMPTY, steps=AT_LEAST_1, matrix=AT_LEAST_1)


def throughput(options: Throughput) -> None:
    """Time the parts of a training step from the command line."""
    results = None
    for batch_size in options.batch_sizes:
        state = create_state(amp_config(options, batch_size, options.recipe, compile=options.compile))
        if results is None:
            settings = {"steps": options.steps, "rounds": options.rounds, "matrix": options.matrix}
            results = new_results("throughput", state.runtime, state.manifest, settings=settings)
        seconds, flops = _time_parts(state, options)
        for part, values in seconds.items():
            flop = {CEILING: 2 * options.matrix**3, "loader": 0, "augmentation": 0}.get(part, flops)
            results.runs.append(
                {
                    "recipe": options.recipe,
                    "batch_size": batch_size,
                    "part": part,
                    "seconds": summarize(values),
                    "flop": flop,
                }
            )
        results.write(options.out)


def _time_parts(whole: TrainState, options: Throughput) -> tuple[dict[str, list[float]], float]:
    """Seconds per step of each part in each round, and the FLOPs of one step."""
    model = create_state(whole.config, augmentation=nn.Identity())
    defaults = whole.config.replace(amp=False, channels_last=False, compile=False)
    plain = create_state(defaults, augmentation=nn.Identity())
    loader = create_state(whole.config).train_loader
    batches = (batch for epoch in itertools.count() for batch in whole.train_loader.batches(epoch))
    images, labels = next(batches)
    whole.classifier.train(False)
    normalized = whole.classifier.augmentation(images)
    contiguous = normalized.contiguous()
    square = torch.randn(options.matrix, options.matrix, device=images.device, dtype=whole.runtime.amp_dtype)
    for state in (whole, model, plain):
        state.classifier.train()

    def repeat(step: Callable[[], object]) -> Block:
        return lambda: deque((step() for _ in range(options.steps)), maxlen=0)

    blocks = {
        "loader": lambda: deque(loader.batches(), maxlen=0),
        CEILING: repeat(lambda: square @ square),
        "augmentation": repeat(lambda: whole.classifier.augmentation(images)),
        "model step": repeat(lambda: train_step(model, normalized, labels)),
        "whole step": repeat(lambda: train_step(whole, *next(batches))),
        "plain model step": repeat(lambda: train_step(plain, contiguous, labels)),
    }
    seconds = time_interleaved(blocks, rounds=options.rounds, runtime=whole.runtime)
    counted = model_from_config(whole.config.model, len(whole.manifest.class_names)).to("meta")
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        counted(normalized.to("meta", torch.float32))
    count = dict.fromkeys(blocks, options.steps) | {"loader": len(loader)}
    by_step = {name: [s / count[name] for s in values] for name, values in seconds.items()}
    return by_step, 3.0 * counter.get_total_flops()


class CropByOffset(nn.Module):
    """A random crop of a batch, padded by 4, as a loop over all offsets; each crops the images that drew this offset.

    Source: tysam-code/hlb-CIFAR10, KellerJordan/cifar10-airbench.
    """

    def forward(self, images: Tensor) -> Tensor:
        """Crop uint8 or float images [B, C, H, W]."""
        size, padded = images.shape[-1], F.pad(images, (4,) * 4)
        drawn = torch.randint(9, (2, len(images)), device=images.device)
        cropped = torch.empty_like(images)
        for row, column in itertools.product(range(9), repeat=2):
            chosen = (drawn[0] == row) & (drawn[1] == column)
            cropped[chosen] = padded[chosen, :, row : row + size, column : column + size]
        return hflip(cropped, torch.rand(len(images), device=images.device) < 0.5)


def other_implementations() -> dict[str, nn.Module]:
    """Return modules from uint8 images [B, 3, 32, 32] to float32 images of the same shape."""
    square: dict[str, Any] = {"p": 1.0, "scale": (1 / 16, 1 / 16), "ratio": (1.0, 1.0)}  # 8 × 8 of 32 × 32
    to_float, mean, std = v2.ToDtype(torch.float32, scale=True), CIFAR10_MEAN, CIFAR10_STD
    return {
        "Kornia's stock operations": nn.Sequential(
            to_float, kornia.RandomCrop((32, 32), padding=4), kornia.RandomHorizontalFlip(),
            kornia.Normalize(torch.tensor(mean), torch.tensor(std)), kornia.RandomErasing(**square),
        ),
        "torchvision v2, one draw per batch": nn.Sequential(
            v2.RandomCrop(32, padding=4), v2.RandomHorizontalFlip(), to_float, v2.Normalize(mean, std),
            v2.RandomErasing(**square),
        ),
        "a loop over the offsets of the crop": nn.Sequential(CropByOffset(), PixelNormalize(mean, std), RandomCutout()),
    }  # fmt: skip


def augmentation(options: TrainingTiming, batch_size: int = 512) -> None:
    """Time several implementations of the augmentation, batch by batch, and a step of `era`.

    Each turns a batch of uint8 images on the device into float images: crop after padding by 4, flip, normalise, set a
    square of 8 × 8 pixels to the mean. torchvision's transforms draw one random number for the whole batch, so they do
    less work than the others.

    Args:
        options: the options of every benchmark.
        batch_size: images per batch.
    """
    with create_state(amp_config(options, batch_size, compile=options.compile)) as state:
        images, labels = next(state.train_loader.batches())
        state.classifier.train()
        modules = {FASTCIFAR: state.classifier.augmentation, **other_implementations()}
        blocks: dict[str, Block] = {n: functools.partial(m.to(images.device), images) for n, m in modules.items()}
        blocks[STEP] = functools.partial(train_step, state, images, labels)
        seconds = time_interleaved(blocks, rounds=options.rounds, runtime=state.runtime)
        settings = {"batch_size": batch_size, "rounds": options.rounds}
        results = new_results("augmentation", state.runtime, state.manifest, settings=settings)
    results.runs = [{"part": name, "seconds": summarize(values)} for name, values in seconds.items()]
    results.write(options.out)


COMMANDS: dict[str, Callable[..., None]] = {"throughput": throughput, "augmentation": augmentation}

if __name__ == "__main__":
    run_command(COMMANDS, __doc__)
