"""Compare `fastcifar seeds` with as many separate `fastcifar train`, and several processes side by side with one.

    python -m benchmarks.seeds speedrun:widths=[16,32,32] --images 2000 --out benchmarks/results/seeds-cpu.json

The time of a command is that from its start to its end. Half of the separate runs come before the others, half after
them. "runs per minute" leaves out the start of a command: it counts from the moment at which as many runs have finished
as there are processes.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import tyro

from benchmarks.harness import new_results, run_command, run_in_subprocess, show_progress
from benchmarks.time_to_90 import RecipeOptions, read_recipe
from fastcifar.checks import AT_LEAST_1, check, each
from fastcifar.config import TrainConfig
from fastcifar.data.pair import SPLITS, read_pair, split_path
from fastcifar.data.synthetic import SHAPES, draw_synthetic
from fastcifar.data.writer import write_beton
from fastcifar.device import apply_process_settings, resolve_runtime
from fastcifar.errors import ConfigError
from fastcifar.recipe_files import write_recipe
from fastcifar.runs.read import read_metrics

TEST_FRACTION = 0.2
"""Test images divided by training images, of synthetic data; as in CIFAR-10."""


@dataclass(frozen=True, kw_only=True)
class Seeds(RecipeOptions):
    """Train a recipe from many seeds, in separate commands and with `fastcifar seeds`."""

    recipe: Annotated[str, tyro.conf.Positional]
    """Recipe, with changes to its settings as NAME:setting=value,setting=value."""
    seeds: int = 20
    """Runs."""
    separate: int | None = None
    """Runs that are also trained separately; all of them if not given."""
    processes: tuple[int, ...] = (1, 2)
    """Numbers of processes side by side."""
    images: int | None = None
    """Train on this many synthetic images instead of those in --data-dir."""

    def __post_init__(self) -> None:
        check(self, seeds=AT_LEAST_1, processes=each(AT_LEAST_1))
        if self.separate is not None and not 0 <= self.separate <= self.seeds:
            raise ConfigError(f"separate is {self.separate}; it must be from 0 to the number of seeds, {self.seeds}")


def main(settings: Seeds) -> None:
    """Train, and write the results after each command."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        data_dir = settings.data_dir if settings.images is None else _write_images(folder, settings.images)
        config = read_recipe(settings.recipe, settings).replace(data_dir=data_dir)
        write_recipe(folder / "recipe.toml", config)
        kept = {"seeds": settings.seeds, "recipe": settings.recipe, "images": settings.images}
        apply_process_settings(config.runtime)
        results = new_results("seeds", resolve_runtime(config.runtime), read_pair(data_dir)[0], settings=kept)
        separate = range(settings.seeds if settings.separate is None else settings.separate)
        half = len(separate) // 2
        first = [_train(folder, config, seed) for seed in separate[:half]]
        together = [_train_seeds(folder, config, settings.seeds, count) for count in settings.processes]
        last = [_train(folder, config, seed) for seed in separate[half:]]
    if separate:
        results.runs.append(_summarize_separate([*first, *last]))
    results.runs += together
    results.write(settings.out)
    for run in results.runs:
        print("{name}, {processes} processes: {runs} runs in {seconds:.1f} s".format(**run), flush=True)


def _write_images(folder: Path, count: int) -> Path:
    splits = draw_synthetic(train=count, test=round(TEST_FRACTION * count))
    for split, images in zip(SPLITS, splits, strict=True):
        path = split_path(folder, split)
        write_beton(path, images.images, images.labels, class_names=tuple(SHAPES), name="synthetic")
    return folder


def _arguments(folder: Path, config: TrainConfig, seed: int, run_dir: Path) -> list[str]:
    place = ["--data-dir", str(config.data.data_dir), "--device", config.runtime.device, "--run-dir", str(run_dir)]
    return ["--recipe", str(folder / "recipe.toml"), "--seed", str(seed), *place]


def _train(folder: Path, config: TrainConfig, seed: int) -> dict[str, Any]:
    """Train one seed with a command of its own."""
    show_progress(f"training seed {seed} separately", 0, 1, "runs")
    run_dir = folder / f"separate-{seed}"
    command = ["-m", "fastcifar", "train", *_arguments(folder, config, seed, run_dir), "--no-report"]
    return {"seconds": _timed(command), **_last([run_dir])}


def _train_seeds(folder: Path, config: TrainConfig, seeds: int, processes: int) -> dict[str, Any]:
    """Train all seeds with one command."""
    show_progress(f"fastcifar seeds, {processes} processes", 0, seeds, "runs")
    run_dir = folder / f"seeds-{processes}"
    options = ["-n", str(seeds), "--processes", str(processes)]
    seconds = _timed(["-m", "fastcifar", "seeds", *_arguments(folder, config, 0, run_dir), *options])
    runs = [run_dir / f"seed-{seed:04d}" for seed in range(seeds)]
    finished = sorted((run / "metrics.jsonl").stat().st_mtime for run in runs)
    return {
        "name": "`fastcifar seeds`",
        "processes": processes,
        "runs": seeds,
        "seconds": seconds,
        "runs_per_minute": _per_minute(finished, processes),
        **_last(runs),
    }


def _summarize_separate(runs: Sequence[dict[str, Any]]) -> dict[str, Any]:
    seconds = sum(run["seconds"] for run in runs)
    return {
        "name": "separate `fastcifar train`",
        "processes": 1,
        "runs": len(runs),
        "seconds": seconds,
        "runs_per_minute": 60 * len(runs) / seconds,
        **{name: [value for run in runs for value in run[name]] for name in ("accuracies", "losses")},
    }


def _per_minute(finished: Sequence[float], processes: int) -> float | None:
    """Return the pace from the moments, in seconds, at which runs finished; None if too few did after the start."""
    counted = len(finished) - processes
    return 60 * counted / (finished[-1] - finished[processes - 1]) if counted > 0 else None


def _timed(command: Sequence[str]) -> float:
    """Return the seconds that a command takes."""
    start = time.perf_counter()
    run_in_subprocess(command)
    return time.perf_counter() - start


def _last(runs: Sequence[Path]) -> dict[str, Any]:
    """Return the accuracies and the losses on the test set at the end of runs."""
    results = [read_metrics(run)[-1] for run in runs]
    return {
        "accuracies": [result.final_accuracy for result in results],
        "losses": [result.test_loss for result in results],
    }


if __name__ == "__main__":
    run_command(main, __doc__)
