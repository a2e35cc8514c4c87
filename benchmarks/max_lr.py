"""Quality of the LR finder's suggestion: short trainings with 0.3, 1 and 3 times the suggested learning rate, in turn.

    python -m benchmarks.max_lr era:epochs=6 --out benchmarks/results/max-lr-cpu.json

The range test and the trainings use the pipeline of a recipe and a validation split of the training set; every learning
rate is trained from the same seeds. With --resume, the suggestion and the runs in --out are kept.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass, replace

from benchmarks.harness import run_command, show_progress
from benchmarks.results import Results
from benchmarks.time_to_90 import TimeTo90, read_recipe, sweep
from fastcifar.config import LrFinderSettings
from fastcifar.errors import ConfigError
from fastcifar.lr_finder.range_test import range_test
from fastcifar.lr_finder.suggest import suggest, tested_lrs
from fastcifar.training.state import create_state


@dataclass(frozen=True, kw_only=True)
class MaxLr(TimeTo90):
    """Train a recipe with several multiples of the learning rate that the range test suggests."""

    multiples: tuple[float, ...] = (0.3, 1.0, 3.0)
    """Multiples of the suggested max_lr to train with."""
    seeds: int = 2
    """Runs per learning rate."""
    first_seed: int = 0
    """Seed of the first run."""
    val_fraction: float = 0.1
    """Fraction of the training set to evaluate on."""


def main(settings: MaxLr) -> None:
    """Run the range test, then the trainings."""
    if len(settings.recipes) != 1:
        raise ConfigError(f"recipes is {' '.join(settings.recipes)!r}; name one recipe, such as era:epochs=6")
    (recipe,) = settings.recipes
    config = read_recipe(recipe, settings)
    if settings.resume:
        extra = Results.read(settings.out).extra
    else:
        settings.runtime()
        with create_state(config) as state:
            steps, total = itertools.count(1), LrFinderSettings().iterations
            curve = range_test(state, on_loss=lambda *_: show_progress("range test", next(steps), total, "steps"))
        extra = {"recipe": config.name, "epochs": config.epochs, "suggestion": suggest(curve).to_json()}
        extra["curve"] = curve.to_json()
    separator = "," if ":" in recipe else ":"
    rates = [tested_lrs(config, multiple * extra["suggestion"]["max_lr"]) for multiple in settings.multiples]
    changes = [",".join(f"{name}={value:.4g}" for name, value in rate.items()) for rate in rates]
    trainings = replace(settings, recipes=tuple(f"{recipe}{separator}{change}" for change in changes))
    sweep(trainings, "max_lr", extra)


if __name__ == "__main__":
    run_command(main, __doc__)
