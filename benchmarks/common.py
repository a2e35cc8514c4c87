"""What every benchmark shares: timing by blocks in turn, and the JSON that it leaves."""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import tyro

from fastcifar.cli import run_reporting_errors
from fastcifar.config import TrainConfig
from fastcifar.errors import ConfigError, FastCifarError
from fastcifar.files import atomic_write
from fastcifar.device import Runtime

RESULTS = Path(__file__).parent / "results"

Block = Callable[[], None]
"""A piece of work that is timed as a whole."""


def time_interleaved(blocks: Mapping[str, Block], *, rounds: int, runtime: Runtime) -> dict[str, list[float]]:
    """Seconds of each block in each round, the blocks in turn (A B A B …), after one round that does not count."""
    seconds: dict[str, list[float]] = {name: [] for name in blocks}
    for number in range(rounds + 1):
        for name, block in blocks.items():
            runtime.synchronize()
            start = time.perf_counter()
            block()
            runtime.synchronize()
            if number:
                seconds[name].append(time.perf_counter() - start)
    return seconds


def summarize(seconds: list[float]) -> dict[str, Any]:
    """Median, least and most, and all of them."""
    return {"median": statistics.median(seconds), "min": min(seconds), "max": max(seconds), "all": seconds}


def without_paths(config: TrainConfig) -> dict[str, Any]:
    """The settings without the folders, which say nothing on another machine."""
    return {name: value for name, value in config.to_json().items() if name not in ("betons", "run_dir")}


def describe_run(config: TrainConfig, history: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """A training's entry in a result file, from its settings and `EpochResult.to_json` of each of its epochs."""
    last = history[-1]
    return {
        "recipe": config.name,
        "config": without_paths(config),
        "seed": config.runtime.seed,
        "epochs": last["epoch"],
        "train_seconds": last["total_train_seconds"],
        "eval_seconds": last["eval_seconds"],
        "warmup_seconds": last["warmup_seconds"],
        "test_accuracy": last["test_accuracy"],
        "best_accuracy": last["best_accuracy"],
        "best_epoch": last["best_epoch"],
        "peak_memory_bytes": last["peak_memory_bytes"],
        "history": list(history),
    }


def load_for_resume(path: Path, settings: Mapping[str, Any]) -> dict[str, Any]:
    """The results at `path`, with `settings` for its own; those must be the same, but for more seeds.

    Raises:
        ConfigError: there are none, or they were load_for_resume with other settings.
    """
    try:
        results: dict[str, Any] = json.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise ConfigError(f"{path}: has no results to go on with ({error}); leave --resume out to begin") from None
    if not isinstance(results, dict):
        raise ConfigError(f"{path}: is no benchmark's results; leave --resume out to begin")
    asked = json.loads(json.dumps(settings))
    if {**results.get("settings", {}), "seeds": None} != {**asked, "seeds": None}:
        raise ConfigError(f"{path} has other settings: give another --out, or those that it was load_for_resume with")
    return {**results, "settings": asked}


def run_command(main: Callable[[Any], None], settings: Callable[..., Any], description: str | None) -> None:
    """Run a benchmark with the settings of the command line; bad input is one line on stderr and an exit code."""

    def work() -> int:
        main(tyro.cli(settings, description=description))
        return 0

    sys.exit(run_reporting_errors(Path(sys.argv[0]).stem, work))


def run_in_subprocess(arguments: Sequence[str]) -> str:
    """What Python prints when it is given these arguments, in a process of its own.

    Raises:
        FastCifarError: it failed; the message has its exit code and the last line of its stderr.
    """
    done = subprocess.run([sys.executable, *arguments], capture_output=True, text=True, check=False)
    if done.returncode:
        last = (done.stderr.strip() or "nothing on stderr").splitlines()[-1]
        raise FastCifarError(f"a process of this benchmark ended with code {done.returncode}: {last}")
    return done.stdout


def write_results(path: Path, values: Mapping[str, Any]) -> None:
    """Write a benchmark's JSON, whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with atomic_write(path) as temporary:
        temporary.write_text(json.dumps(values, indent=2) + "\n")
    print(f"results: {path}")
