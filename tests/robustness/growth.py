"""Growth of time and memory with the number of images and with the batch size.

python -m tests.robustness.growth images --out benchmarks/results/growth-cpu.json
python -m tests.robustness.growth batches --out benchmarks/results/batches-cpu.json
"""

from __future__ import annotations

import functools
import json
import statistics
import sys
import tempfile
from collections.abc import Callable, Iterable
from functools import partial
from pathlib import Path
from typing import Any

import torch

from benchmarks.harness import Timing, new_results, run_command, run_in_subprocess, timed
from benchmarks.loading import writers
from benchmarks.step import amp_config
from fastcifar import create_augmentation, create_loader
from fastcifar.data.manifest import open_beton
from fastcifar.machine import anonymous_bytes, peak_memory_bytes
from fastcifar.training.state import create_state
from fastcifar.training.step import train_step


def growth(
    options: Timing, images: tuple[int, ...] = (5_000, 15_000, 50_000, 150_000, 500_000), least: int = 100_000
) -> None:
    """Time epochs of loading and augmentation with more and more images, in new processes, and read their memory.

    The training set, cut or repeated, is written to .beton files of several sizes. The anonymous memory (RssAnon) is
    what a process allocated, without mapped files.

    Args:
        options: the options of every benchmark.
        images: sizes of the training set.
        least: images that a process loads while it is timed, in as many epochs as necessary.
    """
    runtime, (_, manifest) = options.runtime(), open_beton(options.data_dir / "train.beton")
    measured: dict[int, list[dict[str, Any]]] = {count: [] for count in images}
    with tempfile.TemporaryDirectory() as name:
        for count in images:
            writers(Path(name, str(count)), options.data_dir, train=count)["train"]()
        for count in [*images] * options.rounds:
            arguments = [f"{name}/{count}/train.beton", options.device, str(least)]
            printed = run_in_subprocess(["-m", "tests.robustness.growth", "--one-size", *arguments])
            measured[count].append(json.loads(printed.splitlines()[-1]))
    settings = {"images": list(images), "rounds": options.rounds, "least": least}
    results = new_results("growth", runtime, manifest, settings=settings)
    for count, each in measured.items():
        middle = {key: statistics.median(run[key] for run in each) for key in ("seconds", "anonymous_bytes")}
        results.runs.append({"images": count, **middle, "all": each})
    results.write(options.out)


def _time_one_size(beton: str, device: str, least: str) -> None:
    runtime = Timing(device=device).runtime()
    augment = runtime.place(create_augmentation()).train()
    loader = create_loader(beton, batch_size=512, train=True, device=runtime.device, verify=False)
    epochs = -(-int(least) // loader.samples)

    def train(numbers: Iterable[int]) -> None:
        for number in numbers:
            for images, _ in loader.batches(number):
                augment(images)

    train([0])  # compiles, and maps the file's pages
    seconds = timed(partial(train, range(1, 1 + epochs)), runtime) / epochs
    print(json.dumps({"seconds": seconds, "anonymous_bytes": anonymous_bytes()}))


def batches(options: Timing, sizes: tuple[int, ...] = (128, 256, 512, 1024, 2048)) -> None:
    """Time training steps of `era` with larger and larger batches, each in a new process, and read its peak memory.

    Args:
        options: the options of every benchmark.
        sizes: images per step.
    """
    with create_state(amp_config(options, min(sizes))) as state:
        results = new_results("batches", state.runtime, state.manifest, settings={"rounds": options.rounds})
    for size in sizes:
        arguments = [str(options.data_dir), options.device, str(size), str(options.rounds)]
        printed = run_in_subprocess(["-m", "tests.robustness.growth", "--one-batch-size", *arguments])
        results.runs.append({"batch_size": size, **json.loads(printed.splitlines()[-1])})
    results.write(options.out)


def _time_one_batch_size(data_dir: str, device: str, size: str, rounds: str) -> None:
    batch, options = int(size), Timing(device=device)
    state = create_state(amp_config(options, batch).replace(data_dir=data_dir, verify=False))
    images = torch.randint(0, 256, (batch, 32, 32, 3), dtype=torch.uint8).permute(0, 3, 1, 2).to(state.runtime.device)
    labels = torch.randint(0, 10, (batch,), device=images.device)
    state.classifier.train()
    step = functools.partial(train_step, state, images, labels)
    seconds = [timed(step, state.runtime) for _ in range(int(rounds) + 1)][1:]
    memory = torch.cuda.max_memory_allocated(images.device) if images.is_cuda else peak_memory_bytes()
    median = statistics.median(seconds)
    run = {"seconds": median, "all_seconds": seconds, "images_per_second": batch / median, "peak_bytes": memory}
    print(json.dumps(run))


COMMANDS: dict[str, Callable[..., None]] = {"images": growth, "batches": batches}

if __name__ == "__main__":
    if sys.argv[1:2] == ["--one-size"]:
        _time_one_size(*sys.argv[2:])
    elif sys.argv[1:2] == ["--one-batch-size"]:
        _time_one_batch_size(*sys.argv[2:])
    else:
        run_command(COMMANDS, __doc__)
