"""Quality of the LR finder's suggestion: short trainings with 0.3, 1 and 3 times the suggested learning rate, in turn.

    python -m benchmarks.max_lr --epochs 6 --out benchmarks/results/max-lr-cpu.json

The range test and the trainings use the pipeline of a recipe and a validation split of the training set; every learning
rate is trained from the same seeds. The main result is the difference between the mean accuracy with the suggested
learning rate and the best mean. With --resume, the suggestion and the runs in --out are kept, and missing runs added.
"""

from __future__ import annotations

import dataclasses
import statistics
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from benchmarks.common import RESULTS, describe_run, load_for_resume, run_command, write_results
from fastcifar import fit, get_recipe
from fastcifar.config import TrainConfig
from fastcifar.lr_finder.range_test import range_test
from fastcifar.lr_finder.suggest import suggest
from fastcifar.runs.folder import describe_environment, source_commit
from fastcifar.training.state import create_state


@dataclass(frozen=True, kw_only=True)
class MaxLr:
    """Train with several multiples of the learning rate that the range test suggests."""

    recipe: str = "era"
    """Recipe whose pipeline and schedule are used."""
    data_dir: Path = Path("data/betons")
    """Folder with train.beton."""
    device: str = "auto"
    """'cpu', 'cuda', …"""
    compile: bool = False
    """Compile network and augmentation."""
    epochs: int = 6
    """Epochs of each training."""
    multiples: tuple[float, ...] = (1.0, 0.3, 3.0)
    """Multiples of the suggested max_lr to train with."""
    seeds: int = 2
    """Runs per learning rate."""
    val_fraction: float = 0.1
    """Fraction of the training set to evaluate on."""
    resume: bool = False
    """Keep the runs in --out, and add those that are missing."""
    out: Path = RESULTS / "max-lr.json"
    """The JSON to write, after each run."""


def main(settings: MaxLr) -> None:
    base = get_recipe(
        settings.recipe,
        data_dir=settings.data_dir,
        device=settings.device,
        compile=settings.compile,
        epochs=settings.epochs,
        val_fraction=settings.val_fraction,
        amp=True,
    )
    results = load_for_resume(settings.out, _kept(settings)) if settings.resume else _initial_results(settings, base)
    done = {(run["seed"], run["multiple"]) for run in results["runs"]}
    for seed in range(settings.seeds):
        for multiple in settings.multiples:
            if (seed, multiple) not in done:
                lr = multiple * results["suggestion"]["max_lr"]
                run = _train(base.replace(max_lr=lr, seed=seed))
                results["runs"].append({"multiple": multiple, **run})
                results["figures"] = summarize_runs(results["runs"])
                write_results(settings.out, results)
    _print(results)


def _initial_results(settings: MaxLr, base: TrainConfig) -> dict[str, Any]:
    """Run the range test, and return the results before the first training."""
    with create_state(base) as state:
        curve = range_test(state)
        environment = describe_environment(state.runtime, state.manifest)
    return {
        "benchmark": "max_lr",
        **environment,
        "settings": _kept(settings),
        "suggestion": suggest(curve).to_json(),
        "curve": curve.to_json(),
        "runs": [],
    }


def _kept(settings: MaxLr) -> dict[str, Any]:
    """The settings that must be equal when a benchmark is resumed."""
    return {
        name: value for name, value in dataclasses.asdict(settings).items() if name not in ("data_dir", "resume", "out")
    }


def summarize_runs(runs: list[dict[str, Any]]) -> dict[str, Any]:
    """Mean accuracy of each multiple, and the difference between the best mean and that of the suggestion, 1."""
    by_multiple: dict[float, list[float]] = {}
    for run in runs:
        by_multiple.setdefault(run["multiple"], []).append(run["test_accuracy"])
    means = {multiple: statistics.fmean(values) for multiple, values in by_multiple.items()}
    below = max(means.values()) - means[1.0] if 1.0 in means else None
    return {"mean_accuracy": {f"{multiple:g}": mean for multiple, mean in means.items()}, "below_best": below}


def _train(config: TrainConfig) -> dict[str, Any]:
    with create_state(config) as state:
        history = [result.to_json() for result in fit(state)]
    device = state.runtime.describe_device()
    return {"device": device, "commit": source_commit(), **describe_run(config, history)}


def _print(results: dict[str, Any]) -> None:
    table = Table("max_lr", "multiple", "seed", "validation accuracy", title="Trainings around the suggestion")
    for run in results["runs"]:
        lr = run["config"]["max_lr"]
        table.add_row(f"{lr:.3g}", f"{run['multiple']:g}", str(run["seed"]), f"{run['test_accuracy']:.2%}")
    Console().print(table, f"the suggestion is {results['figures']['below_best']:.2%} below the best")


if __name__ == "__main__":
    run_command(main, MaxLr, __doc__)
