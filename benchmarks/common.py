"""The parts that all benchmarks share: timing, child processes, the command line and the JSON result file."""

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

from benchmarks.result_files import migrate_results
from fastcifar.cli import run_reporting_errors
from fastcifar.config import TrainConfig
from fastcifar.device import Runtime, apply_process_settings
from fastcifar.errors import ConfigError, FastCifarError
from fastcifar.files import atomic_write
from fastcifar.settings import RuntimeSettings

RESULTS = Path(__file__).parent / "results"

Block = Callable[[], object]
"""A piece of work that is timed as a whole; its result is not used."""


def time_interleaved(blocks: Mapping[str, Block], *, rounds: int, runtime: Runtime) -> dict[str, list[float]]:
    """Seconds of each block in each round. The blocks take turns (A B A B …), after one round that is not counted."""
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
    """The median, the minimum, the maximum and all values."""
    return {"median": statistics.median(seconds), "min": min(seconds), "max": max(seconds), "all": seconds}


def without_paths(config: TrainConfig) -> dict[str, Any]:
    """The settings without the folders, which mean nothing on another machine."""
    return {name: value for name, value in config.to_json().items() if name not in ("data_dir", "run_dir")}


def describe_run(config: TrainConfig, history: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """A run's entry in a result file, from its settings and the `EpochResult.to_json` of each epoch."""
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
    """The results in `path`, to continue with `settings`, of which only the number of seeds may differ.

    Raises:
        ConfigError: there are no results, or they were measured with other settings.
    """
    try:
        results: dict[str, Any] = migrate_results(json.loads(path.read_text()))
    except (OSError, ValueError) as error:
        raise ConfigError(f"{path}: has no results to continue ({error}); leave out --resume to start again") from None
    if not isinstance(results, dict):
        raise ConfigError(f"{path}: is not a result file of a benchmark; leave out --resume to start again")
    asked = json.loads(json.dumps(settings))
    if {**results.get("settings", {}), "seeds": None} != {**asked, "seeds": None}:
        raise ConfigError(f"{path}: was measured with other settings; use those, or choose another --out")
    return {**results, "settings": asked}


def run_command(main: Callable[[Any], None], settings: Callable[..., Any], description: str | None) -> None:
    """Run a benchmark with the settings of the command line; bad input ends it with one line on stderr."""

    name = Path(sys.argv[0]).stem

    def work() -> int:
        chosen = tyro.cli(settings, prog=f"python -m benchmarks.{name}", description=description)
        if hasattr(chosen, "device"):
            apply_process_settings(RuntimeSettings(device=chosen.device))
        main(chosen)
        return 0

    sys.exit(run_reporting_errors(name, work))


def run_in_subprocess(arguments: Sequence[str]) -> str:
    """Run Python with these arguments in a new process, and return the text that it prints.

    Raises:
        FastCifarError: it failed; the message has its exit code and the last line of its stderr.
    """
    done = subprocess.run([sys.executable, *arguments], capture_output=True, text=True, check=False)
    if done.returncode:
        last = (done.stderr.strip() or "nothing on stderr").splitlines()[-1]
        raise FastCifarError(f"a process of this benchmark ended with code {done.returncode}: {last}")
    return done.stdout


def write_results(path: Path, values: Mapping[str, Any]) -> None:
    """Write a benchmark's JSON, completely or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with atomic_write(path) as temporary:
        temporary.write_text(json.dumps(values, indent=2) + "\n")
    print(f"results: {path}")
