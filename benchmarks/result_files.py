"""Reading result files: those of fastcifar 0.1 under today's names, checked, and compared with today's recipes."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from fastcifar import get_recipe
from fastcifar.config import SETTINGS, TrainConfig
from fastcifar.errors import ConfigError
from fastcifar.migrations import SETTINGS as RENAMED_SETTINGS
from fastcifar.migrations import migrate_config, migrate_result
from fastcifar.training.resume import RESUME_OVERRIDABLE

KEYS_0_1 = {
    "by_ours": "relative_to_fastcifar",
    "epochs_worth": "era_epoch_equivalents",
    "plain_by_model": "plain_relative_to_model",
    "quoted_accuracy": "final_accuracy",
    "share": "fraction",
    "share_of_ceiling": "fraction_of_ceiling",
    "share_of_step": "fraction_of_step",
    "share_reaching_target": "fraction_reaching_target",
    "target": "target_accuracy",
    "whole_by_model": "whole_relative_to_model",
    "lost epochs that had been reported": "reported epochs that were lost",
    "went on from last": "resumed from last",
    "went on from previous": "resumed from previous",
    "ended well after it": "ended well afterwards",
    "went on": "no error",
}
"""Keys in the result files of fastcifar 0.1, and today's."""
LABELS_0_1 = {
    "FFCV, resident": "FFCV, cached on the device",
    "a loop over the crop's offsets": "a loop over the offsets of the crop",
    "open, hash included": "open, with a check of the hash",
    "torchvision v2, one draw a batch": "torchvision v2, one draw per batch",
}
"""Labels in the result files of fastcifar 0.1, and today's."""
SYNTHETIC = {"reliability", "faults", "soak", "coverage"}
"""Benchmarks of files and processes, which need no real images."""
ENVELOPE = ("benchmark", "device", "precision", "versions", "commit", "data", "runs")
RUN = (
    "recipe", "config", "seed", "epochs", "train_seconds", "eval_seconds", "test_accuracy", "best_accuracy", "history"
)  # fmt: skip
RUNTIME = {name for name, (group, _) in SETTINGS.items() if group == "runtime"}
NOT_IN_RECIPES = RUNTIME | RESUME_OVERRIDABLE | {"val_fraction"}
"""Settings that are not part of a recipe: paths, device, precision, speed, seed and the validation split."""
NO_EFFECT: tuple[Any, ...] = (None, False, 0, [], "none")
NO_EFFECT_OF = {"norm_momentum": 0.1}
"""Values with which a removed setting had no effect: for any setting, and for single settings by name."""


def read_results(path: Path) -> dict[str, Any]:
    """A result file under today's names; empty if there is none."""
    return dict(migrate_results(json.loads(path.read_text()))) if path.exists() else {}


def migrate_results(values: Any) -> Any:
    """Results under today's names; those that have them already are unchanged."""
    if isinstance(values, list):
        return [migrate_results(value) for value in values]
    if not isinstance(values, dict):
        return values
    migrated: dict[str, Any] = {}
    for key, value in values.items():
        if key == "config":
            migrated[key] = migrate_config(value)
        elif key == "history":
            migrated[key] = [migrate_result(epoch) for epoch in value]
        elif key in ("name", "part"):
            migrated[key] = _migrate_label(value)
        else:
            migrated[KEYS_0_1.get(key, _migrate_label(key))] = migrate_results(value)
    return migrated


def _migrate_label(label: str) -> str:
    """A label under today's name, or the name of a training, RECIPE:setting=value,…, with today's names of settings."""
    label = LABELS_0_1.get(label, label)
    return re.sub(r"\b\w+(?==)", lambda match: RENAMED_SETTINGS.get(match[0], match[0]), label)


def changed_settings(config: dict[str, Any], on_purpose: Iterable[str] = ()) -> list[str]:
    """Names of a run's settings that differ from those of today's recipe.

    Args:
        config: the run's settings, from `read_results`.
        on_purpose: names of settings that the benchmark changed.
    """
    try:
        today = get_recipe(config["base_recipe"]).to_json()
    except ConfigError:
        return ["recipe"]
    defaults = TrainConfig().to_json()
    compared = [name for name in SETTINGS if name not in NOT_IN_RECIPES and name not in set(on_purpose)]
    changed = [name for name in compared if config.get(name, defaults[name]) != today[name]]
    removed = config.keys() - today.keys() - set(on_purpose)
    return changed + sorted(name for name in removed if config[name] not in (*NO_EFFECT, NO_EFFECT_OF.get(name)))


def changes_of(name: str) -> list[str]:
    """Names of the settings that a training's name, RECIPE:setting=value,…, changes."""
    return re.findall(r"\b\w+(?==)", name)


def find_problems(path: Path) -> list[str]:
    """Sentences on fields that a committed result file lacks, or that contradict each other."""
    results = read_results(path)
    problems = [f"has no {key}" for key in ENVELOPE if not results.get(key)]
    expected = "synthetic" if results.get("benchmark") in SYNTHETIC else "cifar10"
    if results.get("data", {}).get("name") != expected or "content_sha256" not in results["data"]:
        problems.append(f"its data must be {expected}, with a content_sha256")
    if str(results.get("commit")).endswith("-dirty"):
        problems.append("was measured on a commit with changes")
    for number, run in enumerate(results.get("runs", [])):
        lacks = [key for key in RUN if key not in run] if "recipe" in run else []
        if lacks:
            problems.append(f"run {number} has no {', '.join(lacks)}")
        elif "recipe" in run and len(run["history"]) != run["epochs"]:
            problems.append(f"run {number} has {len(run['history'])} entries in its history for {run['epochs']} epochs")
        elif "recipe" in run and run["test_accuracy"] != run["history"][-1]["test_accuracy"]:
            problems.append(f"run {number} has another test_accuracy than the last epoch of its history")
    return [f"{path.name}: {problem}" for problem in problems]
