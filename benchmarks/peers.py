"""Other projects' trainings, run from their own checkout, beside ours.

Their code is read from the checkout, changed as little as the machine needs, and run as it is otherwise; what was
changed, and the checkout's commit, go into the results. Nothing of theirs is kept here.
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
"""A piece of their code, which must be in it, and what stands for it."""


@dataclass(frozen=True, kw_only=True)
class Project:
    """A script that has `CifarLoader(path, …)`, `CifarNet()` and `main(run, model)`, and trains when it is run."""

    name: str
    """On GitHub."""
    script: str
    length: str
    """Where the code says how many epochs it trains, in front of ` * len(train_loader))`."""
    results: tuple[Change, ...]
    """So that `main` returns its accuracy with test-time augmentation and without, the seconds of training, None where
    it does not stop its clock between the two, and the seconds of both."""
    on_the_cpu: tuple[Change, ...]


ON_ANY_CPU: tuple[Change, ...] = (  # what both scripts need
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
    """A CUDA event's two methods, on the host's clock."""

    def record(self) -> None:
        """Take the time."""
        self.seconds = time.perf_counter()

    def elapsed_time(self, later: HostEvent) -> float:
        """Milliseconds from this one to another."""
        return 1e3 * (later.seconds - self.seconds)


@dataclass(frozen=True)
class Peer:
    """A project's training, cut to so many epochs or so many: each of them a training of its own."""

    project: Project
    checkout: Path
    epochs: tuple[float, ...]
    device: torch.device
    betons: Path

    @property
    def names(self) -> dict[float, str]:
        """By epochs, as in the results."""
        return {epochs: f"{Path(self.project.script).stem}, {epochs:g} epochs" for epochs in self.epochs}

    @property
    def changes(self) -> tuple[Change, ...]:
        """What differs from their file."""
        return (
            (f"{self.project.length} * len(train_loader))", "ceil(EPOCHS * len(train_loader))"),
            *self.project.results,
            *(self.project.on_the_cpu if self.device.type == "cpu" else ()),
        )

    def describe(self) -> dict[str, Any]:
        """Project, commit and changes.

        Raises:
            ConfigError: it is no checkout.
        """
        return {"project": self.project.name, "commit": checkout_commit(self), "changes": list(self.changes)}

    def load(self, folder: Path) -> dict[str, Callable[[int], dict[str, Any]]]:
        """Their trainings by name, as functions of the seed; compiled, where they compile, and warmed up as they do.

        What a run takes is their own clock's time and the time in which they load the training set to the device, which
        their clock leaves out.

        Args:
            folder: where to put the data as they keep it, which each training reads.

        Raises:
            ConfigError: the script is not there, or is not the one that the changes are for.
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
        """The changed script's names, once the data are where it looks for them."""
        script = self.checkout / self.project.script
        try:
            code = script.read_text()
        except OSError as error:
            raise ConfigError(f"{script}: {error.strerror}; clone {self.project.name} there") from None
        for old, new in (*self.changes, ('"cifar10"', repr(str(folder)))):
            if old not in code:
                raise ConfigError(f"{script}: has no {old!r}: is it another version?")
            code = code.replace(old, new)
        for split in ("train", "test"):
            images, labels = decode_all(self.betons / f"{split}.beton")
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
    """Of a peer's checkout.

    Raises:
        ConfigError: it is none.
    """
    command = ["git", "-C", str(peer.checkout), "rev-parse", "HEAD"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise ConfigError(f"{peer.checkout}: is no checkout of {peer.project.name}; clone it there")
    return done.stdout.strip()


def _time_loading(space: dict[str, Any], device: torch.device) -> list[float]:
    """Seconds in which each training set is loaded from now on."""
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
