"""Sweeps whose run folders are written directly, without a training."""

from __future__ import annotations

import json
from typing import Any

from fastcifar import get_recipe
from fastcifar.sweep.folder import SweepFolder
from fastcifar.sweep.plan import SweepOptions, SweepPlan, Trial
from fastcifar.sweep.space import Space, parse_search
from tests.runs.examples import ENVIRONMENT, result

SPACE = parse_search(["max_lr=choice(0.1, 0.2, 0.4)", "batch_size=choice(20, 50)"])


def make_plan(space: Space = SPACE, **options: Any) -> SweepPlan:
    options = {"method": "grid", **options}
    recipes = {"speedrun": get_recipe("speedrun", epochs=3, val_fraction=0.1)}
    return SweepPlan(options=SweepOptions(**options), space=space, recipes=recipes, content_sha256="0")


def write_epochs(folder: SweepFolder, trial: Trial, accuracies: list[float]) -> None:
    """Write the run folder of a trial with these accuracies, one per epoch."""
    run_dir = folder.run_dir(trial)
    run_dir.mkdir(parents=True)
    config = folder.plan.config(folder.configurations[trial.configuration], seed=trial.seed, run_dir=run_dir)
    (run_dir / "config.json").write_text(json.dumps(config.to_json()))
    (run_dir / "environment.json").write_text(json.dumps(ENVIRONMENT))
    results = [result(epoch, epochs=3, test_accuracy=accuracy) for epoch, accuracy in enumerate(accuracies, start=1)]
    (run_dir / "metrics.jsonl").write_text("".join(json.dumps(each.to_json()) + "\n" for each in results))
