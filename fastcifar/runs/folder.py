"""The run folder: config.json, environment.json, metrics.jsonl and checkpoints/."""

from __future__ import annotations

import contextlib
import importlib.metadata
import os
import platform
import subprocess
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from fastcifar.config import TrainConfig
from fastcifar.data.manifest import Manifest
from fastcifar.device import Runtime
from fastcifar.errors import CheckpointError
from fastcifar.files import atomic_write, dump_json, flush, lock_folder, write_json
from fastcifar.machine import instruction_set, usable_cores
from fastcifar.runs.checkpoint import checkpoint_path, link_checkpoint, save_checkpoint
from fastcifar.runs.read import DataIdentity, Environment, read_metrics
from fastcifar.runs.results import EpochResult
from fastcifar.version import __version__

PACKAGES = ("torchvision", "ffcv", "numba", "numpy", "kornia", "rich")


class RunFolder:
    """Writes the files of a run."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.metrics_path = path / "metrics.jsonl"  # one JSON line per epoch

    @contextmanager
    def open(self, config: TrainConfig, environment: Environment, epochs_done: int, is_new: bool) -> Iterator[None]:
        """Create the folder, or continue in it, and keep other processes out of it during the block.

        Write config.json and environment.json (from `describe_environment`), and keep the metrics of the first
        `epochs_done` epochs. `is_new` tells whether the run starts from the beginning.

        Raises:
            CheckpointError: the folder already holds a run and this one is new, its metrics are damaged, or another
                process trains in it.
        """
        (self.path / "checkpoints").mkdir(parents=True, exist_ok=True)
        held = f"{self.path}: another process trains in this folder; wait, or choose another one"
        with lock_folder(self.path, CheckpointError(held)):
            if is_new:
                self.require_empty()
            kept = read_metrics(self.path)[:epochs_done] if self.metrics_path.exists() else []
            write_json(self.path / "config.json", config.to_json(), only_writer=True)
            write_json(self.path / "environment.json", environment, only_writer=True)
            with atomic_write(self.metrics_path, only_writer=True) as temporary:
                temporary.write_text("".join(dump_json(result.to_json()) + "\n" for result in kept))
            yield

    def require_empty(self) -> None:
        """Check that a new run can use the folder.

        Raises:
            CheckpointError: it already holds a run.
        """
        if checkpoint_path(self.path, "last").exists() or (self.metrics_path.exists() and read_metrics(self.path)):
            raise CheckpointError(
                f"{self.path}: already holds a run; continue it with `fastcifar train --resume {self.path}`, "
                "or choose another --run-dir"
            )

    def record(self, result: EpochResult, state: dict[str, Any] | None) -> None:
        """Save an epoch: first its checkpoint with `state`, the `TrainState.state_dict`, so that every line has one.

        If `state` is None, the epoch has no checkpoint.
        """
        if state is not None:
            self.save(state)
        if state is not None and result.best_epoch == result.epoch:
            link_checkpoint(checkpoint_path(self.path, "last"), checkpoint_path(self.path, "best"))
        with self.metrics_path.open("a") as file:
            file.write(dump_json(result.to_json()) + "\n")
            file.flush()
            flush(file.fileno())

    def save(self, state: dict[str, Any]) -> None:
        """Save a checkpoint of `state`, and keep the one before it."""
        last = checkpoint_path(self.path, "last")
        if last.exists():
            link_checkpoint(last, checkpoint_path(self.path, "previous"))
        save_checkpoint(last, state)

    def keep_checkpoints(self, names: Collection[str]) -> None:
        """Remove the checkpoints whose names, "best", "last" or "previous", are not in `names`."""
        for path in (self.path / "checkpoints").glob("*.pt"):
            if path.stem not in names:
                path.unlink()


def describe_environment(runtime: Runtime, manifest: Manifest) -> Environment:
    """Describe the environment of a run: everything that its results depend on besides its settings."""
    versions = {"python": platform.python_version(), "fastcifar": __version__, "torch": torch.__version__}
    system = f"{platform.system()} {platform.machine()}"
    return {
        "device": runtime.describe_device(),
        "precision": runtime.describe_precision(),
        "versions": versions | _installed_versions(),
        "platform": ", ".join(filter(None, (system, instruction_set(), f"{usable_cores()} usable cores"))),
        "commit": source_commit(),
        "data": _identify(manifest),
    }


def _identify(manifest: Manifest) -> DataIdentity:
    """Return what identifies the training set of a run."""
    identity: DataIdentity = {"name": manifest.name, "content_sha256": manifest.content_sha256}
    return {**identity, "variations": manifest.describe_variations()} if manifest.variations else identity


def _installed_versions() -> dict[str, str]:
    """Return the versions of those of `PACKAGES` that are installed."""
    versions = {}
    for name in PACKAGES:
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            versions[name] = importlib.metadata.version(name)
    return versions


def source_commit() -> str | None:
    """Return the git commit that this package runs from, with "-dirty" if files changed.

    None if the package is not in a checkout of fastcifar itself: it may be installed inside another project's checkout.
    """
    package = Path(__file__).parents[1]
    if not (package.parent / ".git").exists():
        return None
    try:
        _git(package, "ls-files", "--error-unmatch", "__init__.py")  # an untracked package is not fastcifar's checkout
        return _git(package, "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*")
    except (OSError, subprocess.SubprocessError):
        return None


def _git(folder: Path, *arguments: str) -> str:
    """Return the output of git in a folder, without GIT_DIR and its like, which name another repository."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("GIT_")}
    done = subprocess.run(
        ["git", *arguments], cwd=folder, env=environment, capture_output=True, text=True, check=True, timeout=10
    )
    return done.stdout.strip()
