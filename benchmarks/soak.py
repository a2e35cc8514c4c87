"""Whether a process that trains again and again keeps anything: memory, threads, open files.

    python -m benchmarks.soak --minutes 40 --out benchmarks/results/soak-cpu.json

Round by round, each recipe in turn: a short training on made-up pictures with a run folder, then its checkpoint
measured again, all in one process. After each round the anonymous memory, the threads and the open files are counted.
The figure is the slope of a line through each, as a share of its mean an hour, after a first part in which caches fill.
"""

from __future__ import annotations

import collections
import dataclasses
import gc
import os
import shutil
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.common import RESULTS, run_command, write_results
from benchmarks.reliability import write_test_betons
from fastcifar import fit, get_recipe
from fastcifar.data.manifest import open_beton
from fastcifar.machine import anonymous_bytes
from fastcifar.inference.evaluate import evaluate_checkpoint
from fastcifar.runs.folder import describe_environment
from fastcifar.device import resolve_runtime


@dataclass(frozen=True, kw_only=True)
class Soak:
    """Train and evaluate for a time, and count what the process holds."""

    recipes: tuple[str, ...] = ("speedrun", "dilated-cnn")
    """Recipes, in turn."""
    minutes: float = 40
    """How long."""
    settle: float = 10
    """Minutes at the start that the lines leave out."""
    train: int = 1_000
    """Made-up pictures to train on."""
    test: int = 500
    """Made-up pictures to test on."""
    device: str = "cpu"
    """'cpu', 'cuda', …"""
    out: Path = RESULTS / "soak.json"
    """The JSON to write."""


def main(settings: Soak) -> None:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        beton = write_test_betons(folder, train=settings.train, test=settings.test)
        _, manifest = open_beton(beton)
        results: dict[str, Any] = {
            "benchmark": "soak",
            **describe_environment(resolve_runtime(get_recipe("era", device=settings.device)), manifest),
            "settings": {name: value for name, value in dataclasses.asdict(settings).items() if name != "out"},
            "runs": [],
        }
        start = time.monotonic()
        while (minutes := (time.monotonic() - start) / 60) < settings.minutes or not results["runs"]:
            for recipe in settings.recipes:
                _round(recipe, folder, settings.device)
            results["runs"].append({"minutes": minutes, **count_held()})
    results["figures"] = {
        "rounds": len(results["runs"]) * len(settings.recipes),
        **slopes(results["runs"], settings.settle),
    }
    print(results["figures"])
    write_results(settings.out, results)


def count_held() -> dict[str, int]:
    """Bytes of anonymous memory, threads and open files of this process."""
    gc.collect()
    status = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    return {
        "anonymous_bytes": anonymous_bytes(),
        "threads": int(status["Threads"]),
        "open_files": len(os.listdir("/proc/self/fd")),
    }


def slopes(runs: list[dict[str, float]], settle: float) -> dict[str, float | None]:
    """Of each count, the rise of a straight line an hour as a share of the mean; None with fewer than two counts."""
    kept = [run for run in runs if run["minutes"] >= settle]
    hours = [run["minutes"] / 60 for run in kept]
    found: dict[str, float | None] = {}
    for name in ("anonymous_bytes", "threads", "open_files"):
        values = [run[name] for run in kept]
        found[name] = float(np.polyfit(hours, values, 1)[0] / np.mean(values)) if len(kept) > 1 else None
    return found


def _round(recipe: str, folder: Path, device: str) -> None:
    run = folder / "run"
    config = get_recipe(recipe, betons=folder, run_dir=run, epochs=2, batch_size=250, device=device, amp=True)
    collections.deque(fit(config), maxlen=0)
    evaluate_checkpoint(run, device=device)
    shutil.rmtree(run)


if __name__ == "__main__":
    run_command(main, Soak, __doc__)
