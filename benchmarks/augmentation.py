"""How long the augmentation of a batch takes, beside other ways of doing it, and what share it has in a step of `era`.

    python -m benchmarks.augmentation --out benchmarks/results/augmentation-cpu.json

Each way turns a batch of uint8 images on the device into float ones: crop after padding by 4, flip, normalise, set a
square of 8 × 8 to the mean. Batches are timed in turn. torchvision's transforms draw once for a whole batch, so they do
less than the others. On a GPU the kernels that a batch starts are counted too.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable
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

from benchmarks.common import RESULTS, Block, without_paths, run_command, summarize, time_interleaved, write_results
from fastcifar import get_recipe
from fastcifar.augment import CIFAR10_MEAN, CIFAR10_STD, PixelNormalize, RandomCutout, mirror
from fastcifar.runs.folder import describe_environment
from fastcifar.training.state import create_state
from fastcifar.training.step import train_step

OURS = "fastcifar"
STEP = "a step of era"


@dataclass(frozen=True, kw_only=True)
class AugmentationTimes:
    """Time ways of augmenting a batch."""

    betons: Path = Path("data/betons")
    """Folder with train.beton and test.beton."""
    device: str = "auto"
    """'cpu', 'cuda', …"""
    batch_size: int = 512
    """Images a batch."""
    compile: bool = False
    """Compile the network and our augmentation."""
    rounds: int = 20
    """Batches of each way, and steps, that count."""
    out: Path = RESULTS / "augmentation.json"
    """The JSON to write."""


class CropByOffset(nn.Module):
    """A random crop of a batch as a loop over the offsets, each of which cuts out the images that drew it.

    Source of the way: tysam-code/hlb-CIFAR10, KellerJordan/cifar10-airbench.
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
    """Mirror each image with probability one half."""

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return mirror(images, torch.rand(len(images), device=images.device) < 0.5)


def other_ways() -> dict[str, nn.Module]:
    """Each from uint8 [B, 3, 32, 32] to float32 of that shape."""
    square: dict[str, Any] = {"p": 1.0, "scale": (1 / 16, 1 / 16), "ratio": (1.0, 1.0)}  # 8 × 8 of 32 × 32
    return {
        "Kornia's stock operations": nn.Sequential(
            v2.ToDtype(torch.float32, scale=True),
            kornia.RandomCrop((32, 32), padding=4),
            kornia.RandomHorizontalFlip(),
            kornia.Normalize(torch.tensor(CIFAR10_MEAN), torch.tensor(CIFAR10_STD)),
            kornia.RandomErasing(**square),
        ),
        "torchvision v2, one draw a batch": nn.Sequential(
            v2.RandomCrop(32, padding=4),
            v2.RandomHorizontalFlip(),
            v2.ToDtype(torch.float32, scale=True),
            v2.Normalize(CIFAR10_MEAN, CIFAR10_STD),
            v2.RandomErasing(**square),
        ),
        "a loop over the crop's offsets": nn.Sequential(
            CropByOffset(), Flip(), PixelNormalize(CIFAR10_MEAN, CIFAR10_STD), RandomCutout()
        ),
    }


def main(settings: AugmentationTimes) -> None:
    config = get_recipe(
        "era", betons=settings.betons, device=settings.device, compile=settings.compile, amp=True,
        batch_size=settings.batch_size,
    )  # fmt: skip
    state = create_state(config)
    images, labels = next(iter(state.train_loader))
    state.classifier.train()
    ways = {OURS: state.classifier.augmentation}
    ways |= {name: way.to(state.runtime.device) for name, way in other_ways().items()}
    blocks: dict[str, Block] = {name: _on(way, images) for name, way in ways.items()}
    blocks[STEP] = lambda: _ignore(train_step(state, images, labels))
    seconds = time_interleaved(blocks, rounds=settings.rounds, runtime=state.runtime)
    kernels = {name: count_kernels(blocks[name]) for name in ways} if state.runtime.device.type == "cuda" else {}
    results = {
        "benchmark": "augmentation",
        **describe_environment(state.runtime, state.manifest),
        "config": without_paths(config),
        "settings": {"batch_size": settings.batch_size, "rounds": settings.rounds},
        "figures": derive(seconds),
        "runs": [
            {"part": name, "seconds": summarize(times), "kernels": kernels.get(name)} for name, times in seconds.items()
        ],
    }
    state.close()
    _print(results)
    write_results(settings.out, results)


def derive(seconds: dict[str, list[float]]) -> dict[str, Any]:
    """From medians: our augmentation's share of the step that it is in, and each other way's time by ours."""
    median = {name: statistics.median(values) for name, values in seconds.items()}
    others = {name: value / median[OURS] for name, value in median.items() if name not in (OURS, STEP)}
    return {"share_of_step": median[OURS] / median[STEP], "by_ours": others}


def count_kernels(block: Block) -> int:
    """Kernels that a piece of work starts on the GPU, copies and fills included."""
    from torch.autograd import DeviceType
    from torch.profiler import ProfilerActivity, profile

    with profile(activities=[ProfilerActivity.CPU, ProfilerActivity.CUDA]) as profiler:
        block()
        torch.cuda.synchronize()
    return sum(event.device_type == DeviceType.CUDA for event in profiler.events())


def _on(way: nn.Module, images: torch.Tensor) -> Callable[[], None]:
    return lambda: _ignore(way(images))


def _ignore(result: object) -> None:
    """What a block gives is not looked at."""


def _print(results: dict[str, Any]) -> None:
    table = Table("way", "ms a batch", "by ours", "kernels", title="Augmentation")
    for run in results["runs"]:
        ratio = results["figures"]["by_ours"].get(run["part"])
        table.add_row(
            run["part"],
            f"{1e3 * run['seconds']['median']:.3f}",
            "" if ratio is None else f"{ratio:.1f}",
            "" if run["kernels"] is None else str(run["kernels"]),
        )
    Console().print(table, f"share of the step: {results['figures']['share_of_step']:.2%}")


if __name__ == "__main__":
    run_command(main, AugmentationTimes, __doc__)
