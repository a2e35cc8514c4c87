"""Checkpoints: a run's state in a file that appears whole or not at all."""

from __future__ import annotations

import hashlib
import os
import pickle
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

import torch
from torch import nn
from torch.utils._pytree import tree_leaves

from fastcifar.config import TrainConfig
from fastcifar.errors import CheckpointError
from fastcifar.files import replacing
from fastcifar.training.state import TrainState, create_configured_model

FORMAT_VERSION = 3
"""2 had a `speed_cnn` with GELU and norms of scale 1: the same names and shapes, another function."""

FREE_TO_CHANGE = {
    "betons",
    "workers",
    "resident",
    "verify",
    "target",
    "run_dir",
    "checkpoint_every",
    "device",
    "channels_last",
    "compile",
    "compile_mode",
    "cuda_graphs",
    "eval_batch_size",
}
"""Settings that a resumed run may have otherwise: they say where and how it computes, not what."""


def save_checkpoint(path: Path, state: TrainState) -> None:
    """Write `state`, with a hash of it, to `path`, beside it first and then renamed.

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
    values["sha256"] = content_sha256(values)
    with replacing(path) as temporary:
        try:
            torch.save(values, temporary)
        except RuntimeError as error:  # what torch makes of a write that failed
            reason = str(error).splitlines()[0]
            raise CheckpointError(f"{path}: cannot be written ({reason}); is the disk full?") from error


def link_checkpoint(source: Path, path: Path) -> None:
    """Make `path` the same file as `source`, which later saves replace and do not change."""
    with replacing(path) as temporary:
        os.link(source, temporary)


def content_sha256(values: Any) -> str:
    """The hash of a checkpoint's values: of names, types, shapes and bytes, in their order."""
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
    """The values of a checkpoint, its tensors on the CPU; no code in the file is run.

    Raises:
        CheckpointError: it is missing, damaged, or of another format version.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of what torch makes of a damaged file
            values = torch.load(path, map_location="cpu", weights_only=True)
        version = values["format_version"]
    except FileNotFoundError:
        raise CheckpointError(f"{path}: there is no such checkpoint; is {path.parent.parent} a run's folder?") from None
    except (OSError, RuntimeError, pickle.UnpicklingError, EOFError, KeyError, TypeError, ValueError) as error:
        reason = str(error).splitlines()[0][:200] if str(error) else type(error).__name__
        raise CheckpointError(f"{path}: damaged, or no checkpoint of fastcifar's ({reason})") from error
    if version != FORMAT_VERSION:
        raise CheckpointError(f"{path}: format version {version}; this fastcifar reads {FORMAT_VERSION}")
    values = dict(values)
    tensors = [leaf for leaf in tree_leaves(values) if isinstance(leaf, torch.Tensor)]
    if any(tensor.nbytes > tensor.untyped_storage().nbytes() for tensor in tensors):
        raise CheckpointError(f"{path}: damaged: a tensor is larger than what the file holds of it")
    if values.pop("sha256", None) != content_sha256(values):
        raise CheckpointError(f"{path}: damaged: its content does not have the hash that it was saved with")
    return values


def newest_checkpoint(run: Path) -> tuple[Path, dict[str, Any], CheckpointError | None]:
    """A run's last checkpoint or, where that is damaged or gone, the one before it.

    Returns:
        The file, its values, and what is wrong with a newer one.

    Raises:
        CheckpointError: there is none that is whole; what is wrong with the last.
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


def restore(run: Path, state: TrainState) -> CheckpointError | None:
    """Put a run's newest whole checkpoint into `state`, if it is of the same run; what is wrong with a newer one.

    A newer one that is damaged is put aside, as damaged.pt, so that the next save keeps the whole one.

    Raises:
        CheckpointError: there is none, or its settings, data or number of steps are not `state`'s.
    """
    path, values, damage = newest_checkpoint(run)
    _require_equal(path, "data", values["content_sha256"], state.manifest.content_sha256)
    saved, now = TrainConfig.from_json(values["config"]).to_json(), state.config.to_json()
    for name in now.keys() - FREE_TO_CHANGE:
        _require_equal(path, f"--{name.replace('_', '-')}", saved[name], now[name])
    _require_equal(path, "the number of steps", values["schedule"]["total_steps"], state.total_steps)
    try:
        state.load_state_dict(values)
    except (RuntimeError, KeyError, ValueError) as error:
        raise CheckpointError(f"{path}: does not fit this network ({str(error).splitlines()[0]})") from error
    if damage and checkpoint_path(run, "last").exists():
        os.replace(checkpoint_path(run, "last"), path.with_name("damaged.pt"))
    return damage


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
    """Where a run keeps its checkpoint "best", "last", or "previous", the one before the last.

    Raises:
        CheckpointError: `which` is none of these.
    """
    if which not in ("best", "last", "previous"):
        raise CheckpointError(f"checkpoint {which!r}: a run has 'best', 'last' and 'previous'")
    return Path(run) / "checkpoints" / f"{which}.pt"


def _require_equal(path: Path, what: str, saved: object, now: object) -> None:
    if saved != now:
        raise CheckpointError(f"{path}: its run had {saved} for {what}, this one has {now}: a run goes on as it began")
