"""Checkpoints: the state of a run in a file that is written completely or not at all."""

from __future__ import annotations

import hashlib
import os
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

import torch
from torch import nn

from fastcifar.config import TrainConfig
from fastcifar.errors import CheckpointError, ConfigError
from fastcifar.files import atomic_write, link_or_copy
from fastcifar.migrations import CHECKPOINT_VERSION_0_1, migrate_checkpoint
from fastcifar.models import model_from_config

FORMAT_VERSION = 4

CheckpointName = Literal["best", "last"]
"""The epoch with the highest accuracy on the images that the run was evaluated on, or the last saved state."""


def save_checkpoint(path: Path, state: dict[str, Any]) -> None:
    """Write a run's state (`TrainState.state_dict`), with its hash, to a temporary file and rename that to `path`.

    Only one process at a time may write to `path`; `RunFolder` holds a lock for that.

    Raises:
        CheckpointError: it cannot be written.
    """
    values = {"format_version": FORMAT_VERSION, **state}
    values["sha256"] = state_sha256(values)
    with atomic_write(path, only_writer=True) as temporary:
        try:
            torch.save(values, temporary)
        except RuntimeError as error:  # torch's error for a failed write
            reason = str(error).splitlines()[0]
            raise CheckpointError(f"{path}: cannot be written ({reason}); is the disk full?") from error


def link_checkpoint(source: Path, path: Path) -> None:
    """Keep the file `source` as `path`, too. Later saves replace `source` and do not change this file."""
    with atomic_write(path, only_writer=True) as temporary:
        link_or_copy(source, temporary)


def state_sha256(values: Any) -> str:
    """Hash the values of a checkpoint: their names, types, shapes and bytes, in their order."""
    digest = hashlib.sha256()
    for part in _parts(values):
        digest.update(part)
    return digest.hexdigest()


def _parts(value: Any) -> Iterator[Any]:
    if isinstance(value, torch.Tensor):
        yield f"{value.dtype}{list(value.shape)}".encode()
        yield value.detach().cpu().contiguous().flatten().view(torch.uint8).numpy()
    elif isinstance(value, dict):
        yield b"{"
        for name, item in value.items():
            yield repr(name).encode()
            yield from _parts(item)
        yield b"}"
    elif isinstance(value, (list, tuple)):
        yield b"["
        for item in value:
            yield from _parts(item)
        yield b"]"
    else:
        yield repr(value).encode() + b";"


def read_checkpoint(path: Path) -> dict[str, Any]:
    """Read the values of a checkpoint, with its tensors on the CPU; no code in the file is executed.

    Raises:
        CheckpointError: it is missing, damaged, or of another format version, or its configuration is of another
            version of fastcifar.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # torch's warnings about a damaged file
            values = torch.load(path, map_location="cpu", weights_only=True)
        version = values["format_version"]
    except (FileNotFoundError, NotADirectoryError):
        run = path.parent.parent
        why = "this run kept none" if (run / "metrics.jsonl").exists() else f"is {run} a run folder?"
        raise CheckpointError(f"{path}: no such checkpoint; {why}") from None
    except Exception as error:  # a damaged pickle can raise anything
        reason = str(error).splitlines()[0][:200] if str(error) else type(error).__name__
        raise CheckpointError(f"{path}: damaged, or not a fastcifar checkpoint ({reason})") from error
    if version not in (FORMAT_VERSION, CHECKPOINT_VERSION_0_1):
        raise CheckpointError(f"{path}: format version {version}; this fastcifar reads {FORMAT_VERSION}")
    values = dict(values)
    if any(tensor.nbytes > tensor.untyped_storage().nbytes() for tensor in _tensors(values)):
        raise CheckpointError(f"{path}: damaged: a tensor is larger than its data in the file")
    if values.pop("sha256", None) != state_sha256(values):
        raise CheckpointError(f"{path}: damaged: its content does not match the hash that was saved with it")
    try:
        values = migrate_checkpoint(values) if version == CHECKPOINT_VERSION_0_1 else values
        TrainConfig.from_json(values["config"])
    except (KeyError, TypeError, ConfigError) as error:
        raise CheckpointError(f"{path}: not a checkpoint of this version of fastcifar ({error})") from error
    return values


def _tensors(value: Any) -> Iterator[torch.Tensor]:
    if isinstance(value, torch.Tensor):
        yield value
    elif isinstance(value, (dict, list, tuple)):
        for item in value.values() if isinstance(value, dict) else value:
            yield from _tensors(item)


def newest_checkpoint(run: Path) -> tuple[Path, dict[str, Any], CheckpointError | None]:
    """Read a run's last checkpoint or, if that is damaged or missing, the one before it.

    Return its path, its values, and the error of the last checkpoint if that cannot be read.

    Raises:
        CheckpointError: neither can be read.
    """
    path = checkpoint_path(run, "last")
    try:
        return path, read_checkpoint(path), None
    except CheckpointError as error:
        before = checkpoint_path(run, "previous")
        try:
            return before, read_checkpoint(before), error
        except CheckpointError:
            raise error from None


def load_checkpoint(
    run: Path | str, checkpoint: CheckpointName = "last", *, model: nn.Module | None = None
) -> tuple[nn.Module, TrainConfig]:
    """Load a run's network with the weights of a checkpoint, on the CPU and in eval mode, and its configuration.

    Args:
        run: the run folder.
        checkpoint: "last", or "best": the epoch with the highest accuracy on the images that the run was evaluated on.
        model: the network to load the weights into, if the run trained one that was created elsewhere.

    Raises:
        CheckpointError: there is no such checkpoint, it is damaged, or it belongs to another network.
    """
    path = checkpoint_path(run, checkpoint)
    values = read_checkpoint(path)
    return create_saved_model(path, values, model), TrainConfig.from_json(values["config"])


def create_saved_model(path: Path, values: dict[str, Any], model: nn.Module | None = None) -> nn.Module:
    """Create the network of a checkpoint, from the values that `read_checkpoint` read from `path`, in eval mode.

    `model` is the network to load the weights into, if the run trained one that was created elsewhere.

    Raises:
        CheckpointError: the weights belong to another network.
    """
    if model is None:
        model = model_from_config(TrainConfig.from_json(values["config"]).model, len(values["class_names"]))
    try:
        model.load_state_dict(values["model"])
    except RuntimeError as error:
        reason = str(error).splitlines()[0]
        raise CheckpointError(
            f"{path}: its weights belong to another network; pass that network as `model` ({reason})"
        ) from error
    return model.eval()


def checkpoint_path(run: Path | str, checkpoint: str) -> Path:
    """Return the path of a run's checkpoint: "best", "last", or "previous", the one before the last.

    Raises:
        CheckpointError: `checkpoint` is none of these.
    """
    if checkpoint not in ("best", "last", "previous"):
        raise CheckpointError(f"checkpoint is {checkpoint!r}; a run has 'best', 'last' and 'previous'")
    return Path(os.path.expanduser(run)) / "checkpoints" / f"{checkpoint}.pt"


def has_checkpoint(run: Path) -> bool:
    """Return whether a run can be resumed from a checkpoint."""
    return any(checkpoint_path(run, name).exists() for name in ("last", "previous"))
