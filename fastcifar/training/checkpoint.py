"""Checkpoints: a run's state in a file that appears whole or not at all."""

from __future__ import annotations

import pickle
import shutil
from pathlib import Path
from typing import Any, Literal

import torch
from torch import nn

from fastcifar.config import TrainConfig
from fastcifar.errors import CheckpointError
from fastcifar.files import replacing
from fastcifar.training.state import TrainState, create_configured_model

FORMAT_VERSION = 1

FREE_TO_CHANGE = {
    "betons",
    "workers",
    "verify",
    "target",
    "run_dir",
    "device",
    "channels_last",
    "compile",
    "compile_mode",
}
"""Settings that a resumed run may have otherwise: they say where and how it computes, not what."""


def save_checkpoint(path: Path, state: TrainState) -> None:
    """Write `state` to `path`, beside it first and then renamed.

    Raises:
        CheckpointError: it cannot be written.
    """
    values = {
        "format_version": FORMAT_VERSION,
        "config": state.config.to_json(),
        "class_names": list(state.manifest.class_names),
        "image_shape": list(state.manifest.image_shape),
        "content_sha256": state.manifest.content_sha256,
        "mean": list(state.manifest.mean),
        "std": list(state.manifest.std),
        **state.state_dict(),
    }
    with replacing(path) as temporary:
        try:
            torch.save(values, temporary)
        except RuntimeError as error:  # what torch makes of a write that failed
            reason = str(error).splitlines()[0]
            raise CheckpointError(f"{path}: cannot be written ({reason}); is the disk full?") from error


def copy_checkpoint(source: Path, path: Path) -> None:
    """Make `path` the same checkpoint as `source`."""
    with replacing(path) as temporary:
        shutil.copyfile(source, temporary)


def read_checkpoint(path: Path) -> dict[str, Any]:
    """The values of a checkpoint, its tensors on the CPU; no code in the file is run.

    Raises:
        CheckpointError: it is missing, damaged, or of another format version.
    """
    try:
        values = torch.load(path, map_location="cpu", weights_only=True)
        version = values["format_version"]
    except FileNotFoundError:
        raise CheckpointError(f"{path}: there is no such checkpoint; is {path.parent.parent} a run's folder?") from None
    except (OSError, RuntimeError, pickle.UnpicklingError, EOFError, KeyError, TypeError, ValueError) as error:
        reason = str(error).splitlines()[0][:200] if str(error) else type(error).__name__
        raise CheckpointError(f"{path}: damaged, or no checkpoint of fastcifar's ({reason})") from error
    if version != FORMAT_VERSION:
        raise CheckpointError(f"{path}: format version {version}; this fastcifar reads {FORMAT_VERSION}")
    return dict(values)


def restore(path: Path, state: TrainState) -> None:
    """Put the checkpoint at `path` into `state`, if it is of the same run.

    Raises:
        CheckpointError: it is missing or damaged, or its settings, data or number of steps are not `state`'s.
    """
    values = read_checkpoint(path)
    _require_equal(path, "data", values["content_sha256"], state.manifest.content_sha256)
    saved, now = TrainConfig.from_json(values["config"]).to_json(), state.config.to_json()
    for name in now.keys() - FREE_TO_CHANGE:
        _require_equal(path, f"--{name.replace('_', '-')}", saved[name], now[name])
    _require_equal(path, "the number of steps", values["schedule"]["total_steps"], state.total_steps)
    try:
        state.load_state_dict(values)
    except (RuntimeError, KeyError, ValueError) as error:
        raise CheckpointError(f"{path}: does not fit this network ({str(error).splitlines()[0]})") from error


def load_checkpoint(
    run: Path | str, which: Literal["best", "last"] = "best", *, model: nn.Module | None = None
) -> tuple[nn.Module, TrainConfig]:
    """A run's network with the weights of a checkpoint, on the CPU and in eval mode, and the run's configuration.

    Args:
        run: the run's folder.
        which: "best", the epoch with the highest accuracy on the images the run was measured on, or "last".
        model: the network to load into, if the run trained one that was made elsewhere.

    Raises:
        CheckpointError: there is no such checkpoint, it is damaged, or it is of another network.
    """
    path = checkpoint_path(run, which)
    values = read_checkpoint(path)
    return create_saved_model(path, values, model), TrainConfig.from_json(values["config"])


def create_saved_model(path: Path, values: dict[str, Any], model: nn.Module | None = None) -> nn.Module:
    """The network whose weights are in `values`, which `read_checkpoint` read from `path`, in eval mode.

    Raises:
        CheckpointError: the weights are of another network.
    """
    if model is None:
        model = create_configured_model(TrainConfig.from_json(values["config"]), len(values["class_names"]))
    try:
        model.load_state_dict(values["model"])
    except RuntimeError as error:
        reason = str(error).splitlines()[0]
        raise CheckpointError(f"{path}: its weights are of another network; pass that as `model` ({reason})") from error
    return model.eval()


def checkpoint_path(run: Path | str, which: str) -> Path:
    """Where a run keeps its checkpoint "best" or "last".

    Raises:
        CheckpointError: `which` is neither.
    """
    if which not in ("best", "last"):
        raise CheckpointError(f"checkpoint {which!r}: a run has 'best' and 'last'")
    return Path(run) / "checkpoints" / f"{which}.pt"


def _require_equal(path: Path, what: str, saved: object, now: object) -> None:
    if saved != now:
        raise CheckpointError(f"{path}: its run had {saved} for {what}, this one has {now}: a run goes on as it began")
