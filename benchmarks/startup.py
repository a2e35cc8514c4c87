"""The start-up time of commands: `fastcifar --help`, and `fastcifar train` until its first training step.

    python -m benchmarks.startup era speedrun --out benchmarks/results/startup-cpu.json

Each command runs in a new process, in turn with the others; one round that is not counted fills the caches. When the
first step of a training begins, it has read and checked its files, created its network and compiled it; the process is
stopped there.
"""

from __future__ import annotations

import statistics
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import tyro

from benchmarks.common import RESULTS, run_command, run_in_subprocess, summarize, write_results
from fastcifar.data.manifest import open_beton
from fastcifar.device import resolve_runtime
from fastcifar.runs.folder import describe_environment
from fastcifar.settings import RuntimeSettings

COMMAND = "import sys; from fastcifar.cli import main; sys.exit(main(sys.argv[1:]))"
TO_THE_FIRST_STEP = """
import os, sys, time
from fastcifar.cli import main
from fastcifar.training import loop

def stop(*_):
    print(f"first step {time.monotonic()}", flush=True)
    os._exit(0)

loop.train_epoch = stop
sys.exit(main(sys.argv[1:]))
"""


@dataclass(frozen=True, kw_only=True)
class Startup:
    """Start commands, in turn, and measure the time until they do their work."""

    recipes: Annotated[tuple[str, ...], tyro.conf.Positional] = ("era", "speedrun")
    """Recipes whose training is started."""
    data_dir: Path = Path("data/betons")
    """Folder with train.beton and test.beton."""
    device: str = "auto"
    """'cpu', 'cuda', …"""
    compile: bool = False
    """Compile network and augmentation."""
    rounds: int = 5
    """Starts of each command that are counted."""
    out: Path = RESULTS / "startup.json"
    """The JSON to write."""


def main(settings: Startup) -> None:
    runtime = resolve_runtime(RuntimeSettings(device=settings.device))
    _, manifest = open_beton(settings.data_dir / "train.beton")
    seconds: dict[str, list[float]] = {}
    with tempfile.TemporaryDirectory() as name:
        for number in range(settings.rounds + 1):
            taken = {"fastcifar --help": _help()}
            for recipe in settings.recipes:
                run = Path(name, f"{recipe}-{number}")
                taken[f"fastcifar train --recipe {recipe}"] = _first_step(recipe, run, settings)
            if number:
                for command, value in taken.items():
                    seconds.setdefault(command, []).append(value)
    results: dict[str, Any] = {
        "benchmark": "startup",
        **describe_environment(runtime, manifest),
        "settings": {"rounds": settings.rounds, "compile": settings.compile},
        "figures": {command: statistics.median(values) for command, values in seconds.items()},
        "runs": [{"command": command, "seconds": summarize(values)} for command, values in seconds.items()],
    }
    for command, median in results["figures"].items():
        print(f"{command}: {median:.2f} s")
    write_results(settings.out, results)


def _help() -> float:
    start = time.monotonic()
    run_in_subprocess(["-c", COMMAND, "--help"])
    return time.monotonic() - start


def _first_step(recipe: str, run: Path, settings: Startup) -> float:
    arguments = ["train", "--recipe", recipe, "--data-dir", str(settings.data_dir), "--run-dir", str(run)]
    arguments += ["--device", settings.device, "--amp", *(["--compile"] if settings.compile else [])]
    start = time.monotonic()
    printed = run_in_subprocess(["-c", TO_THE_FIRST_STEP, *arguments])
    (line,) = (line for line in printed.splitlines() if line.startswith("first step "))
    return float(line.split()[2]) - start


if __name__ == "__main__":
    run_command(main, Startup, __doc__)
