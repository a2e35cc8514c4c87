"""Trainings of other projects, run from their own checkouts, in turn with ours.

Their code is read from the checkout, changed only where the machine requires it, and run unchanged otherwise; the
changes and the checkout's commit are recorded in the results. None of their code is kept here.
"""

from __future__ import annotations

import functools
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from fastcifar.data.loader import decode_all
from fastcifar.errors import ConfigError

Change = tuple[str, str]
"""A piece of their code, which must occur in it, and its replacement."""


@dataclass(frozen=True, kw_only=True)
class Project:
    """A project whose script defines `CifarLoader(path, …)`, `CifarNet()` and `main(run, model)`."""

    name: str
    """OWNER/REPOSITORY on GitHub."""
    script: str
    length: str
    """The number of epochs in the code, in front of ` * len(train_loader))`."""
    results: tuple[Change, ...]
    """Changes after which `main` returns the accuracy with and without test-time augmentation, the seconds of training
    (None if its clock does not stop before the evaluation), and the seconds of training and evaluation."""
    on_the_cpu: tuple[Change, ...]


ON_ANY_CPU: tuple[Change, ...] = (  # for both scripts
    ('torch.device("cuda")', 'torch.device("cpu")'),
    (".half()", ".bfloat16()"),
    ("torch.cuda.Event(enable_timing=True)", "HostEvent()"),
    ("        torch.cuda.synchronize()\n        nonlocal", "        nonlocal"),
)
AIRBENCH = Project(
    name="KellerJordan/cifar10-airbench",
    script="airbench94_muon.py",
    length="ceil(8",
    results=(
        ("    #  TTA Evaluation  #\n", "    #  TTA Evaluation  #\n    training_seconds = time_seconds\n"),
        ("    return tta_val_acc\n", "    return tta_val_acc, val_acc, training_seconds, time_seconds\n"),
    ),
    on_the_cpu=(("@torch.compile\n", ""), *ON_ANY_CPU),
)
HIVERGE = Project(
    name="hiverge/cifar10-speedrun",
    script="cifar10_speedrun.py",
    length="ceil(7.59",
    results=(
        ("    return (val_acc, tta_val_acc, time_seconds)\n", "    return tta_val_acc, val_acc, None, time_seconds\n"),
    ),
    on_the_cpu=(
        ("@torch.compile()\n", "\n"),
        ("@torch.compile(fullgraph=True)\n", "\n"),
        ('@torch.compile(mode="max-autotune", fullgraph=True)\n', "\n"),
        ("torch.half", "torch.bfloat16"),
        (".pin_memory()", ""),
        ('device="cuda"', 'device="cpu"'),
        *ON_ANY_CPU,
    ),
)


class HostEvent:
    """The two methods of a CUDA event, with the host's clock."""

    def record(self) -> None:
        """Record the time."""
        self.seconds = time.perf_counter()

    def elapsed_time(self, later: HostEvent) -> float:
        """Milliseconds between this event and a later one."""
        return 1e3 * (later.seconds - self.seconds)


@dataclass(frozen=True)
class Peer:
    """A project's training with other numbers of epochs, one training for each."""

    project: Project
    checkout: Path
    epochs: tuple[float, ...]
    device: torch.device
    data_dir: Path

    @property
    def names(self) -> dict[float, str]:
        """The trainings' names in the results, by number of epochs."""
        return {epochs: f"{Path(self.project.script).stem}, {epochs:g} epochs" for epochs in self.epochs}

    @property
    def changes(self) -> tuple[Change, ...]:
        """All changes to their file."""
        return (
            (f"{self.project.length} * len(train_loader))", "ceil(EPOCHS * len(train_loader))"),
            *self.project.results,
            *(self.project.on_the_cpu if self.device.type == "cpu" else ()),
        )

    def describe(self) -> dict[str, Any]:
        """The project, the commit and the changes.

        Raises:
            ConfigError: the folder is not a checkout.
        """
        return {"project": self.project.name, "commit": checkout_commit(self), "changes": list(self.changes)}

    def load(self, folder: Path) -> dict[str, Callable[[int], dict[str, Any]]]:
        """The trainings by name, as functions of the seed; compiled and warmed up if the project does so.

        The time of a run is that of the project's own clock plus the time to load the training set to the device, which
        their clock leaves out.

        Args:
            folder: where to put the data in their format, which each training reads.

        Raises:
            ConfigError: the script is missing, or is not the version that the changes belong to.
        """
        space = self._run_script(folder)
        space["EPOCHS"] = max(self.epochs)
        model = space["CifarNet"]().to(self.device).to(memory_format=torch.channels_last)
        if self.device.type == "cuda":  # only on a GPU
            model.compile(mode="max-autotune")
            space["main"]("warmup", model)
        loading = _time_loading(space, self.device)

        def train(epochs: float, seed: int) -> dict[str, Any]:
            space["EPOCHS"] = epochs
            loading.clear()
            torch.manual_seed(seed)
            tta, plain, training, total = space["main"](seed, model)
            load = sum(loading)
            return {
                "seed": seed, "test_accuracy": plain, "tta_accuracy": tta, "final_accuracy": tta,
                "load_seconds": load, "train_seconds": None if training is None else load + training,
                "tta_seconds": None if training is None else total - training,
                "seconds": load + total, "seconds_to_target": None, "joules": None,
            }  # fmt: skip

        return {name: functools.partial(train, epochs) for epochs, name in self.names.items()}

    def _run_script(self, folder: Path) -> dict[str, Any]:
        """Write the data in their format, run the changed script, and return its global names."""
        script = self.checkout / self.project.script
        try:
            code = script.read_text()
        except OSError as error:
            raise ConfigError(f"{script}: {error.strerror}; clone {self.project.name} to this folder") from None
        for old, new in (*self.changes, ('"cifar10"', repr(str(folder)))):
            if old not in code:
                raise ConfigError(f"{script}: does not contain {old!r}; is it another version?")
            code = code.replace(old, new)
        for split in ("train", "test"):
            images, labels = decode_all(self.data_dir / f"{split}.beton")
            values = {"images": torch.from_numpy(images), "labels": torch.from_numpy(labels), "classes": []}
            torch.save(values, folder / f"{split}.pt")
        space: dict[str, Any] = {"__name__": script.stem, "HostEvent": HostEvent}
        argv, sys.argv = sys.argv, [str(script)]
        try:
            exec(compile(code, sys.argv[0], "exec"), space)
        finally:
            sys.argv = argv
        return space


def checkout_commit(peer: Peer) -> str:
    """The commit of a peer's checkout.

    Raises:
        ConfigError: the folder is not a checkout.
    """
    command = ["git", "-C", str(peer.checkout), "rev-parse", "HEAD"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise ConfigError(f"{peer.checkout}: is not a checkout of {peer.project.name}; clone it to this folder")
    return done.stdout.strip()


def _time_loading(space: dict[str, Any], device: torch.device) -> list[float]:
    """A list to which each later loading of a training set adds its seconds."""
    seconds: list[float] = []

    class Timed(space["CifarLoader"]):  # type: ignore[misc]
        def __init__(self, path: str, train: bool = True, **options: Any) -> None:
            start = time.perf_counter()
            super().__init__(path, train, **options)
            if device.type == "cuda":  # only on a GPU
                torch.cuda.synchronize(device)
            if train:
                seconds.append(time.perf_counter() - start)

    space["CifarLoader"] = Timed
    return seconds
