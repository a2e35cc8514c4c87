"""Training dynamics: how many wrong labels they find, and what it costs to record them.

    python -m benchmarks.dynamics noise --out benchmarks/results/dynamics-cpu.json
    python -m benchmarks.dynamics overhead --out benchmarks/results/dynamics-overhead-cpu.json

`noise` gives a part of the training images a wrong label, trains with `--dynamics`, and ranks all training images by
suspicion. `overhead` times training with and without records, in turn.
"""

from __future__ import annotations

import functools
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.harness import (
    Block,
    Options,
    TrainingTiming,
    new_results,
    run_command,
    show_progress,
    summarize,
    time_interleaved,
    without_paths,
)
from fastcifar import fit, get_recipe
from fastcifar.analysis.dynamics import Bools, Dynamics, found_fraction, ranking_auroc, summarize_epochs
from fastcifar.checks import ABOVE_0_TO_1, AT_LEAST_1, check
from fastcifar.config import TrainConfig
from fastcifar.data.beton_source import read_betons
from fastcifar.data.manifest import open_beton
from fastcifar.data.reading import ReadOptions
from fastcifar.data.variation import Variation
from fastcifar.data.vary import vary
from fastcifar.data.writer import write_pair
from fastcifar.device import apply_process_settings, resolve_runtime
from fastcifar.runs.dynamics import read_epochs, write_epoch
from fastcifar.runs.results import StepProgress
from fastcifar.training.loop import train_epoch
from fastcifar.training.state import TrainState, create_state
from fastcifar.training.warmup import WarmUp, warm_up

FRACTIONS = (0.05, 0.1, 0.15, 0.2)
"""Parts of the training set, the most suspicious images, in which the wrong labels are counted."""
SCORES: dict[str, Callable[[Dynamics], Any]] = {
    "mean margin": lambda dynamics: dynamics.margin,
    "mean confidence": lambda dynamics: dynamics.confidence,
    "correctness": lambda dynamics: dynamics.correctness,
}
"""Scores that are low for wrong labels."""


@dataclass(frozen=True, kw_only=True)
class Noise(Options):
    """Rank training images of which some have a wrong label."""

    recipe: str = "speedrun"
    """Recipe to train."""
    epochs: float | None = None
    """Epochs; those of the recipe if not given."""
    fraction: float = 0.1
    """Fraction of the training images that get a wrong label, any of the others with equal probability."""
    seeds: int = 1
    """Runs, each with other wrong labels."""
    first_seed: int = 2000
    """Seed of the first run and of its wrong labels; the score was chosen with other seeds."""

    def __post_init__(self) -> None:
        check(self, seeds=AT_LEAST_1)


def noise(options: Noise) -> None:
    """Train on wrong labels, and count how many of them each score finds."""
    changes: dict[str, Any] = {} if options.epochs is None else {"epochs": options.epochs}
    config = get_recipe(options.recipe, device=options.device, dynamics=True, **changes)
    apply_process_settings(config.runtime)
    runtime, (_, manifest) = resolve_runtime(config.runtime), open_beton(options.data_dir / "train.beton")
    recorded = {"fraction": options.fraction, "fractions": FRACTIONS}
    results = new_results("dynamics", runtime, manifest, settings=recorded)
    for seed in range(options.first_seed, options.first_seed + options.seeds):
        with tempfile.TemporaryDirectory() as folder:
            wrong = _write_wrong_labels(options, Path(folder), seed)
            run = config.replace(data_dir=folder, run_dir=Path(folder) / "run", seed=seed)
            results.runs.append(_train(run, wrong))
        results.write(options.out)
        found = results.runs[-1]["found"]["mean margin"]
        print(
            f"seed {seed}: " + ", ".join(f"{value:.1%} in {fraction}" for fraction, value in found.items()), flush=True
        )


def _write_wrong_labels(options: Noise, folder: Path, seed: int) -> Bools:
    """Write the data set with wrong labels; return which of the training images have one, bool [N]."""
    noise = Variation(label_noise=options.fraction, seed=seed)
    noisy = vary(read_betons(options.data_dir, ReadOptions()), noise)
    write_pair(folder, noisy)
    wrong: Bools = noisy.train.labels != noisy.true_labels
    return wrong


def _train(config: TrainConfig, wrong: Bools) -> dict[str, Any]:
    """Train a run, and return its entry in the results."""
    history = fit(config, on_step=functools.partial(_show_step, config))
    assert config.run_dir is not None
    dynamics = summarize_epochs(read_epochs(config.run_dir))
    known = wrong[dynamics.index]
    rankings = {name: np.argsort(score(dynamics), kind="stable") for name, score in SCORES.items()}
    return {
        "recipe": config.name,
        "config": without_paths(config),
        "seed": config.runtime.seed,
        "epochs": history[-1].epoch,
        "test_accuracy": history[-1].test_accuracy,
        "tta_accuracy": history[-1].tta_accuracy,
        "wrong_labels": int(wrong.sum()),
        "found": {
            name: {str(fraction): found_fraction(ranking, known, fraction) for fraction in FRACTIONS}
            for name, ranking in rankings.items()
        },
        "auroc": {name: ranking_auroc(ranking, known) for name, ranking in rankings.items()},
        "history": [result.to_json() for result in history],
    }


def _show_step(config: TrainConfig, step: StepProgress) -> None:
    show_progress(f"seed {config.runtime.seed}, epoch {step.epoch}", step.step, step.steps, "steps")


@dataclass(frozen=True, kw_only=True)
class Overhead(TrainingTiming):
    """Time training with and without records."""

    recipe: str = "speedrun"
    """Recipe to train."""
    epochs: float = 0.2
    """Epochs of each training that is timed, up to 1; progressive resizing and freezing are scaled to it."""

    def __post_init__(self) -> None:
        super().__post_init__()
        check(self, epochs=ABOVE_0_TO_1)


def overhead(options: Overhead) -> None:
    """Time short trainings without records and with them, which includes writing their file, in turn.

    The processor time is that of all threads of the process.
    """
    shared: dict[str, Any] = {"data_dir": options.data_dir, "device": options.device, "compile": options.compile}
    config = get_recipe(options.recipe, epochs=options.epochs, **shared)
    apply_process_settings(config.runtime)
    plain, recording = (create_state(config.replace(dynamics=dynamics)) for dynamics in (False, True))
    processor: dict[str, list[float]] = {}
    with tempfile.TemporaryDirectory() as folder, plain, recording:
        blocks = {}
        for name, state in (("without records", plain), ("with records", recording)):
            block = functools.partial(_train_epoch, state, warm_up(state), Path(folder))
            blocks[name] = _timing_processor(block, processor.setdefault(name, []))
        seconds = time_interleaved(blocks, rounds=options.rounds, runtime=plain.runtime)
    recorded = {"rounds": options.rounds, "epochs": options.epochs, "steps": plain.total_steps}
    results = new_results("dynamics_overhead", plain.runtime, plain.manifest, settings=recorded)
    for name, values in seconds.items():
        times = {"seconds": summarize(values), "processor_seconds": summarize(processor[name][1:])}
        results.runs.append({"recipe": config.name, "config": without_paths(config), "part": name, **times})
    results.write(options.out)


def _timing_processor(block: Block, into: list[float]) -> Block:
    """Return a block that also appends the processor time that it takes to a list."""

    def timed_block() -> None:
        start = time.process_time()
        block()
        into.append(time.process_time() - start)

    return timed_block


def _train_epoch(state: TrainState, warmed_up: WarmUp, folder: Path) -> None:
    """Train the first epoch of a run again, and write its records if it keeps them."""
    state.restart()
    train_epoch(state, warmed_up.run_step)
    if state.recorder.enabled:
        write_epoch(folder, 1, state.recorder.read(state.train_loader, 0))


COMMANDS: dict[str, Callable[..., None]] = {"noise": noise, "overhead": overhead}

if __name__ == "__main__":
    run_command(COMMANDS, __doc__)
