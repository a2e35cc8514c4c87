"""Resume a run from its newest checkpoint."""

import os
from pathlib import Path
from typing import Any

from fastcifar.config import SETTINGS, TrainConfig
from fastcifar.errors import CheckpointError
from fastcifar.runs.checkpoint import checkpoint_path, newest_checkpoint
from fastcifar.runs.data import NAME_FOLDER
from fastcifar.training.state import TrainState

RESUME_OVERRIDABLE = (
    {"data_dir", "eval_batch_size", "loader", "workers", "cache_on_device", "verify"}
    | {"device", "amp", "amp_dtype", "channels_last", "compile", "compile_mode", "cuda_graphs", "compress_gradients"}
    | {"target_accuracy", "checkpoint_every", "run_dir"}
)
"""Settings that may differ in a resumed run: paths, device, precision, speed, checkpoints and the target accuracy."""


def restore(run: Path, state: TrainState) -> CheckpointError | None:
    """Load a run's newest readable checkpoint into `state`; return the error of a newer, damaged one.

    A damaged newer checkpoint is renamed to damaged.pt, so that the next save does not replace the readable one.
    `state.notes` gets a sentence if the run goes on in another precision.

    Raises:
        CheckpointError: there is none, or its settings, data or number of steps differ from those of `state`.
    """
    with state.processes.first_only("checkpoint") as is_first:  # others may be on machines without the folder
        read = newest_checkpoint(run) if is_first else (run, {}, None)
    path, values, damage = state.processes.from_first(read)
    if values["content_sha256"] != state.manifest.content_sha256:
        folder = state.config.data.data_dir.absolute()
        raise CheckpointError(f"{path}: was trained on other data than that in {folder}; {NAME_FOLDER}")
    saved, now = TrainConfig.from_json(values["config"]).to_json(), state.config.to_json()
    _require_equal(path, "--recipe", saved["base_recipe"], now["base_recipe"])
    for name in SETTINGS.keys() - RESUME_OVERRIDABLE:
        _require_equal(path, f"--{name.replace('_', '-')}", saved[name], now[name])
    _require_equal(path, "the number of steps", values["progress"]["total_steps"], state.total_steps)
    try:
        state.load_state_dict(values)
    except (RuntimeError, KeyError, ValueError) as error:
        raise CheckpointError(f"{path}: does not fit this network ({str(error).splitlines()[0]})") from error
    state.notes += _precision_notes(values, state)
    if damage and state.processes.is_first and checkpoint_path(run, "last").exists():
        os.replace(checkpoint_path(run, "last"), path.with_name("damaged.pt"))
    return damage


def _precision_notes(values: dict[str, Any], state: TrainState) -> list[str]:
    """A sentence if the checkpoint is from another precision. Those of earlier versions do not name it."""
    before, now = values.get("precision", "another precision"), state.runtime.dtype_name
    fresh = state.scaler.enabled and not values["scaler"]
    if before == now or not (fresh or "precision" in values):
        return []
    scale = ", with a new loss scale" if fresh else ""
    return [f"The run was computed in {before} so far, and goes on in {now}{scale}"]


def _require_equal(path: Path, name: str, saved: object, now: object) -> None:
    if saved != now:
        raise CheckpointError(f"{path}: the run was started with {saved} for {name}, not {now}; resume it unchanged")
