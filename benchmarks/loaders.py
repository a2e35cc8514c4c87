"""How many images a second each way of loading gives, and how long its first batch takes, in one run.

    python -m benchmarks.loaders --source $FASTCIFAR_DATA --out benchmarks/results/loaders-cpu.json

Each way ends with normalised, augmented float batches on the device: FFCV streaming and FFCV cache_on_device with the batched
augmentation of `era`, and torchvision's DataLoader with the same steps (pad, crop, flip, normalise, erase 8 × 8) image
by image on the CPU, as most trainers load. Epochs are timed in turn. The first batch is timed from the start of an
epoch; the first epoch of each, which starts threads or processes and compiles, is given apart.
"""

from __future__ import annotations

import dataclasses
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch.utils.data import DataLoader, Dataset
from torchvision import transforms

from benchmarks.common import RESULTS, run_command, summarize, write_results
from fastcifar import create_augmentation, create_loader, get_recipe
from fastcifar.augment import CIFAR10_MEAN, CIFAR10_STD
from fastcifar.data.manifest import open_beton
from fastcifar.data.writer import write_beton
from fastcifar.data.sources import open_source
from fastcifar.runs.folder import describe_environment
from fastcifar.device import Runtime, resolve_runtime

Batches = Iterable[torch.Tensor]
"""Normalised, augmented images [B, 3, 32, 32] on the device; an `iter()` is an epoch."""


@dataclass(frozen=True, kw_only=True)
class Loaders:
    """Compare FFCV, streaming and cache_on_device, with torchvision's DataLoader."""

    source: str = "auto"
    """As `fastcifar write-beton --source`."""
    device: str = "auto"
    """Where the batches go."""
    batch_size: int = 512
    """Images a batch."""
    rounds: int = 5
    """Epochs of each way that count."""
    out: Path = RESULTS / "loaders.json"
    """The JSON to write."""


class Images(Dataset[tuple[torch.Tensor, int]]):
    """Images in memory, each augmented on the CPU when it is asked for."""

    def __init__(self, images: npt.NDArray[np.uint8], labels: npt.NDArray[np.int64]) -> None:
        self._images, self._labels = images, labels
        self._transform = transforms.Compose(
            [
                transforms.ToPILImage(),
                transforms.RandomCrop(32, padding=4),
                transforms.RandomHorizontalFlip(),
                transforms.ToTensor(),
                transforms.Normalize(CIFAR10_MEAN, CIFAR10_STD),
                transforms.RandomErasing(p=1.0, scale=(1 / 16, 1 / 16), ratio=(1.0, 1.0)),  # 8 × 8 of 32 × 32
            ]
        )

    def __len__(self) -> int:
        return len(self._images)

    def __getitem__(self, index: int) -> tuple[torch.Tensor, int]:
        return self._transform(self._images[index]), int(self._labels[index])


@dataclass(frozen=True)
class Augmented:
    """Batches of a loader of uint8 images, augmented on the device."""

    loader: Iterable[tuple[torch.Tensor, torch.Tensor]]
    augment: Callable[[torch.Tensor], torch.Tensor]

    def __iter__(self) -> Iterator[torch.Tensor]:
        return (self.augment(images) for images, _ in self.loader)


@dataclass(frozen=True)
class Moved:
    """Batches of a DataLoader, moved to the device."""

    loader: Iterable[tuple[torch.Tensor, torch.Tensor]]
    device: torch.device

    def __iter__(self) -> Iterator[torch.Tensor]:
        return (images.to(self.device, non_blocking=True) for images, _ in self.loader)


def main(settings: Loaders) -> None:
    runtime = resolve_runtime(get_recipe("era", device=settings.device))
    source = open_source(settings.source)
    with tempfile.TemporaryDirectory() as folder:
        beton = Path(folder) / "train.beton"
        images, labels = source.train.images, source.train.labels
        write_beton(beton, images, labels, class_names=source.class_names, name=source.name)
        ways = _ways(beton, Images(images, labels), settings.batch_size, runtime)
        timings: dict[str, list[tuple[float, float]]] = {name: [] for name in ways}
        for _ in range(settings.rounds + 1):
            for name, batches in ways.items():
                timings[name].append(_time_epoch(batches, runtime))
        _, manifest = open_beton(beton)
    steps = len(labels) // settings.batch_size
    results: dict[str, Any] = {
        "benchmark": "loaders",
        **describe_environment(runtime, manifest),
        "settings": {k: v for k, v in dataclasses.asdict(settings).items() if k not in ("source", "out")},
        "runs": [_describe(name, times, steps * settings.batch_size) for name, times in timings.items()],
    }
    for run in results["runs"]:
        first = run["first_batch_seconds"]["median"]
        print(f"{run['part']:<36}{run['images_per_second']:>12,.0f} images/s, first batch {1e3 * first:.1f} ms")
    write_results(settings.out, results)


def _ways(beton: Path, dataset: Images, batch_size: int, runtime: Runtime) -> dict[str, Batches]:
    augment = runtime.place(create_augmentation()).train()
    shared: dict[str, Any] = {"batch_size": batch_size, "train": True, "device": runtime.device}
    ways: dict[str, Batches] = {
        "FFCV": Augmented(create_loader(beton, **shared), augment),
        "FFCV, cache_on_device": Augmented(create_loader(beton, **shared, cache_on_device=True), augment),
    }
    for workers in (1, 2):
        loader = DataLoader(
            dataset, batch_size, shuffle=True, drop_last=True, num_workers=workers, persistent_workers=True,
            pin_memory=runtime.device.type == "cuda",
        )  # fmt: skip
        ways[f"torchvision DataLoader, {workers} worker{'s' * (workers > 1)}"] = Moved(loader, runtime.device)
    return ways


def _time_epoch(batches: Batches, runtime: Runtime) -> tuple[float, float]:
    """Seconds to the first batch and to the last."""
    runtime.synchronize()
    start, first = time.perf_counter(), None
    for _ in batches:
        if first is None:
            runtime.synchronize()
            first = time.perf_counter() - start
    runtime.synchronize()
    assert first is not None
    return first, time.perf_counter() - start


def _describe(name: str, times: list[tuple[float, float]], images: int) -> dict[str, Any]:
    first, later = times[0], times[1:]
    epoch = summarize([seconds for _, seconds in later])
    return {
        "part": name,
        "seconds": epoch,
        "images_per_second": images / epoch["median"],
        "first_batch_seconds": summarize([seconds for seconds, _ in later]),
        "first_epoch": {"first_batch_seconds": first[0], "seconds": first[1]},
    }


if __name__ == "__main__":
    run_command(main, Loaders, __doc__)
