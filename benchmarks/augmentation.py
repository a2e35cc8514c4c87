"""The time that the augmentation of a batch takes, compared with other implementations and with a step of `era`.

    python -m benchmarks.augmentation --out benchmarks/results/augmentation-cpu.json

Each implementation turns a batch of uint8 images on the device into float images: crop after padding by 4, flip,
normalise, set a square of 8 × 8 pixels to the mean. The implementations take turns, batch by batch. torchvision's
transforms draw one random number for the whole batch, so they do less work than the others. On a GPU the kernels per
batch are counted as well.
"""

from __future__ import annotations

import functools
import statistics
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from kornia import augmentation as kornia
from rich.console import Console
from rich.table import Table
from torch import nn
from torchvision.transforms import v2

from benchmarks.common import RESULTS, Block, run_command, summarize, time_interleaved, without_paths, write_results
from fastcifar import get_recipe
from fastcifar.augment import CIFAR10_MEAN, CIFAR10_STD, PixelNormalize, RandomCutout, hflip
from fastcifar.runs.folder import describe_environment
from fastcifar.training.state import create_state
from fastcifar.training.step import train_step

FASTCIFAR = "fastcifar"
STEP = "a step of era"


@dataclass(frozen=True, kw_only=True)
class AugmentationTimes:
    """Time several implementations of the augmentation."""

    data_dir: Path = Path("data/betons")
    """Folder with train.beton and test.beton."""
    device: str = "auto"
    """'cpu', 'cuda', …"""
    batch_size: int = 512
    """Images per batch."""
    compile: bool = False
    """Compile the network and fastcifar's augmentation."""
    rounds: int = 20
    """Batches per implementation, and steps, that are counted."""
    out: Path = RESULTS / "augmentation.json"
    """The JSON to write."""


class CropByOffset(nn.Module):
    """A random crop of a batch as a loop over all offsets; each iteration crops the images that drew this offset.

    Source: tysam-code/hlb-CIFAR10, KellerJordan/cifar10-airbench.
    """

    def __init__(self, padding: int = 4) -> None:
        super().__init__()
        self.padding = padding

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        size, offsets = images.shape[-1], 2 * self.padding + 1
        padded = F.pad(images, (self.padding,) * 4)
        drawn = torch.randint(offsets, (2, len(images)), device=images.device)
        cropped = torch.empty_like(images)
        for row in range(offsets):
            for column in range(offsets):
                chosen = (drawn[0] == row) & (drawn[1] == column)
                cropped[chosen] = padded[chosen, :, row : row + size, column : column + size]
        return cropped


class Flip(nn.Module):
    """Flip each image horizontally with probability one half."""

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return hflip(images, torch.rand(len(images), device=images.device) < 0.5)


def other_implementations() -> dict[str, nn.Module]:
    """Modules from uint8 images [B, 3, 32, 32] to float32 images of the same shape."""
    square: dict[str, Any] = {"p": 1.0, "scale": (1 / 16, 1 / 16), "ratio": (1.0, 1.0)}  # 8 × 8 of 32 × 32
    return {
        "Kornia's stock operations": nn.Sequential(
            v2.ToDtype(torch.float32, scale=True),
            kornia.RandomCrop((32, 32), padding=4),
            kornia.RandomHorizontalFlip(),
            kornia.Normalize(torch.tensor(CIFAR10_MEAN), torch.tensor(CIFAR10_STD)),
            kornia.RandomErasing(**square),
        ),
        "torchvision v2, one draw per batch": nn.Sequential(
            v2.RandomCrop(32, padding=4),
            v2.RandomHorizontalFlip(),
            v2.ToDtype(torch.float32, scale=True),
            v2.Normalize(CIFAR10_MEAN, CIFAR10_STD),
            v2.RandomErasing(**square),
        ),
        "a loop over the offsets of the crop": nn.Sequential(
            CropByOffset(), Flip(), PixelNormalize(CIFAR10_MEAN, CIFAR10_STD), RandomCutout()
        ),
    }


def main(settings: AugmentationTimes) -> None:
    config = get_recipe(
        "era", data_dir=settings.data_dir, device=settings.device, compile=settings.compile, amp=True,
        batch_size=settings.batch_size,
    )  # fmt: skip
    state = create_state(config)
    images, labels = next(state.train_loader.batches())
    state.classifier.train()
    modules = {FASTCIFAR: state.classifier.augmentation}
    modules |= {name: module.to(state.runtime.device) for name, module in other_implementations().items()}
    blocks: dict[str, Block] = {name: functools.partial(module, images) for name, module in modules.items()}
    blocks[STEP] = functools.partial(train_step, state, images, labels)
    seconds = time_interleaved(blocks, rounds=settings.rounds, runtime=state.runtime)
    kernels = {name: count_kernels(blocks[name]) for name in modules} if state.runtime.device.type == "cuda" else {}
    results = {
        "benchmark": "augmentation",
        **describe_environment(state.runtime, state.manifest),
        "config": without_paths(config),
        "settings": {"batch_size": settings.batch_size, "rounds": settings.rounds},
        "figures": summarize_runs(seconds),
        "runs": [
            {"part": name, "seconds": summarize(times), "kernels": kernels.get(name)} for name, times in seconds.items()
        ],
    }
    state.close()
    _print(results)
    write_results(settings.out, results)


def summarize_runs(seconds: dict[str, list[float]]) -> dict[str, Any]:
    """From medians: the augmentation's fraction of a step, and the time of the others relative to fastcifar's."""
    median = {name: statistics.median(values) for name, values in seconds.items()}
    others = {name: value / median[FASTCIFAR] for name, value in median.items() if name not in (FASTCIFAR, STEP)}
    return {"fraction_of_step": median[FASTCIFAR] / median[STEP], "relative_to_fastcifar": others}


def count_kernels(block: Block) -> int:
    """GPU kernels that a block launches, including copies and fills."""
    from torch.autograd import DeviceType
    from torch.profiler import ProfilerActivity, profile

    with profile(activities=[ProfilerActivity.CPU, ProfilerActivity.CUDA]) as profiler:
        block()
        torch.cuda.synchronize()
    return sum(event.device_type == DeviceType.CUDA for event in profiler.events())


def _print(results: dict[str, Any]) -> None:
    table = Table("augmentation", "ms per batch", "relative to fastcifar", "kernels", title="Augmentation")
    for run in results["runs"]:
        ratio = results["figures"]["relative_to_fastcifar"].get(run["part"])
        table.add_row(
            run["part"],
            f"{1e3 * run['seconds']['median']:.3f}",
            "" if ratio is None else f"{ratio:.1f}",
            "" if run["kernels"] is None else str(run["kernels"]),
        )
    Console().print(table, f"fraction of a step: {results['figures']['fraction_of_step']:.2%}")


if __name__ == "__main__":
    run_command(main, AugmentationTimes, __doc__)
