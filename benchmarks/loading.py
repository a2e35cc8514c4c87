"""Time data loaders, writing and opening .beton files, and the start of commands.

python -m benchmarks.loading loaders --out benchmarks/results/loaders-cpu.json
python -m benchmarks.loading data --out benchmarks/results/data-cpu.json
python -m benchmarks.loading growth --out benchmarks/results/growth-cpu.json
python -m benchmarks.loading startup --out benchmarks/results/startup-cpu.json
"""

from __future__ import annotations

import itertools
import tempfile
import time
from collections import deque
from collections.abc import Callable, Iterable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.utils.data import DataLoader, TensorDataset
from torchvision.transforms import v2

from benchmarks.harness import (
    Block,
    Timing,
    TrainingTiming,
    new_results,
    run_command,
    run_in_subprocess,
    show_progress,
    summarize,
    time_interleaved,
    timed,
)
from fastcifar import create_augmentation, create_loader
from fastcifar.augment import CIFAR10_MEAN, CIFAR10_STD
from fastcifar.data.decode_all import decode_all
from fastcifar.data.manifest import open_beton
from fastcifar.data.writer import write_beton
from fastcifar.device import Runtime
from fastcifar.settings import LoaderKind

ON_THE_CPU = v2.Compose(
    [
        v2.RandomCrop(32, padding=4), v2.RandomHorizontalFlip(), v2.ToDtype(torch.float32, scale=True),
        v2.Normalize(CIFAR10_MEAN, CIFAR10_STD), v2.RandomErasing(p=1.0, scale=(1 / 16, 1 / 16), ratio=(1.0, 1.0)),
    ]
)  # fmt: skip
"""The augmentation of `era` for one image: pad, crop, flip, normalise, erase 8 × 8 pixels."""


class Augmented(TensorDataset):
    """Images in memory, augmented on the CPU when they are indexed."""

    def __getitem__(self, index: int) -> tuple[torch.Tensor, ...]:
        images, labels = self.tensors
        return ON_THE_CPU(images[index]), labels[index]


def loaders(options: Timing, batch_size: int = 512) -> None:
    """Time epochs of data loaders, in turn; each ends with normalised, augmented float batches on the device.

    FFCV, streaming or cached on the device, and the memory map, with the batched augmentation of `era`; and
    torchvision's transforms in a DataLoader, per image on the CPU, as most projects load. The first batch is timed from
    the start of an epoch; the first epoch, which starts threads or processes and compiles, is recorded separately.

    Args:
        options: the options of every benchmark.
        batch_size: images per batch.
    """
    runtime, beton = options.runtime(), options.data_dir / "train.beton"
    augment, epochs = runtime.place(create_augmentation()).train(), itertools.count()
    images, labels = (torch.from_numpy(array) for array in decode_all(beton))
    dataset = Augmented(images.permute(0, 3, 1, 2), labels)

    def ours(kind: LoaderKind, *, cached: bool = False) -> Callable[[], Iterable[Any]]:
        shared: dict[str, Any] = {"batch_size": batch_size, "train": True, "device": runtime.device}
        loader = create_loader(beton, loader=kind, cache_on_device=cached, **shared)
        return lambda: (augment(batch) for batch, _ in loader.batches(next(epochs)))

    def torchvision(workers: int) -> Callable[[], Iterable[Any]]:
        pin = runtime.device.type == "cuda"
        fixed: dict[str, Any] = {"shuffle": True, "drop_last": True, "persistent_workers": True, "pin_memory": pin}
        loader = DataLoader(dataset, batch_size, num_workers=workers, **fixed)
        return lambda: (batch.to(runtime.device, non_blocking=True) for batch, _ in loader)

    starts = {
        "FFCV": ours("ffcv"),
        "memory map, without FFCV": ours("memmap"),
        "FFCV, cached on the device": ours("ffcv", cached=True),
        "torchvision DataLoader, 1 worker": torchvision(1),
        "torchvision DataLoader, 2 workers": torchvision(2),
    }
    rounds = []
    for number in range(options.rounds + 1):
        show_progress("timing epochs", number, options.rounds + 1, "rounds")
        rounds.append({name: _time_epoch(start, runtime) for name, start in starts.items()})
    settings = {"batch_size": batch_size, "rounds": options.rounds}
    results = new_results("loaders", runtime, open_beton(beton)[1], settings=settings)
    for name in starts:
        first, *later = (times[name] for times in rounds)
        seconds, first_batch = (summarize(list(values)) for values in zip(*((b, a) for a, b in later), strict=True))
        run = {
            "part": name,
            "seconds": seconds,
            "first_batch_seconds": first_batch,
            "first_epoch": {"seconds": first[1]},
        }
        results.runs.append({**run, "images_per_second": len(labels) // batch_size * batch_size / seconds["median"]})
    results.write(options.out)


def _time_epoch(start_epoch: Callable[[], Iterable[Any]], runtime: Runtime) -> tuple[float, float]:
    """Seconds to the first and to the last batch of an epoch."""
    start = time.perf_counter()
    batches = iter(start_epoch())
    first = timed(lambda: next(batches), runtime)
    timed(lambda: deque(batches, maxlen=0), runtime)
    return first, time.perf_counter() - start


def writers(folder: Path, data_dir: Path, **counts: int | None) -> dict[str, Block]:
    """Return functions by split that write copies of .beton files, cut or repeated to the given number of images."""
    functions: dict[str, Block] = {}
    for split, count in counts.items():
        images, labels = decode_all(data_dir / f"{split}.beton")
        _, manifest = open_beton(data_dir / f"{split}.beton")
        rows = np.arange(count or len(labels)) % len(labels)
        write = partial(write_beton, folder / f"{split}.beton", images[rows], labels[rows], name=manifest.name)
        functions[split] = partial(write, class_names=manifest.class_names)
    return functions


def data(options: Timing) -> None:
    """Time writing .beton files with their manifests, opening them, and loading epochs of uint8 batches.

    Writing goes from images in memory to verified files. The first epoch compiles FFCV's decoder.
    """
    runtime, beton = options.runtime(), options.data_dir / "train.beton"
    index, manifest = open_beton(beton)
    shared: dict[str, Any] = {"batch_size": min(512, index.samples), "train": True, "device": runtime.device}
    loaders = [create_loader(beton, **shared) for _ in range(options.rounds + 1)]
    unused, epochs = iter(loaders), itertools.count(1)
    with tempfile.TemporaryDirectory() as folder:
        write = writers(Path(folder), options.data_dir, train=None, test=None)
        blocks: dict[str, Block] = {
            "write 50,000 and 10,000 images": lambda: [split() for split in write.values()],
            "write the training images": write["train"],
            "open, with a check of the hash": partial(open_beton, beton),
            "the first epoch": lambda: deque(next(unused).batches(), maxlen=0),
            "a later epoch": lambda: deque(loaders[0].batches(next(epochs)), maxlen=0),
        }
        seconds = time_interleaved(blocks, rounds=options.rounds, runtime=runtime)
    results = new_results("data", runtime, manifest)
    results.runs = [{"part": name, "seconds": summarize(values)} for name, values in seconds.items()]
    results.write(options.out)


TO_THE_FIRST_STEP = """
import os, sys
from fastcifar.cli import main
from fastcifar.training import loop
loop.train_epoch = lambda *_, **__: os._exit(0)
sys.exit(main(sys.argv[1:]) or "no training step was reached")
"""


def startup(options: TrainingTiming, recipes: tuple[str, ...] = ("era", "speedrun")) -> None:
    """Time the start of commands in new processes, in turn: `--help`, and `train` until its first training step.

    When the first step of a training begins, it has read and checked its files, created its network and compiled it;
    the process ends there.

    Args:
        options: the options of every benchmark.
        recipes: recipes whose training is started.
    """
    runtime, (_, manifest) = options.runtime(), open_beton(options.data_dir / "train.beton")
    arguments = [
        "--data-dir",
        str(options.data_dir),
        "--device",
        options.device,
        "--amp",
        *["--compile"] * options.compile,
    ]
    with tempfile.TemporaryDirectory() as name:
        folders = (f"{name}/{number}" for number in itertools.count())

        def train(recipe: str) -> str:
            chosen = ["--recipe", recipe, "--run-dir", next(folders)]
            return run_in_subprocess(["-c", TO_THE_FIRST_STEP, "train", *arguments, *chosen])

        blocks: dict[str, Block] = {"fastcifar --help": partial(run_in_subprocess, ["-m", "fastcifar", "--help"])}
        blocks |= {f"fastcifar train --recipe {recipe}": partial(train, recipe) for recipe in recipes}
        seconds = time_interleaved(blocks, rounds=options.rounds, runtime=runtime)
    settings = {"rounds": options.rounds, "compile": options.compile}
    results = new_results("startup", runtime, manifest, settings=settings)
    results.runs = [{"command": name, "seconds": summarize(values)} for name, values in seconds.items()]
    results.write(options.out)


COMMANDS: dict[str, Callable[..., None]] = {"loaders": loaders, "data": data, "startup": startup}

if __name__ == "__main__":
    run_command(COMMANDS, __doc__)
