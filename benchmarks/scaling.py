"""Growth of time and memory with the number of images and with the batch size.

    python -m benchmarks.scaling --source $FASTCIFAR_DATA --out benchmarks/results/scaling-cpu.json

Images: the training set, cut or repeated, is written to .beton files of several sizes. New processes, one per size in
turn, run epochs of loading and augmentation, at least 100,000 images each, and read their anonymous memory (RssAnon:
memory that the process allocated, without mapped files). The main results are the exponent with which the time grows
with the number of images, and the growth of the memory from the fewest to the most images.
Batch size: a new process runs training steps of `era`.
"""

from __future__ import annotations

import dataclasses
import json
import statistics
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.common import RESULTS, run_command, run_in_subprocess, write_results
from fastcifar import create_augmentation, create_loader, get_recipe
from fastcifar.data.images import Source
from fastcifar.data.manifest import open_beton
from fastcifar.data.sources import open_source
from fastcifar.data.writer import write_beton
from fastcifar.device import apply_process_settings, resolve_runtime
from fastcifar.machine import anonymous_bytes, peak_memory_bytes
from fastcifar.runs.folder import describe_environment
from fastcifar.settings import RuntimeSettings
from fastcifar.training.state import create_state
from fastcifar.training.step import train_step


@dataclass(frozen=True, kw_only=True)
class Scaling:
    """Measure epochs with more and more images, and steps with larger and larger batches."""

    source: str = "auto"
    """Source of the images, as in `fastcifar write-beton --source`."""
    device: str = "auto"
    """Device of the batches: 'cpu', 'cuda', …"""
    images: tuple[int, ...] = (5_000, 15_000, 50_000, 150_000, 500_000)
    """Sizes of the training set."""
    batches: tuple[int, ...] = (128, 256, 512, 1024, 2048)
    """Images per step."""
    rounds: int = 5
    """Processes per number of images; steps per batch size that are counted."""
    least_images: int = 100_000
    """Images that a process loads while it is timed, in as many epochs as necessary."""
    out: Path = RESULTS / "scaling.json"
    """The JSON to write."""


def main(settings: Scaling) -> None:
    runtime = resolve_runtime(RuntimeSettings(device=settings.device))
    source = open_source(settings.source)
    runs: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for count in settings.images:
            _write(folder / str(count), source, count)
        parts: dict[int, list[dict[str, Any]]] = {count: [] for count in settings.images}
        for _ in range(settings.rounds):
            for count, measured in parts.items():
                measured.append(
                    _in_subprocess("epochs", folder / str(count), 512, settings.device, settings.least_images)
                )
        for count, measured in parts.items():
            middle = {key: statistics.median(each[key] for each in measured) for key in measured[0]}
            runs.append({"images": count, **middle, "all": measured})
            print(runs[-1], flush=True)
        _write(folder, source, max(len(source.train.labels), *settings.batches))
        for batch in settings.batches:
            runs.append(
                {
                    "batch_size": batch,
                    **_in_subprocess("steps", folder, batch, settings.device, settings.rounds),
                }
            )
            print(runs[-1], flush=True)
        _, manifest = open_beton(folder / "train.beton")
    results = {
        "benchmark": "scaling",
        **describe_environment(runtime, manifest),
        "settings": {k: v for k, v in dataclasses.asdict(settings).items() if k not in ("source", "out")},
        "figures": summarize_runs([run for run in runs if "images" in run]),
        "runs": runs,
    }
    write_results(settings.out, results)


def summarize_runs(runs: list[dict[str, Any]]) -> dict[str, float]:
    """Deviation of the time from linear growth, and of the memory from constant size.

    The time grows with the number of images to the power of `exponent`, the slope of a line through the logarithms.
    `largest_deviation` is the largest difference between a size's seconds and a line through all sizes, relative to the
    line. `memory_growth` is the increase of the anonymous memory from the fewest to the most images, relative to the
    former.
    """
    counts = np.array([run["images"] for run in runs], dtype=np.float64)
    seconds = np.array([run["seconds"] for run in runs])
    slope, start = np.polyfit(counts, seconds, 1, w=1 / counts)
    exponent, _ = np.polyfit(np.log(counts), np.log(seconds), 1)
    memory = [run["anonymous_bytes"] for run in runs]
    return {
        "exponent": float(exponent),
        "seconds_per_image": float(slope),
        "seconds_at_start": float(start),
        "largest_deviation": float(np.abs(seconds / (start + slope * counts) - 1).max()),
        "memory_growth": memory[-1] / memory[0] - 1,
    }


def _write(folder: Path, source: Source, count: int) -> None:
    rows = np.arange(count) % len(source.train.labels)
    for split in ("train", "test"):
        chosen = rows if split == "train" else rows[:100]
        write_beton(
            folder / f"{split}.beton", source.train.images[chosen], source.train.labels[chosen],
            class_names=source.class_names, name=source.name,
        )  # fmt: skip


def _in_subprocess(work: str, folder: Path, batch: int, device: str, amount: int) -> dict[str, Any]:
    """Run `_epochs` or `_steps` in a new process."""
    printed = run_in_subprocess(["-m", "benchmarks.scaling", work, str(folder), str(batch), device, str(amount)])
    return dict(json.loads(printed.splitlines()[-1]))


def _epochs(folder: Path, batch: int, device: str, least_images: int) -> dict[str, Any]:
    runtime = resolve_runtime(RuntimeSettings(device=device))
    augment = runtime.place(create_augmentation()).train()
    with create_loader(
        folder / "train.beton", batch_size=batch, train=True, device=runtime.device, verify=False
    ) as loader:
        epochs = -(-least_images // loader.samples)
        for number in range(1 + epochs):
            if number == 1:  # the first compiles, and maps the file's pages
                start = time.perf_counter()
            for images, _ in loader.batches(number):
                augment(images)
            runtime.synchronize()
        seconds = (time.perf_counter() - start) / epochs
    return {"seconds": seconds, "anonymous_bytes": anonymous_bytes()}


def _steps(folder: Path, batch: int, device: str, rounds: int) -> dict[str, Any]:
    state = create_state(get_recipe("era", data_dir=folder, batch_size=batch, device=device, amp=True, verify=False))
    images = torch.randint(0, 256, (batch, 32, 32, 3), dtype=torch.uint8).permute(0, 3, 1, 2).to(state.runtime.device)
    labels = torch.randint(0, 10, (batch,), device=state.runtime.device)
    state.classifier.train()
    seconds = []
    for step in range(rounds + 1):
        start = time.perf_counter()
        train_step(state, images, labels, step)
        state.runtime.synchronize()
        seconds.append(time.perf_counter() - start)
    median = statistics.median(seconds[1:])
    memory = peak_memory_bytes()
    if state.runtime.device.type == "cuda":
        memory = torch.cuda.max_memory_allocated(state.runtime.device)
    return {"seconds": median, "all_seconds": seconds[1:], "images_per_second": batch / median, "peak_bytes": memory}


if __name__ == "__main__":
    if sys.argv[1:2] in (["epochs"], ["steps"]):
        apply_process_settings(RuntimeSettings(device=sys.argv[4]))
        work = {"epochs": _epochs, "steps": _steps}[sys.argv[1]]
        print(json.dumps(work(Path(sys.argv[2]), int(sys.argv[3]), sys.argv[4], int(sys.argv[5]))))
    else:
        run_command(main, Scaling, __doc__)
