"""Trainings of other projects, in turn with ours, each in a process of its own.

A project's script is taken from a checkout at a pinned commit, with a small patch of this folder: it reads the number
of epochs, runs on a CPU too, and ends in `serve` (serve.py), which prints one JSON line per training.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch

from fastcifar.data.decode_all import decode_all
from fastcifar.device import has_bfloat16
from fastcifar.errors import ConfigError, FastCifarError

HERE = Path(__file__).parent
AirbenchScript = Literal["94_muon", "95", "96"]
"""Short name of a training script of cifar10-airbench."""


@dataclass(frozen=True, kw_only=True)
class Project:
    """A project's training script, the commit that its patch belongs to, the patch, and how long to train."""

    name: str
    """OWNER/REPOSITORY on GitHub."""
    commit: str
    script: str
    """Path in the checkout."""
    patch: Path
    """Patch for a file with the script's name, without its folder."""
    epochs: float
    """Epochs to train, unless others are given."""


def _airbench(script: str, epochs: float) -> Project:
    return Project(
        name="KellerJordan/cifar10-airbench",
        commit="f1c599c4af24aca803e3e65a6a7e52a502e09d0e",
        script=script,
        patch=HERE / f"{Path(script).stem}.patch",
        epochs=epochs,
    )


AIRBENCH: dict[AirbenchScript, Project] = {
    "94_muon": _airbench("airbench94_muon.py", epochs=2.75),  # cut to a mean of 90 %; its own number is 8
    "95": _airbench("legacy/airbench95.py", epochs=15),
    "96": _airbench("airbench96_faster.py", epochs=45),
}
HIVERGE = Project(
    name="hiverge/cifar10-speedrun",
    commit="5cd49b1e586f473b535cdeee69fe8ad5b6e9618b",
    script="cifar10_speedrun.py",
    patch=HERE / "hiverge.patch",
    epochs=2.5,  # cut to a mean of 90 %; its own number is 7.59
)


@dataclass(frozen=True)
class Peer:
    """A project whose process is ready to train."""

    trainings: dict[str, Callable[[int], dict[str, Any]]]
    """Functions of the seed by name, one per number of epochs, which return a run's entry in the results."""
    description: dict[str, Any]
    """The project, the commit, the patch and the precision."""


def start_peers(settings: Any, device: torch.device, folder: Path, stack: ExitStack) -> list[Peer]:
    """Start the peers whose checkouts `settings` names; their processes end with the stack."""
    airbench = [(AIRBENCH[name], settings.airbench, settings.airbench_epochs) for name in settings.airbench_scripts]
    chosen = [*airbench, (HIVERGE, settings.hiverge, settings.hiverge_epochs)]
    started = [(project, checkout, epochs) for project, checkout, epochs in chosen if checkout is not None]
    if started:
        _write_data(settings.data_dir, folder / "cifar10")
    return [
        start(project, checkout, epochs or (project.epochs,), device, folder, stack)
        for project, checkout, epochs in started
    ]


def start(
    project: Project, checkout: Path, epochs: tuple[float, ...], device: torch.device, folder: Path, stack: ExitStack
) -> Peer:
    """Start a project's process in a folder that has the data; on a GPU it trains once, to compile and warm up.

    A run's seconds are those of the project's own clock plus the time to load the training set to the device, which
    their clock leaves out.

    Raises:
        ConfigError: the checkout lacks the commit that the patch belongs to.
        FastCifarError: the process ended with an error.
    """
    show = ["git", "-C", str(checkout), "show", f"{project.commit}:{project.script}"]
    code = subprocess.run(show, capture_output=True, check=False)
    if code.returncode:
        raise ConfigError(
            f"{checkout}: is not a checkout of {project.name} with commit {project.commit}; clone it there"
        )
    script = folder / Path(project.script).name
    script.write_bytes(code.stdout)
    (folder / "serve.py").write_bytes((HERE / "serve.py").read_bytes())
    apply = ["git", "apply", "--unidiff-zero", str(project.patch)]
    subprocess.run(apply, cwd=folder, check=True, env={**os.environ, "GIT_CEILING_DIRECTORIES": str(folder.parent)})
    precision = choose_precision(device)
    script.write_text(script.read_text().replace("torch.half", f"torch.{precision}"))
    command = [sys.executable, script.name, device.type, str(max(epochs)), precision]
    process = stack.enter_context(subprocess.Popen(command, cwd=folder, stdin=-1, stdout=-1, text=True))
    stack.callback(process.kill)

    def ask(question: str) -> dict[str, Any]:
        assert process.stdin
        assert process.stdout
        with suppress(BrokenPipeError):
            process.stdin.write(question + "\n")
            process.stdin.flush()
        for line in process.stdout:
            if line.startswith("{"):  # the project prints lines of its own
                return dict(json.loads(line))
        raise FastCifarError(f"{project.name}: its process ended with code {process.wait()}; see its messages above")

    ask("ready")

    def training(length: float) -> Callable[[int], dict[str, Any]]:
        return lambda seed: {"seed": seed, **ask(f"{length} {seed}")}

    trainings = {f"{script.stem}, {length:g} epochs": training(length) for length in epochs}
    origin = {"project": project.name, "commit": project.commit, "patch": project.patch.read_text()}
    return Peer(trainings, origin | {"precision": precision})


def choose_precision(device: torch.device) -> str:
    """The precision in place of the projects' float16: on a CPU, the fastest one that it computes in hardware."""
    if device.type == "cuda":
        return "float16"
    return "bfloat16" if has_bfloat16(device) else "float32"


def _write_data(data_dir: Path, folder: Path) -> None:
    """Write the images in the projects' format."""
    folder.mkdir()
    for split in ("train", "test"):
        images, labels = decode_all(data_dir / f"{split}.beton")
        values = {"images": torch.from_numpy(images), "labels": torch.from_numpy(labels), "classes": []}
        torch.save(values, folder / f"{split}.pt")
