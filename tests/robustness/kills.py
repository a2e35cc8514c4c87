"""SIGKILL at random moments while .betons are written, and during training.

After each kill the files must be whole, and the work must end well when it is done again. No epoch that was reported
may be lost. The JSON of these outcomes comes from `python -m tests.robustness.reliability`.
"""

from __future__ import annotations

import collections
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import torch

from fastcifar import fit, get_recipe
from fastcifar.errors import CheckpointError
from fastcifar.runs.checkpoint import checkpoint_path, newest_checkpoint
from fastcifar.runs.read import read_metrics
from fastcifar.training.resume import restore
from fastcifar.training.state import create_state
from tests.helpers import write_pair
from tests.robustness.processes import exit_code, kill_after, measure, temporary_files
from tests.robustness.replacements import WriteBeton

EPOCHS = 8
"""Length of the trainings that are killed."""


def kill_writers(folder: Path, count: int, seed: int) -> dict[str, Any]:
    """Kill `write_beton` at random moments while it replaces a file, then write again; count the outcomes."""
    counts: collections.Counter[str] = collections.Counter({"temporary files left": 0})
    work, untouched = WriteBeton(), folder / "untouched"
    untouched.mkdir(parents=True)
    work.prepare(untouched)

    def has_begun() -> bool:
        return any(folder.glob(".*.tmp"))

    shutil.copytree(untouched, folder, dirs_exist_ok=True)
    duration = measure(work.replace, folder, has_begun=has_begun)
    for delay in np.random.default_rng(seed).uniform(0, duration, count):
        shutil.copytree(untouched, folder, dirs_exist_ok=True)
        kill_after(delay, work.replace, folder, has_begun=has_begun)
        found = work.find(folder)
        counts["old or new file, whole" if found in ("old", "new") else found] += 1
        work.replace(folder)
        if (found := work.find(folder)) != "new":
            counts[f"after writing again: {found}"] += 1
        counts["temporary files left"] += len(temporary_files(folder))
    return {"count": count, **counts}


def kill_trainings(folder: Path, count: int, seed: int) -> dict[str, Any]:
    """Kill a training at random moments, then resume it, or start again, and train to the end; count the outcomes."""
    counts: collections.Counter[str] = collections.Counter({"damaged files": 0, "reported epochs that were lost": 0})
    run = folder / "run"
    folder.mkdir()
    write_pair(folder, train=60, test=10)

    def has_begun() -> bool:
        return (run / "config.json").exists()

    duration = measure(train_or_resume, folder, run, has_begun=has_begun)
    for delay in np.random.default_rng(seed).uniform(0, duration, count):
        shutil.rmtree(run)
        kill_after(delay, train_or_resume, folder, run, has_begun=has_begun)
        counts.update(count_kept(run))
        ended = exit_code(train_or_resume, folder, run) == 0 and len(read_metrics(run)) == EPOCHS
        counts["ended well afterwards" if ended else "did not end well afterwards"] += 1
    return {"count": count, **counts}


def train_or_resume(folder: Path, run: Path) -> None:
    """Train a small network briefly, from the start or from the checkpoint in `run`."""
    torch.set_num_threads(1)
    config = get_recipe(
        "dilated-cnn", data_dir=folder, run_dir=run, batch_size=10, epochs=EPOCHS, device="cpu", workers=1,
        checkpoint_every=2,
    )  # fmt: skip
    with create_state(config) as state:
        if checkpoint_path(run, "last").exists():
            restore(run, state)
        fit(state)


def count_kept(run: Path) -> collections.Counter[str]:
    """Count what a killed training has kept: the checkpoint to resume from, damaged ones, and lost epochs."""
    reported = len(read_metrics(run)) if (run / "metrics.jsonl").exists() else 0
    try:
        path, values, damage = newest_checkpoint(run)
    except CheckpointError:
        return collections.Counter({"before the first checkpoint": 1, "reported epochs that were lost": reported})
    lost = max(0, reported - values["progress"]["epochs_done"])
    return collections.Counter(
        {
            f"resumed from {path.stem}": 1,
            "damaged files": int(damage is not None),
            "reported epochs that were lost": lost,
        }
    )
