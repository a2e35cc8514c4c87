"""The throughput of several data loaders, in images/s, and the time to their first batch, in one process.

    python -m benchmarks.loaders --source $FASTCIFAR_DATA --out benchmarks/results/loaders-cpu.json

Each ends with normalised, augmented float batches on the device: FFCV, streaming or cached on the device, with the
batched augmentation of `era`; and torchvision's DataLoader with the same steps (pad, crop, flip, normalise, erase
8 × 8) per image on the CPU, as most projects load. Epochs take turns. The first batch is timed from the start of an
epoch; the first epoch of each loader, which starts threads or processes and compiles, is recorded separately.
"""

from __future__ import annotations

import dataclasses
import itertools
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
from fastcifar import create_augmentation, create_loader
from fastcifar.augment import CIFAR10_MEAN, CIFAR10_STD
from fastcifar.data.loader import BetonLoader
from fastcifar.data.manifest import open_beton
from fastcifar.data.sources import open_source
from fastcifar.data.writer import write_beton
from fastcifar.device import Runtime, resolve_runtime
from fastcifar.runs.folder import describe_environment
from fastcifar.settings import RuntimeSettings

Batches = Iterable[torch.Tensor]
"""Normalised, augmented images [B, 3, 32, 32] on the device; each iteration over it is one epoch."""


@dataclass(frozen=True, kw_only=True)
class Loaders:
    """Compare FFCV, streaming and cached on the device, with torchvision's DataLoader."""

    source: str = "auto"
    """Source of the images, as in `fastcifar write-beton --source`."""
    device: str = "auto"
    """Device of the batches: 'cpu', 'cuda', …"""
    batch_size: int = 512
    """Images per batch."""
    rounds: int = 5
    """Epochs of each loader that are counted."""
    out: Path = RESULTS / "loaders.json"
    """The JSON to write."""


class Images(Dataset[tuple[torch.Tensor, int]]):
    """Images in memory, augmented on the CPU when they are indexed."""

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


class Augmented:
    """Batches of a BetonLoader, augmented on the device."""

    def __init__(self, loader: BetonLoader, augment: Callable[[torch.Tensor], torch.Tensor]) -> None:
        self._loader, self._augment = loader, augment
        self._epochs = itertools.count()

    def __iter__(self) -> Iterator[torch.Tensor]:
        return (self._augment(images) for images, _ in self._loader.batches(next(self._epochs)))


@dataclass(frozen=True)
class Moved:
    """Batches of a DataLoader, moved to the device."""

    loader: Iterable[tuple[torch.Tensor, torch.Tensor]]
    device: torch.device

    def __iter__(self) -> Iterator[torch.Tensor]:
        return (images.to(self.device, non_blocking=True) for images, _ in self.loader)


def main(settings: Loaders) -> None:
    runtime = resolve_runtime(RuntimeSettings(device=settings.device))
    source = open_source(settings.source)
    with tempfile.TemporaryDirectory() as folder:
        beton = Path(folder) / "train.beton"
        images, labels = source.train.images, source.train.labels
        write_beton(beton, images, labels, class_names=source.class_names, name=source.name)
        loaders = _create_loaders(beton, Images(images, labels), settings.batch_size, runtime)
        timings: dict[str, list[tuple[float, float]]] = {name: [] for name in loaders}
        for _ in range(settings.rounds + 1):
            for name, batches in loaders.items():
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


def _create_loaders(beton: Path, dataset: Images, batch_size: int, runtime: Runtime) -> dict[str, Batches]:
    augment = runtime.place(create_augmentation()).train()
    shared: dict[str, Any] = {"batch_size": batch_size, "train": True, "device": runtime.device}
    loaders: dict[str, Batches] = {
        "FFCV": Augmented(create_loader(beton, **shared), augment),
        "FFCV, cached on the device": Augmented(create_loader(beton, **shared, cache_on_device=True), augment),
    }
    for workers in (1, 2):
        loader = DataLoader(
            dataset, batch_size, shuffle=True, drop_last=True, num_workers=workers, persistent_workers=True,
            pin_memory=runtime.device.type == "cuda",
        )  # fmt: skip
        loaders[f"torchvision DataLoader, {workers} worker{'s' * (workers > 1)}"] = Moved(loader, runtime.device)
    return loaders


def _time_epoch(batches: Batches, runtime: Runtime) -> tuple[float, float]:
    """Seconds to the first and to the last batch of an epoch."""
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
