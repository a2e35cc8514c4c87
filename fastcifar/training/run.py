"""The folder that a run leaves: config.json, environment.json, metrics.jsonl, checkpoints/."""

from __future__ import annotations

import importlib.metadata
import json
import os
import platform
import subprocess
from pathlib import Path
from typing import Any

import torch

from fastcifar.config import TrainConfig
from fastcifar.data.beton import Manifest
from fastcifar.errors import CheckpointError
from fastcifar.files import FolderLock, replacing
from fastcifar.machine import usable_cores
from fastcifar.training.checkpoint import checkpoint_path, link_checkpoint, save_checkpoint
from fastcifar.training.results import EpochResult
from fastcifar.training.runtime import Runtime
from fastcifar.training.state import TrainState

PACKAGES = ("fastcifar", "torch", "torchvision", "ffcv", "numba", "numpy", "kornia", "rich")


class RunFolder:
    """Writes a run's folder as the run goes."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._lock: FolderLock | None = None

    def begin(self, state: TrainState) -> None:
        """Make the folder, or go on in it: of the metrics, the epochs that `state` has done are kept.

        Raises:
            CheckpointError: the folder holds a run already, and `state` is at its beginning; or another process trains
                in it.
        """
        (self.path / "checkpoints").mkdir(parents=True, exist_ok=True)
        try:
            self._lock = FolderLock(self.path)
        except BlockingIOError:
            raise CheckpointError(
                f"{self.path}: another process trains in this folder; wait, or choose another"
            ) from None
        if state.epoch == state.epoch_steps == 0:
            self.refuse_another_run()
        self._write_json("config.json", state.config.to_json())
        self._write_json("environment.json", describe_environment(state.runtime, state.manifest))
        kept = read_metrics(self.path)[: state.epoch] if self.metrics_path.exists() else []
        with replacing(self.metrics_path) as temporary:
            temporary.write_text("".join(json.dumps(line) + "\n" for line in kept))

    def refuse_another_run(self) -> None:
        """Make sure that the folder can take a new run.

        Raises:
            CheckpointError: it holds one already.
        """
        if checkpoint_path(self.path, "last").exists() or (self.metrics_path.exists() and read_metrics(self.path)):
            raise CheckpointError(
                f"{self.path}: holds a run already; go on with it by `fastcifar train --resume {self.path}`, "
                "or choose another --run-dir"
            )

    @property
    def metrics_path(self) -> Path:
        return self.path / "metrics.jsonl"

    def record(self, result: EpochResult, state: TrainState) -> None:
        """Keep an epoch: its checkpoint first, so that no line of metrics is without one."""
        self.save(state)
        if result.best_epoch == result.epoch:
            link_checkpoint(checkpoint_path(self.path, "last"), checkpoint_path(self.path, "best"))
        with self.metrics_path.open("a") as file:
            file.write(json.dumps(result.to_json()) + "\n")
            file.flush()
            os.fsync(file.fileno())

    def save(self, state: TrainState) -> None:
        """Keep a checkpoint of the moment, and the one before it."""
        last = checkpoint_path(self.path, "last")
        if last.exists():
            link_checkpoint(last, checkpoint_path(self.path, "previous"))
        save_checkpoint(last, state)

    def close(self) -> None:
        """Let another process have the folder."""
        if self._lock is not None:
            self._lock.release()
            self._lock = None

    def _write_json(self, name: str, values: dict[str, Any]) -> None:
        with replacing(self.path / name) as temporary:
            temporary.write_text(json.dumps(values, indent=2) + "\n")


def read_config(run: Path) -> TrainConfig:
    """The configuration of the run in a folder.

    Raises:
        CheckpointError: there is none, or it cannot be read.
    """
    try:
        return TrainConfig.from_json(json.loads((run / "config.json").read_text()))
    except (OSError, TypeError, ValueError) as error:
        raise CheckpointError(f"{run}: is no folder of a run ({error})") from error


def read_metrics(run: Path) -> list[dict[str, Any]]:
    """An entry an epoch, as `EpochResult.to_json` gives them; a line that was cut off by a stop is left out.

    Raises:
        CheckpointError: there is no such file.
    """
    try:
        lines = (run / "metrics.jsonl").read_text().splitlines()
    except OSError as error:
        raise CheckpointError(f"{run}: is no folder of a run ({error})") from error
    entries = []
    for line in lines:
        try:
            entries.append(json.loads(line))
        except ValueError:
            break
    return entries


def describe_environment(runtime: Runtime, manifest: Manifest) -> dict[str, Any]:
    """What a run's figures depend on beside its settings: device, versions, commit, data."""
    return {
        "device": runtime.describe_device(),
        "precision": runtime.describe_precision(),
        "versions": {
            "python": platform.python_version(),
            **{name: importlib.metadata.version(name) for name in PACKAGES},
            "torch": torch.__version__,  # with the build, such as +cu130
        },
        "platform": f"{platform.system()} {platform.machine()}, {usable_cores()} usable cores",
        "commit": source_commit(),
        "data": {"name": manifest.name, "content_sha256": manifest.content_sha256},
    }


def source_commit() -> str | None:
    """The commit of the checkout that this package runs from, "-dirty" if it was changed; None outside of one."""
    command = ["git", "-C", str(Path(__file__).parent), "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*"]
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True, timeout=10).stdout.strip()
    except (OSError, subprocess.SubprocessError):
        return None
