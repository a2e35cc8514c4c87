"""Whether the range test's LRMAX is a good one: short trainings at 0.3, 1 and 3 times that rate, in turn.

    python -m benchmarks.max_lr --epochs 6 --out benchmarks/results/max-lr-cpu.json

The range test and the trainings use the pipeline of a recipe, on a validation split of the training set; each rate is
trained from the same seeds. The figure that counts is how far the suggested rate's mean accuracy is from the best's.
With --resume it keeps the suggestion and the trainings that --out has, and makes those that are missing.
"""

from __future__ import annotations

import dataclasses
import statistics
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from benchmarks.common import RESULTS, load_for_resume, describe_run, run_command, write_results
from fastcifar import fit, get_recipe
from fastcifar.config import TrainConfig
from fastcifar.lr_finder.suggest import suggest
from fastcifar.lr_finder.range_test import range_test
from fastcifar.runs.folder import describe_environment, source_commit
from fastcifar.training.state import create_state


@dataclass(frozen=True, kw_only=True)
class MaxLr:
    """Train at several multiples of the rate that the range test suggests."""

    recipe: str = "era"
    """Recipe whose pipeline is used, at rates of its own cycle's shape."""
    betons: Path = Path("data/betons")
    """Folder with train.beton."""
    device: str = "auto"
    """'cpu', 'cuda', …"""
    compile: bool = False
    """Compile network and augmentation."""
    epochs: int = 6
    """Epochs of each training."""
    multiples: tuple[float, ...] = (1.0, 0.3, 3.0)
    """What LRMAX is multiplied by."""
    seeds: int = 2
    """Trainings at each rate."""
    val_fraction: float = 0.1
    """Share of the training set that they are measured on."""
    resume: bool = False
    """Go on with the trainings that --out has."""
    out: Path = RESULTS / "max-lr.json"
    """The JSON to write, again after each training."""


def main(settings: MaxLr) -> None:
    base = get_recipe(
        settings.recipe,
        betons=settings.betons,
        device=settings.device,
        compile=settings.compile,
        epochs=settings.epochs,
        val_fraction=settings.val_fraction,
        amp=True,
    )
    results = load_for_resume(settings.out, _kept(settings)) if settings.resume else _begin(settings, base)
    done = {(run["seed"], run["multiple"]) for run in results["runs"]}
    for seed in range(settings.seeds):
        for multiple in settings.multiples:
            if (seed, multiple) not in done:
                lr = multiple * results["suggestion"]["max_lr"]
                run = _train(dataclasses.replace(base, max_lr=lr, seed=seed))
                results["runs"].append({"multiple": multiple, **run})
                results["figures"] = derive(results["runs"])
                write_results(settings.out, results)
    _print(results)


def _begin(settings: MaxLr, base: TrainConfig) -> dict[str, Any]:
    """The result file before the first training, with the range test."""
    state = create_state(base)
    curve = range_test(state)
    environment = describe_environment(state.runtime, state.manifest)
    state.close()
    return {
        "benchmark": "max_lr",
        **environment,
        "settings": _kept(settings),
        "suggestion": suggest(curve).to_json(),
        "curve": curve.to_json(),
        "runs": [],
    }


def _kept(settings: MaxLr) -> dict[str, Any]:
    """The settings that make a file's trainings what they are."""
    return {
        name: value for name, value in dataclasses.asdict(settings).items() if name not in ("betons", "resume", "out")
    }


def derive(runs: list[dict[str, Any]]) -> dict[str, Any]:
    """Mean accuracy of each multiple, and how far the suggestion, 1, is below the best, as a share of all images."""
    by_multiple: dict[float, list[float]] = {}
    for run in runs:
        by_multiple.setdefault(run["multiple"], []).append(run["test_accuracy"])
    means = {multiple: statistics.fmean(values) for multiple, values in by_multiple.items()}
    below = max(means.values()) - means[1.0] if 1.0 in means else None
    return {"mean_accuracy": {f"{multiple:g}": mean for multiple, mean in means.items()}, "below_best": below}


def _train(config: TrainConfig) -> dict[str, Any]:
    state = create_state(config)
    history = [result.to_json() for result in fit(config, state=state)]
    return {
        "device": state.runtime.describe_device(),
        "commit": source_commit(),
        **describe_run(config, history),
    }


def _print(results: dict[str, Any]) -> None:
    table = Table("LRMAX", "multiple", "seed", "validation accuracy", title="Trainings around the suggested rate")
    for run in results["runs"]:
        lr = run["config"]["max_lr"]
        table.add_row(f"{lr:.3g}", f"{run['multiple']:g}", str(run["seed"]), f"{run['test_accuracy']:.2%}")
    Console().print(table, f"the suggestion is {results['figures']['below_best']:.2%} below the best")


if __name__ == "__main__":
    run_command(main, MaxLr, __doc__)
