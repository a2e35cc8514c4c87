"""Train recipes from several seeds, in turn: the time to a mean test accuracy of 90 %, ablations, accuracies.

    python -m benchmarks.time_to_90 speedrun era-fast --seeds 10 --out benchmarks/results/time-to-90-cpu.json

Two times are reported. For a run: its training up to the first evaluation that reaches the target. For a recipe: the
mean time of all its runs, which counts if their mean accuracy reaches the target. A run's time is its training, from
the first byte read, plus the last evaluation, with the test-time augmentation that the quoted accuracy uses. The
warm-up, on synthetic batches before the clock starts, is recorded separately, in the first run of a recipe: the others
use its compiled code and CUDA graphs.

A run's joules, where the machine counts them, are those of the whole run, with the evaluations after each epoch and, in
the first run, the warm-up.
"""

from __future__ import annotations

import ast
import contextlib
import functools
import json
import re
import tempfile
import tomllib
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import torch
import tyro
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.energy import EnergyMeter
from benchmarks.harness import Options, new_results, run_command, show_progress, without_paths
from benchmarks.peers import AIRBENCH, AirbenchScript, start_peers
from benchmarks.results import Results
from fastcifar import get_recipe
from fastcifar.checks import ABOVE_0_TO_1, AT_LEAST_1, NOT_NEGATIVE, POSITIVE, check, each
from fastcifar.config import TrainConfig
from fastcifar.data.manifest import open_beton
from fastcifar.device import Runtime, apply_process_settings, preserve_random_state, resolve_runtime
from fastcifar.errors import ConfigError
from fastcifar.models import model_from_config
from fastcifar.models.init import initialize
from fastcifar.runs.folder import source_commit
from fastcifar.runs.results import StepProgress
from fastcifar.training.freezing import freeze
from fastcifar.training.seeds import SeedTrainer
from fastcifar.training.state import TrainState
from fastcifar.training.step import step_variants

ERA_EPOCH = 3 * 379.27e6 * 50_000
"""Multiply-adds of one epoch of `era`: the forward pass, and twice that for the backward pass, at full resolution."""
Training = Callable[[int], dict[str, Any]]
"""The training of a recipe or a peer: from a seed to its entry in the results."""
_PARTS = tomllib.loads((Path(__file__).parent / "ablations.toml").read_text())
ABLATIONS: dict[str, dict[str, str]] = {name: _PARTS["both"] | _PARTS[name] for name in ("speedrun", "era-fast")}
"""A recipe's parts, and the changes of settings that replace them."""
COMPARED = ("seeds", "first_seed", "target_accuracy", "compile", "amp", "val_fraction")
"""Options that are recorded; when trainings are added with --resume, only `seeds` may differ."""


@dataclass(frozen=True, kw_only=True)
class RecipeOptions(Options):
    """The options of a benchmark that trains recipes."""

    compile: bool = False
    """Compile network and augmentation."""
    amp: bool = True
    """Automatic mixed precision."""
    val_fraction: float = 0.0
    """Evaluate on this fraction of the training set instead of the test set, to choose settings."""


@dataclass(frozen=True, kw_only=True)
class TimeTo90(RecipeOptions):
    """Train recipes from several seeds, in turn."""

    recipes: Annotated[tuple[str, ...], tyro.conf.Positional]
    """Recipes by name, with changes to their settings as NAME:setting=value,setting=value."""
    ablate: bool = False
    """Also train the recipe without each of its parts; for 'speedrun' and 'era-fast'."""
    seeds: int = 10
    """Runs of each recipe."""
    first_seed: int = 1000
    """Seed of the first run; the settings were chosen with other seeds."""
    target_accuracy: float = 0.90
    """Accuracy to reach, from 0 to 1."""
    airbench: Path | None = None
    """A checkout of KellerJordan/cifar10-airbench, to train in turn with the recipes."""
    airbench_scripts: tuple[AirbenchScript, ...] = ("94_muon",)
    """Its scripts to train: airbench94_muon, airbench95 or airbench96_faster."""
    airbench_epochs: tuple[float, ...] = ()
    """Epochs of each script, one training for each value; without, 2.75 for 94_muon, its own number for 95 and 96."""
    hiverge: Path | None = None
    """A checkout of hiverge/cifar10-speedrun, to train in turn with the recipes."""
    hiverge_epochs: tuple[float, ...] = ()
    """Epochs of its training, one training for each value; 2.5 without."""
    price_per_hour: float | None = None
    """Dollars that an hour on this machine costs, instead of the price in benchmarks/prices.toml."""
    resume: bool = False
    """Keep the runs in --out, which were measured on this device, and add those that are missing."""

    def __post_init__(self) -> None:
        check(self, seeds=AT_LEAST_1, target_accuracy=ABOVE_0_TO_1, price_per_hour=NOT_NEGATIVE)
        check(self, airbench_epochs=each(POSITIVE), hiverge_epochs=each(POSITIVE))
        if not self.airbench_scripts:
            raise ConfigError(f"airbench_scripts is empty; name {', '.join(AIRBENCH)}, or several of them")


def main(settings: TimeTo90) -> None:
    """Train from the command line."""
    sweep(settings)


def sweep(settings: TimeTo90, benchmark: str = "time_to_90", extra: dict[str, Any] | None = None) -> Results:
    """Train all recipes and peers from all seeds that the results lack; write the results after each run."""
    names = list(settings.recipes)
    if settings.ablate:
        if len(names) != 1 or names[0] not in ABLATIONS:
            raise ConfigError(f"recipes is {' '.join(names)!r}; --ablate takes one of {', '.join(ABLATIONS)}")
        names += [f"{names[0]}:{changes}" for changes in ABLATIONS[names[0]].values()]
    configs = {name: read_recipe(name, settings) for name in names}
    if not configs:
        raise ConfigError("recipes is empty; name at least one, such as speedrun")
    apply_process_settings(configs[names[0]].runtime)
    runtime, (_, manifest) = resolve_runtime(configs[names[0]].runtime), open_beton(settings.data_dir / "train.beton")
    kept = {name: getattr(settings, name) for name in COMPARED}
    results = new_results(benchmark, runtime, manifest, settings=kept, extra=extra or {})
    if settings.resume:
        results = _resumed(settings.out, results)
    if settings.price_per_hour is not None:
        results.extra["price_per_hour"] = settings.price_per_hour
    with contextlib.ExitStack() as stack:
        trainers = {name: stack.enter_context(SeedTrainer(config, keep_data=False)) for name, config in configs.items()}
        trainings: dict[str, Training] = {
            name: functools.partial(_train, trainer, settings.target_accuracy) for name, trainer in trainers.items()
        }
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        for peer in start_peers(settings, runtime.device, folder, stack):
            results.peers |= dict.fromkeys(peer.trainings, peer.description)
            trainings |= {name: functools.partial(_train_peer, run, runtime) for name, run in peer.trainings.items()}
        done = {(run["name"], run["seed"]) for run in results.runs}
        for seed in range(settings.first_seed, settings.first_seed + settings.seeds):
            for name, train in trainings.items():
                if (name, seed) not in done:
                    show_progress(f"{name} seed {seed}", len(results.runs), settings.seeds * len(trainings), "runs")
                    results.runs.append({"name": name, "commit": source_commit(), **train(seed)})
                    results.write(settings.out)
                    print(
                        "{name} seed {seed}: {final_accuracy:.2%} in {seconds:.2f} s".format(**results.runs[-1]),
                        flush=True,
                    )
    return results


def _resumed(path: Path, fresh: Results) -> Results:
    """The results in `path`, to continue with the settings of `fresh`, of which only the number of seeds may differ."""
    results = Results.read(path)
    if {**results.settings, "seeds": None} != {**fresh.settings, "seeds": None}:
        raise ConfigError(f"{path}: was measured with other settings; use those, or choose another --out")
    if results.device != fresh.device:
        raise ConfigError(
            f"{path}: was measured on another device, {results.device}; choose another --out for this one"
        )
    results.settings = fresh.settings
    return results


def read_recipe(name: str, settings: RecipeOptions) -> TrainConfig:
    """Return the configuration of NAME:setting=value,…; its changes take precedence over the benchmark's settings.

    Raises:
        ConfigError: there is no such recipe or setting, or its value is not allowed.
    """
    recipe, _, changes = name.partition(":")
    values = {key: getattr(settings, key) for key in ("data_dir", "device", "compile", "amp", "val_fraction")}
    for change in filter(None, re.split(r",(?![^\[]*\])", changes)):  # a comma between brackets separates list elements
        field, _, value = change.partition("=")
        values[field] = _parse_value(value)
    config = get_recipe(recipe).replace(**values)
    return TrainConfig.from_json(config.to_json())  # which checks the types


def _parse_value(text: str) -> Any:
    """A number, list, boolean or None, written as in JSON or Python; otherwise the text itself."""
    for parse in (json.loads, ast.literal_eval):
        with contextlib.suppress(ValueError, SyntaxError):
            return parse(text)
    return text


def _train(trainer: SeedTrainer, target_accuracy: float, seed: int) -> dict[str, Any]:
    state = trainer.prepare(seed)
    config = state.config
    with preserve_random_state():
        equivalents = era_epoch_equivalents(state)
    show = functools.partial(_show_step, config.name, seed)
    energy, joules, history = EnergyMeter(state.runtime.device), None, []
    for result in trainer.fit_epochs(on_step=show):
        joules = energy.joules()
        history.append(result.to_json())
    accuracies, seconds = [], []  # after each epoch, with the run's test-time augmentation if any
    for epoch in history:
        has_tta = epoch["tta_accuracy"] is not None
        accuracies.append(epoch["tta_accuracy" if has_tta else "test_accuracy"])
        seconds.append(epoch["total_train_seconds"] + epoch["tta_seconds" if has_tta else "eval_seconds"])
    last = history[-1]
    copied = ("eval_seconds", "warmup_seconds", "test_accuracy", "best_accuracy", "best_epoch", "tta_accuracy")
    return {
        "recipe": config.name,
        "config": without_paths(config),
        "seed": seed,
        "epochs": last["epoch"],
        "train_seconds": last["total_train_seconds"],
        **{key: last[key] for key in (*copied, "peak_memory_bytes")},
        "era_epoch_equivalents": equivalents,
        "final_accuracy": accuracies[-1],
        "seconds": seconds[-1],
        "joules": joules,
        "seconds_to_target": next((s for s, a in zip(seconds, accuracies, strict=True) if a >= target_accuracy), None),
        "history": history,
    }


def _train_peer(train: Training, runtime: Runtime, seed: int) -> dict[str, Any]:
    energy = EnergyMeter(runtime.device)
    return {**train(seed), "joules": energy.joules()}


def _show_step(recipe: str, seed: int, step: StepProgress) -> None:
    show_progress(f"{recipe} seed {seed}, epoch {step.epoch}", step.step, step.steps, "steps")


def era_epoch_equivalents(state: TrainState) -> float:
    """Return the multiply-adds of a run's forward and backward passes, divided by those of one epoch of `era`.

    Counts convolutions and linear layers at the resolution that each step really uses, without the gradients that
    frozen modules skip. The optimizer's operations are not counted.
    """
    config, (height, _, channels) = state.config, state.manifest.image_shape
    model = model_from_config(config.model, len(state.manifest.class_names))
    initialize(model, config.init)
    model.to("meta").train()
    flops = 0
    for (size, frozen), steps in Counter(step_variants(state.total_steps, config)).items():
        freeze(model, frozen)
        side = min(size or height, height)
        with FlopCounterMode(display=False) as counter:
            model(torch.empty(config.data.batch_size, channels, side, side, device="meta")).sum().backward()
        flops += steps * counter.get_total_flops()
    return flops / 2 / ERA_EPOCH


if __name__ == "__main__":
    run_command(main, __doc__)
