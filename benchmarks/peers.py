"""Other projects' trainings, run from their own checkout, beside ours.

Their code is read from the checkout, changed as little as the machine needs, and run as it is otherwise; what was
changed, and the checkout's commit, go into the results. Nothing of theirs is kept here.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
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

ON_THE_CPU: tuple[Change, ...] = (
    ("@torch.compile\n", ""),
    ('torch.device("cuda")', 'torch.device("cpu")'),
    (".half()", ".bfloat16()"),
    ("torch.cuda.Event(enable_timing=True)", "HostEvent()"),
    ("        torch.cuda.synchronize()\n", ""),
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
class Airbench:
    """KellerJordan/cifar10-airbench's Muon training (airbench94_muon.py), cut to fewer epochs."""

    checkout: Path
    epochs: float
    device: torch.device
    betons: Path

    @property
    def name(self) -> str:
        """As in the results."""
        return f"airbench94_muon, {self.epochs:g} epochs"

    @property
    def changes(self) -> tuple[Change, ...]:
        """What differs from their file."""
        always = (
            ("ceil(8 * len(train_loader))", f"ceil({self.epochs!r} * len(train_loader))"),
            ("    #  TTA Evaluation  #\n", "    #  TTA Evaluation  #\n    training_seconds = time_seconds\n"),
            ("    return tta_val_acc\n", "    return tta_val_acc, val_acc, training_seconds, time_seconds\n"),
        )
        return always + (ON_THE_CPU if self.device.type == "cpu" else ())

    def describe(self) -> dict[str, Any]:
        """Commit and changes."""
        commit = subprocess.run(
            ["git", "-C", str(self.checkout), "rev-parse", "HEAD"], capture_output=True, text=True, check=True
        ).stdout.strip()
        return {"project": "KellerJordan/cifar10-airbench", "commit": commit, "changes": list(self.changes)}

    def load(self) -> Callable[[int], dict[str, Any]]:
        """Their training as a function of the seed; compiled, where they compile, and warmed up as they do."""
        code = (self.checkout / "airbench94_muon.py").read_text()
        folder = tempfile.mkdtemp()
        for old, new in (*self.changes, ('CifarLoader("cifar10"', f"CifarLoader({folder!r}")):
            if old not in code:
                raise ConfigError(f"{self.checkout}: airbench94_muon.py has no {old!r}: is it another version?")
            code = code.replace(old, new)
        for split in ("train", "test"):
            images, labels = decode_all(self.betons / f"{split}.beton")
            values = {"images": torch.from_numpy(images), "labels": torch.from_numpy(labels), "classes": []}
            torch.save(values, Path(folder) / f"{split}.pt")
        space: dict[str, Any] = {"__name__": "airbench94_muon", "HostEvent": HostEvent}
        argv, sys.argv = sys.argv, [str(self.checkout / "airbench94_muon.py")]
        try:
            exec(compile(code, sys.argv[0], "exec"), space)
        finally:
            sys.argv = argv
        model = space["CifarNet"]().to(self.device).to(memory_format=torch.channels_last)
        if self.device.type == "cuda":
            model.compile(mode="max-autotune")
            space["main"]("warmup", model)

        def train(seed: int) -> dict[str, Any]:
            torch.manual_seed(seed)
            tta, plain, training, total = space["main"](seed, model)
            return {
                "seed": seed, "test_accuracy": plain, "tta_accuracy": tta, "quoted_accuracy": tta,
                "train_seconds": training, "tta_seconds": total - training, "seconds": total,
                "seconds_to_target": None, "joules": None,
            }  # fmt: skip

        return train
