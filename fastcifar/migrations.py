"""Read the files of fastcifar 0.1: convert its settings, results and checkpoints to today's names."""

from typing import Any

CHECKPOINT_VERSION_0_1 = 3
"""The format version of a checkpoint of fastcifar 0.1."""

SETTINGS = {
    "recipe": "base_recipe",
    "betons": "data_dir",
    "resident": "cache_on_device",
    "target": "target_accuracy",
    "head_std": "head_init_std",
    "freeze_after": "freeze_at",
    "small_sizes": "resize_sizes",
    "small_shares": "resize_fractions",
    "tta_share": "tta_fraction",
}
RESULTS = {"held_out": "eval_split"}
OPTIMIZER_GROUPS = {"length": "schedule_fraction", "lr_ratio": "lr_scale", "orthogonal": "use_muon"}
PROGRESS = {"epoch": "epochs_done", "epoch_steps": "epoch_steps_done"}


def migrate_config(values: dict[str, Any]) -> dict[str, Any]:
    """Rename settings. Those that already have today's names are unchanged, and missing ones stay missing."""
    return _rename(values, SETTINGS)


def migrate_result(values: dict[str, Any]) -> dict[str, Any]:
    """Rename the values of an epoch's result. Those that already have today's names are unchanged."""
    return _rename(values, RESULTS)


def migrate_checkpoint(values: dict[str, Any]) -> dict[str, Any]:
    """Convert the values of a checkpoint from format version 3 to version 4."""
    values = dict(values)
    values["config"] = migrate_config(values["config"])
    groups = [_rename(group, OPTIMIZER_GROUPS) for group in values["optimizer"]["param_groups"]]
    values["optimizer"] = {**values["optimizer"], "param_groups": groups}
    moved = ("epoch", "epoch_steps", "epoch_totals", "epoch_seconds", "train_seconds")
    progress = _rename({name: values.pop(name) for name in moved}, PROGRESS)
    best = values.pop("best")
    values["progress"] = {
        **values.pop("schedule"), **progress, "best_accuracy": best["accuracy"], "best_epoch": best["epoch"],
    }  # fmt: skip
    return values


def _rename(values: dict[str, Any], names: dict[str, str]) -> dict[str, Any]:
    return {names.get(name, name): value for name, value in values.items()}
