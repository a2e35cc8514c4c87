"""The time of recipes to a mean test accuracy of 90 %, over several seeds, the recipes in turn.

    python -m benchmarks.time_to_90 speedrun era-fast --seeds 10 --out benchmarks/results/time-to-90-cpu.json

Two times are reported. For a run: its training up to the first evaluation that reaches the target. For a recipe: the
mean time of all its runs, which counts if their mean accuracy reaches the target. A run's time is its training, from
the first byte read, plus the last evaluation, with the test-time augmentation that the quoted accuracy uses. The
warm-up, on synthetic batches before the clock starts, is recorded separately. Energy is read from the device's own
counter, if it has one. The compute of a recipe is given in era-epoch equivalents (benchmarks/work.py). With --resume,
the runs in --out are kept, and those that are missing are added.
"""

from __future__ import annotations

import ast
import contextlib
import functools
import json
import re
import statistics
import tempfile
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import torch
import tyro
from rich.console import Console
from rich.table import Table

from benchmarks.common import RESULTS, describe_run, load_for_resume, run_command, write_results
from benchmarks.peers import AIRBENCH, HIVERGE, Peer
from benchmarks.work import era_epoch_equivalents
from fastcifar import fit, get_recipe
from fastcifar.config import TrainConfig
from fastcifar.data.manifest import open_beton
from fastcifar.device import Runtime, resolve_runtime
from fastcifar.errors import ConfigError
from fastcifar.runs.folder import describe_environment, source_commit
from fastcifar.training.state import TrainState, create_state

Training = Callable[[int], dict[str, Any]]
"""The training of a recipe or a peer: from a seed to its entry in the results."""


@dataclass(frozen=True, kw_only=True)
class TimeTo90:
    """Train recipes from several seeds, in turn."""

    recipes: Annotated[tuple[str, ...], tyro.conf.Positional]
    """Recipes by name, with changes to their settings as NAME:setting=value,setting=value."""
    data_dir: Path = Path("data/betons")
    """Folder with train.beton and test.beton."""
    device: str = "auto"
    """'cpu', 'cuda', …"""
    compile: bool = False
    """Compile network and augmentation."""
    amp: bool = True
    """Automatic mixed precision."""
    seeds: int = 10
    """Runs of each recipe."""
    first_seed: int = 1000
    """Seed of the first run; the settings were chosen with other seeds."""
    val_fraction: float = 0.0
    """Evaluate on this fraction of the training set instead of the test set, to choose settings."""
    target_accuracy: float = 0.90
    """Accuracy to reach, from 0 to 1."""
    airbench: Path | None = None
    """A checkout of KellerJordan/cifar10-airbench, to train in turn with the recipes."""
    airbench_epochs: tuple[float, ...] = (2.75,)
    """Epochs of its training, one training for each value."""
    hiverge: Path | None = None
    """A checkout of hiverge/cifar10-speedrun, to train in turn with the recipes."""
    hiverge_epochs: tuple[float, ...] = (2.5,)
    """Epochs of its training, one training for each value."""
    resume: bool = False
    """Keep the runs in --out, which were measured on this device, and add those that are missing."""
    out: Path = RESULTS / "time-to-90.json"
    """The JSON to write, after each run."""


def main(settings: TimeTo90) -> None:
    configs = {name: read_recipe(name, settings) for name in settings.recipes}
    if not configs:
        raise ConfigError("recipes is empty; name at least one, such as speedrun")
    runtime = resolve_runtime(next(iter(configs.values())).runtime)
    trainings: dict[str, Training] = {
        name: functools.partial(_train, config, settings.target_accuracy) for name, config in configs.items()
    }
    with ExitStack() as stack:
        peers: dict[str, Any] = {}
        for project, checkout, epochs in (
            (AIRBENCH, settings.airbench, settings.airbench_epochs),
            (HIVERGE, settings.hiverge, settings.hiverge_epochs),
        ):
            if checkout is not None:
                peer = Peer(project, checkout, epochs, runtime.device, settings.data_dir)
                peers |= dict.fromkeys(peer.names.values(), peer.describe())
                trainings |= peer.load(Path(stack.enter_context(tempfile.TemporaryDirectory())))
        _train_in_turn(trainings, settings, _initial_results(settings, runtime, peers))


def _initial_results(settings: TimeTo90, runtime: Runtime, peers: dict[str, Any]) -> dict[str, Any]:
    """The results before the first training: empty, or those in --out."""
    _, manifest = open_beton(settings.data_dir / "train.beton")
    names = ("seeds", "first_seed", "target_accuracy", "compile", "amp", "val_fraction")
    kept = {name: getattr(settings, name) for name in names}
    environment = describe_environment(runtime, manifest)
    if not settings.resume:
        return {"benchmark": "time_to_90", **environment, "settings": kept, "peers": peers, "runs": []}
    results = load_for_resume(settings.out, kept)
    if results["device"] != environment["device"]:
        raise ConfigError(
            f"{settings.out}: was measured on another device, {results['device']}; choose another --out for this one"
        )
    return {**results, "peers": {**results["peers"], **peers}}


def _train_in_turn(trainings: dict[str, Training], settings: TimeTo90, results: dict[str, Any]) -> None:
    """Run each training from each seed that `results` lacks, and write the results after each run."""
    runs = results["runs"]
    done = {(run["name"], run["seed"]) for run in runs}
    for seed in range(settings.first_seed, settings.first_seed + settings.seeds):
        for name, train in trainings.items():
            if (name, seed) not in done:
                runs.append({"name": name, "commit": source_commit(), **train(seed)})
                results["figures"] = {
                    name: summarize_runs([run for run in runs if run["name"] == name], settings.target_accuracy)
                    for name in dict.fromkeys(run["name"] for run in runs)
                }
                _print_run(runs[-1], name)
                write_results(settings.out, results)
    _print_table(results["figures"])


def summarize_runs(runs: Sequence[dict[str, Any]], target_accuracy: float) -> dict[str, Any]:
    """Statistics of a recipe's runs. Accuracies are from 0 to 1, times in seconds, energy in joules."""
    plain = [run["test_accuracy"] for run in runs]
    final = [run["final_accuracy"] for run in runs]
    times = [run["seconds"] for run in runs]
    to_target = [run["seconds_to_target"] for run in runs if run["seconds_to_target"] is not None]
    energy = [run["joules"] for run in runs if run["joules"] is not None]
    return {
        "runs": len(runs),
        "era_epoch_equivalents": runs[0].get("era_epoch_equivalents"),
        "accuracy": _spread(final),
        "accuracy_without_tta": _spread(plain),
        "mean_reaches_target": statistics.fmean(final) >= target_accuracy,
        "fraction_reaching_target": sum(accuracy >= target_accuracy for accuracy in final) / len(runs),
        "seconds": _spread(times),
        "seconds_to_target": _spread(to_target) if to_target else None,
        "joules": _spread(energy) if energy else None,
    }


def _spread(values: list[float]) -> dict[str, float]:
    deviation = statistics.stdev(values) if len(values) > 1 else 0.0
    return {
        "mean": statistics.fmean(values), "median": statistics.median(values), "stdev": deviation,
        "min": min(values), "max": max(values),
    }  # fmt: skip


def read_recipe(name: str, settings: TimeTo90) -> TrainConfig:
    """The configuration that NAME:setting=value,… names. Its changes take precedence over the benchmark's settings.

    Raises:
        ConfigError: there is no such recipe or setting, or its value is not allowed.
    """
    recipe, _, changes = name.partition(":")
    values = {key: getattr(settings, key) for key in ("data_dir", "device", "compile", "amp", "val_fraction")}
    for change in filter(None, re.split(r",(?![^\[]*\])", changes)):  # a comma between brackets separates list elements
        field, _, value = change.partition("=")
        values[field] = _parse_value(value)
    return TrainConfig.from_json(get_recipe(recipe, **values).to_json())  # which checks the types


def _parse_value(text: str) -> Any:
    """A number, list, boolean or None, written as in JSON or Python; otherwise the text itself."""
    for parse in (json.loads, ast.literal_eval):
        with contextlib.suppress(ValueError, SyntaxError):
            return parse(text)
    return text


def _train(config: TrainConfig, target_accuracy: float, seed: int) -> dict[str, Any]:
    config = config.replace(seed=seed)
    with create_state(config) as state:
        equivalents = era_epoch_equivalents(state)
        before = _joules(state)
        history = [result.to_json() for result in fit(state)]
        after = _joules(state)
    run = describe_run(config, history)
    evaluated = [(*final_accuracy(history[: number + 1]), epoch) for number, epoch in enumerate(history)]
    reached = [
        epoch["total_train_seconds"] + seconds for accuracy, seconds, epoch in evaluated if accuracy >= target_accuracy
    ]
    final, last = final_accuracy(history)
    return {
        **run,
        "era_epoch_equivalents": equivalents,
        "final_accuracy": final,
        "tta_accuracy": history[-1]["tta_accuracy"],
        "seconds": run["train_seconds"] + last,
        "seconds_to_target": reached[0] if reached else None,
        "joules": None if before is None or after is None else after - before,
    }


def final_accuracy(history: Sequence[dict[str, Any]]) -> tuple[float, float]:
    """The last epoch's accuracy, with the run's test-time augmentation if any, and the seconds of that evaluation."""
    last = history[-1]
    if last["tta_accuracy"] is None:
        return last["test_accuracy"], last["eval_seconds"]
    return last["tta_accuracy"], last["tta_seconds"]


def _joules(state: TrainState) -> float | None:
    """The reading of the GPU's energy counter; None on a device without one. Evaluations are included."""
    if state.runtime.device.type != "cuda":
        return None
    try:
        import pynvml
    except ImportError:
        return None
    pynvml.nvmlInit()
    handle = pynvml.nvmlDeviceGetHandleByUUID(f"GPU-{torch.cuda.get_device_properties(state.runtime.device).uuid}")
    return float(pynvml.nvmlDeviceGetTotalEnergyConsumption(handle)) / 1e3


def _print_run(run: dict[str, Any], name: str) -> None:
    print(
        f"{name} seed {run['seed']}: {run['final_accuracy']:.2%} ({run['test_accuracy']:.2%} without test-time "
        f"augmentation) in {run['seconds']:.2f} s",
        flush=True,
    )


def _print_table(figures: dict[str, dict[str, Any]]) -> None:
    table = Table(
        "training", "runs", "accuracy", "accuracy without TTA", "seconds", "runs at target", title="Time to 90 %"
    )
    for name, values in figures.items():
        accuracy, plain, seconds = values["accuracy"], values["accuracy_without_tta"], values["seconds"]
        table.add_row(
            name,
            str(values["runs"]),
            f"{accuracy['mean']:.2%} ± {accuracy['stdev']:.2%}",
            f"{plain['mean']:.2%}",
            f"{seconds['mean']:.2f} ± {seconds['stdev']:.2f}",
            f"{values['fraction_reaching_target']:.0%}",
        )
    Console().print(table)


if __name__ == "__main__":
    run_command(main, TimeTo90, __doc__)
