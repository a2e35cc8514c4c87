"""How long each recipe takes to 90 % test accuracy, over several seeds, the recipes in turn.

    python -m benchmarks.time_to_90 speedrun era-fast --seeds 10 --out benchmarks/results/time-to-90-cpu.json

Two times are run_reporting_errors. Of each run: its training up to the first evaluation that reaches the target. Of a recipe: the
mean time of its runs, whatever each reached, which counts where their mean accuracy reaches the target. A run's time is
its training, from the first byte read, and the inference of the evaluation that its accuracy rests on, the last, with
the test-time augmentation that it uses. Compilation, on made-up data before the clock, is given apart. Energy is the
device's own count, where it has one. What a recipe computes is given in epochs of `era`. With --resume the runs that
--out has are kept, and the others made.
"""

from __future__ import annotations

import dataclasses
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

from benchmarks.common import RESULTS, load_for_resume, describe_run, run_command, write_results
from benchmarks.peers import AIRBENCH, HIVERGE, Peer
from benchmarks.work import epochs_worth
from fastcifar import fit, get_recipe
from fastcifar.config import TrainConfig
from fastcifar.data.manifest import open_beton
from fastcifar.errors import ConfigError
from fastcifar.runs.folder import describe_environment, source_commit
from fastcifar.device import Runtime, resolve_runtime
from fastcifar.training.state import TrainState, create_state

Training = Callable[[int], dict[str, Any]]
"""A recipe's or a peer's training, from a seed to its entry in the results."""


@dataclass(frozen=True, kw_only=True)
class TimeTo90:
    """Train recipes from several seeds, in turn."""

    recipes: Annotated[tuple[str, ...], tyro.conf.Positional]
    """Recipes by name, with changes to their settings as NAME:setting=value,setting=value."""
    betons: Path = Path("data/betons")
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
    """Seed of the first; settings were chosen with others."""
    val_fraction: float = 0.0
    """Measure on this share of the training set in place of the test set, to choose settings by."""
    target: float = 0.90
    """Accuracy that is to be reached."""
    airbench: Path | None = None
    """A checkout of KellerJordan/cifar10-airbench, to train in turn with the recipes."""
    airbench_epochs: tuple[float, ...] = (2.75,)
    """What its training is cut to, one training each."""
    hiverge: Path | None = None
    """A checkout of hiverge/cifar10-speedrun, likewise."""
    hiverge_epochs: tuple[float, ...] = (2.5,)
    """What its training is cut to, one training each."""
    resume: bool = False
    """Go on with the runs that --out has, made on this device."""
    out: Path = RESULTS / "time-to-90.json"
    """The JSON to write, again after each run."""


def main(settings: TimeTo90) -> None:
    trainings: dict[str, Training] = {}
    configs = {name: read_recipe(name, settings) for name in settings.recipes}
    runtime = resolve_runtime(next(iter(configs.values())))
    for name, config in configs.items():
        trainings[name] = functools.partial(_train, config, settings.target)
    with ExitStack() as stack:
        peers: dict[str, Any] = {}
        for project, checkout, epochs in (
            (AIRBENCH, settings.airbench, settings.airbench_epochs),
            (HIVERGE, settings.hiverge, settings.hiverge_epochs),
        ):
            if checkout is not None:
                peer = Peer(project, checkout, epochs, runtime.device, settings.betons)
                peers |= dict.fromkeys(peer.names.values(), peer.describe())
                trainings |= peer.load(Path(stack.enter_context(tempfile.TemporaryDirectory())))
        _train_in_turn(trainings, settings, _begin(settings, runtime, peers))


def _begin(settings: TimeTo90, runtime: Runtime, peers: dict[str, Any]) -> dict[str, Any]:
    """The result file before this start's first training."""
    _, manifest = open_beton(settings.betons / "train.beton")
    kept = {key: getattr(settings, key) for key in ("seeds", "first_seed", "target", "compile", "amp", "val_fraction")}
    environment = describe_environment(runtime, manifest)
    if not settings.resume:
        return {"benchmark": "time_to_90", **environment, "settings": kept, "peers": peers, "runs": []}
    results = load_for_resume(settings.out, kept)
    if results["device"] != environment["device"]:
        raise ConfigError(f"{settings.out} was load_for_resume on {results['device']}: its times say nothing of this device's")
    return {**results, "peers": {**results["peers"], **peers}}


def _train_in_turn(trainings: dict[str, Training], settings: TimeTo90, results: dict[str, Any]) -> None:
    """Each training from each seed that `results` has not, with the results written after each."""
    runs = results["runs"]
    done = {(run["name"], run["seed"]) for run in runs}
    for seed in range(settings.first_seed, settings.first_seed + settings.seeds):
        for name, train in trainings.items():
            if (name, seed) not in done:
                runs.append({"name": name, "commit": source_commit(), **train(seed)})
                results["figures"] = {
                    name: derive([run for run in runs if run["name"] == name], settings.target)
                    for name in dict.fromkeys(run["name"] for run in runs)
                }
                _show(runs[-1], name)
                write_results(settings.out, results)
    _print(results["figures"])


def derive(runs: Sequence[dict[str, Any]], target: float) -> dict[str, Any]:
    """What a recipe's runs come to. Accuracies are from 0 to 1, times in seconds, energy in joules."""
    plain = [run["test_accuracy"] for run in runs]
    quoted = [run["final_accuracy"] for run in runs]
    times = [run["seconds"] for run in runs]
    to_target = [run["seconds_to_target"] for run in runs if run["seconds_to_target"] is not None]
    energy = [run["joules"] for run in runs if run["joules"] is not None]
    return {
        "runs": len(runs),
        "epochs_worth": runs[0].get("epochs_worth"),
        "accuracy": _spread(quoted),
        "accuracy_without_tta": _spread(plain),
        "mean_reaches_target": statistics.fmean(quoted) >= target,
        "share_reaching_target": sum(accuracy >= target for accuracy in quoted) / len(runs),
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
    """The configuration that NAME:setting=value,… stands for.

    Raises:
        ConfigError: there is no such recipe or setting, or its value is not allowed.
    """
    recipe, _, changes = name.partition(":")
    values: dict[str, Any] = {}
    for change in filter(None, re.split(r",(?![^\[]*\])", changes)):  # commas between brackets are a list's
        field, _, value = change.partition("=")
        try:
            values[field] = json.loads(value)  # numbers, true and false
        except ValueError:
            values[field] = value
    shared = ("betons", "device", "compile", "amp", "val_fraction")
    return get_recipe(recipe, **{key: getattr(settings, key) for key in shared}, **values)


def _train(config: TrainConfig, target: float, seed: int) -> dict[str, Any]:
    config = dataclasses.replace(config, seed=seed)
    state = create_state(config)
    worth = epochs_worth(state)
    before = _joules(state)
    history = [result.to_json() for result in fit(config, state=state)]
    after = _joules(state)
    run = describe_run(config, history)
    evaluated = [(*final_accuracy(history[: number + 1]), epoch) for number, epoch in enumerate(history)]
    reached = [epoch["total_train_seconds"] + seconds for accuracy, seconds, epoch in evaluated if accuracy >= target]
    quoted, last = final_accuracy(history)
    return {
        **run,
        "epochs_worth": worth,
        "final_accuracy": quoted,
        "tta_accuracy": history[-1]["tta_accuracy"],
        "seconds": run["train_seconds"] + last,
        "seconds_to_target": reached[0] if reached else None,
        "joules": None if before is None or after is None else after - before,
    }


def final_accuracy(history: Sequence[dict[str, Any]]) -> tuple[float, float]:
    """The last epoch's accuracy, with test-time augmentation if the run has it, and the seconds of that evaluation."""
    last = history[-1]
    if last["tta_accuracy"] is None:
        return last["test_accuracy"], last["eval_seconds"]
    return last["tta_accuracy"], last["tta_seconds"]


def _joules(state: TrainState) -> float | None:
    """The GPU's energy counter, evaluations included; None where there is none."""
    if state.runtime.device.type != "cuda":
        return None
    try:
        import pynvml
    except ImportError:
        return None
    pynvml.nvmlInit()
    handle = pynvml.nvmlDeviceGetHandleByUUID(f"GPU-{torch.cuda.get_device_properties(state.runtime.device).uuid}")
    return float(pynvml.nvmlDeviceGetTotalEnergyConsumption(handle)) / 1e3


def _show(run: dict[str, Any], name: str) -> None:
    print(
        f"{name} seed {run['seed']}: {run['final_accuracy']:.2%} ({run['test_accuracy']:.2%} without test-time "
        f"augmentation) in {run['seconds']:.2f} s",
        flush=True,
    )


def _print(figures: dict[str, dict[str, Any]]) -> None:
    table = Table("recipe", "runs", "accuracy", "without TTA", "seconds", "share at target", title="Time to 90 %")
    for name, values in figures.items():
        accuracy, plain, seconds = values["accuracy"], values["accuracy_without_tta"], values["seconds"]
        table.add_row(
            name,
            str(values["runs"]),
            f"{accuracy['mean']:.2%} ± {accuracy['stdev']:.2%}",
            f"{plain['mean']:.2%}",
            f"{seconds['mean']:.2f} ± {seconds['stdev']:.2f}",
            f"{values['share_reaching_target']:.0%}",
        )
    Console().print(table)


if __name__ == "__main__":
    run_command(main, TimeTo90, __doc__)
