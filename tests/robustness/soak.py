"""Growth of memory, threads and open files in a process that trains again and again.

    python -m tests.robustness.soak --out benchmarks/results/soak-cpu.json

In each round, each recipe trains briefly on synthetic images with a run folder, and its checkpoint is evaluated again,
all in one process. After each round the anonymous memory, the threads and the open files are counted. The result is the
slope of a line through each count, per hour and relative to its mean, without the first minutes, in which caches fill.
"""

from __future__ import annotations

import gc
import os
import shutil
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from fastcifar import fit, get_recipe
from fastcifar.inference.evaluate import evaluate_checkpoint
from fastcifar.machine import anonymous_bytes
from tests.helpers import write_pair
from tests.robustness.results import describe_results, run_command, write_results


@dataclass(frozen=True, kw_only=True)
class Soak:
    """Train and evaluate for some time, and count the resources of the process."""

    recipes: tuple[str, ...] = ("speedrun", "dilated-cnn")
    """Recipes to train, in turn."""
    minutes: float = 40
    """Duration."""
    settle: float = 10
    """Minutes at the start that are left out of the slopes."""
    train: int = 1_000
    """Synthetic images to train on."""
    test: int = 500
    """Synthetic images to evaluate on."""
    device: str = "cpu"
    """'cpu', 'cuda', …"""
    out: Path = Path("soak.json")
    """The JSON to write."""


def main(settings: Soak) -> None:
    """Train and evaluate until the time is over, and write the counts and their slopes."""
    with tempfile.TemporaryDirectory() as name:
        folder = write_pair(Path(name), train=settings.train, test=settings.test)
        runs: list[dict[str, float]] = []
        start = time.monotonic()
        while (minutes := (time.monotonic() - start) / 60) < settings.minutes or not runs:
            for recipe in settings.recipes:
                train_and_evaluate(recipe, folder, settings.device)
            runs.append({"minutes": minutes, **count_resources()})
        results = describe_results(settings, folder / "train.beton", runs, device=settings.device)
    results["figures"] = {"rounds": len(runs) * len(settings.recipes), **slopes(runs, settings.settle)}
    print(results["figures"])
    write_results(settings.out, results)


def train_and_evaluate(recipe: str, folder: Path, device: str) -> None:
    """Train two short epochs on the .betons in `folder`, and evaluate the checkpoint."""
    run = folder / "run"
    config = get_recipe(recipe, data_dir=folder, run_dir=run, epochs=2, batch_size=250, device=device, amp=True)
    fit(config)
    evaluate_checkpoint(run, device=device)
    shutil.rmtree(run)


def count_resources() -> dict[str, int]:
    """Return the bytes of anonymous memory, the threads and the open files of this process."""
    gc.collect()
    status = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    return {
        "anonymous_bytes": anonymous_bytes(),
        "threads": int(status["Threads"]),
        "open_files": len(os.listdir("/proc/self/fd")),
    }


def slopes(runs: list[dict[str, Any]], settle: float) -> dict[str, float | None]:
    """Return the slope of a line through each count, per hour and relative to its mean; None for fewer than two."""
    kept = [run for run in runs if run["minutes"] >= settle]
    hours = [run["minutes"] / 60 for run in kept]
    found: dict[str, float | None] = {}
    for name in ("anonymous_bytes", "threads", "open_files"):
        values = [run[name] for run in kept]
        found[name] = float(np.polyfit(hours, values, 1)[0] / np.mean(values)) if len(kept) > 1 else None
    return found


if __name__ == "__main__":
    run_command(main, Soak, __doc__)
