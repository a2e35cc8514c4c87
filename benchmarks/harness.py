"""The parts that all benchmarks share: timing in turn, new processes, the command line and the result file."""

from __future__ import annotations

import dataclasses
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from contextvars import ContextVar
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import tyro

from benchmarks.results import Results
from fastcifar.checks import AT_LEAST_1, Rule, check
from fastcifar.cli import run_reporting_errors
from fastcifar.config import TrainConfig
from fastcifar.data.manifest import Manifest
from fastcifar.device import Runtime, apply_process_settings, resolve_runtime
from fastcifar.errors import FastCifarError
from fastcifar.progress import OnProgress, Progress
from fastcifar.report.progress import ProgressDisplay
from fastcifar.runs.folder import describe_environment
from fastcifar.settings import RuntimeSettings

_on_progress: ContextVar[OnProgress] = ContextVar("on_progress")
Block = Callable[[], object]
"""A piece of work that is timed as a whole; its result is not used."""
NOT_EMPTY: Rule = (bool, "one value or several")
"""The rule for an option that takes several values."""


@dataclass(frozen=True, kw_only=True)
class Options:
    """The options of every benchmark."""

    device: str = "auto"
    """'cpu', 'cuda', …"""
    data_dir: Path = Path("data/betons")
    """Folder with train.beton and test.beton."""
    out: Path = Path("results.json")
    """The JSON to write."""

    def runtime(self) -> Runtime:
        """Set the process up for the device, and return it."""
        settings = RuntimeSettings(device=self.device)
        apply_process_settings(dataclasses.replace(settings, compile=True))  # some parts are compiled
        return resolve_runtime(settings)


@dataclass(frozen=True, kw_only=True)
class Timing(Options):
    """The options of a benchmark that times parts in turn."""

    rounds: int = 5
    """Measurements of each part that are counted."""

    def __post_init__(self) -> None:
        check(self, rounds=AT_LEAST_1)


@dataclass(frozen=True, kw_only=True)
class TrainingTiming(Timing):
    """The options of a benchmark that times parts of a training in turn."""

    compile: bool = False
    """Compile network and augmentation."""


def show_progress(task: str, done: float, total: float, unit: str) -> None:
    """Show the progress of the running benchmark in a line if nothing else is printed for half a minute."""
    if on_progress := _on_progress.get(None):
        on_progress(Progress(task=task, done=done, total=total, unit=unit))


def timed(block: Block, runtime: Runtime) -> float:
    """Return the seconds that a block takes, until the device has finished its work."""
    runtime.synchronize()
    start = time.perf_counter()
    block()
    runtime.synchronize()
    return time.perf_counter() - start


def time_interleaved(blocks: Mapping[str, Block], *, rounds: int, runtime: Runtime) -> dict[str, list[float]]:
    """Return the seconds of each block in each round. The blocks take turns (A B A B …), after one uncounted round."""
    seconds: dict[str, list[float]] = {name: [] for name in blocks}
    for number in range(rounds + 1):
        for name, block in blocks.items():
            show_progress(f"timing {name}", number, rounds + 1, "rounds")
            seconds[name].append(timed(block, runtime))
    return {name: values[1:] for name, values in seconds.items()}


def summarize(seconds: list[float]) -> dict[str, Any]:
    """Return the median, the minimum, the maximum and all values."""
    return {"median": statistics.median(seconds), "min": min(seconds), "max": max(seconds), "all": seconds}


def new_results(benchmark: str, runtime: Runtime, manifest: Manifest, **fields: Any) -> Results:
    """Return results with the environment filled in."""
    environment: dict[str, Any] = {**describe_environment(runtime, manifest)}
    environment["versions"] = {name: str(version) for name, version in environment["versions"].items()}
    return Results(benchmark=benchmark, runs=[], **environment, **fields)


def without_paths(config: TrainConfig) -> dict[str, Any]:
    """Return the settings without the folders, which mean nothing on another machine."""
    return {name: value for name, value in config.to_json().items() if name not in ("data_dir", "run_dir")}


def run_command(command: Callable[..., object] | dict[str, Callable[..., Any]], description: str | None) -> None:
    """Call a function, or the one of several that the first argument names, with the options of the command line.

    Bad input ends the process with one line on stderr, where progress lines also go.
    """
    name = Path(sys.argv[0]).stem
    prog, omit = f"python -m benchmarks.{name}", (tyro.conf.OmitArgPrefixes,)

    def work() -> int:
        with ProgressDisplay(bar=False) as display:
            _on_progress.set(display.show)
            if isinstance(command, dict):
                tyro.extras.subcommand_cli_from_dict(command, prog=prog, description=description, config=omit)
            else:
                tyro.cli(command, prog=prog, description=description, config=omit)
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
