from __future__ import annotations

import multiprocessing
import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from fastcifar import get_recipe
from fastcifar.data.manifest import read_manifest
from fastcifar.errors import ConfigError, StoppedError, TrainingError
from fastcifar.runs.checkpoint import has_checkpoint
from fastcifar.runs.seeds import SeedOptions, SeedsFolder
from fastcifar.training import seed_processes
from fastcifar.training.seed_processes import SeedProcesses, _work, share_cores
from fastcifar.training.signals import GracefulStop

OPTIONS = SeedOptions(runs=4)


@pytest.fixture
def folder(betons: Path, tmp_path: Path) -> SeedsFolder:
    """The folder of runs that take a hundred short steps."""
    small = {"widths": (8, 8, 8), "batch_size": 20, "epochs": 10, "amp": False, "cuda_graphs": False, "device": "cpu"}
    content = read_manifest(betons / "train.beton").content_sha256
    return SeedsFolder(tmp_path, get_recipe("speedrun", data_dir=betons, **small), content)


def children() -> set[int]:
    """The processes that this one has started."""
    return {int(pid) for pid in Path(f"/proc/self/task/{os.getpid()}/children").read_text().split()}


@pytest.mark.parametrize(
    ("cores", "count", "expected"),
    [
        ([0, 1, 2, 3], 2, [{0, 2}, {1, 3}]),
        ([0, 1, 2, 3, 4], 2, [{0, 2, 4}, {1, 3}]),
        ([4, 6], 3, [{4}, {6}, {4}]),
        ([0], 1, [{0}]),
    ],
)
def test_processes_share_the_cores(cores: list[int], count: int, expected: list[set[int]]) -> None:
    assert share_cores(cores, count) == expected


@pytest.mark.slow
def test_a_stop_ends_all_processes_with_checkpoints(folder: SeedsFolder) -> None:
    stop, before = GracefulStop(), children()

    def seeds() -> Iterator[int]:
        for seed in range(4):
            if seed == 2:
                stop.signal = signal.SIGTERM
            yield seed

    with pytest.raises(StoppedError), SeedProcesses(folder, OPTIONS, 2) as processes:
        list(processes.train_seeds(seeds(), stop=stop))
    assert children() - before <= resource_trackers()
    unfinished = [seed for seed in range(3) if folder.run_dir(seed).exists() and folder.finished(seed) is None]
    assert all(has_checkpoint(folder.run_dir(seed)) for seed in unfinished)


@pytest.mark.slow
def test_a_killed_process_is_one_error(folder: SeedsFolder) -> None:
    with SeedProcesses(folder, OPTIONS, 1) as processes:
        (process,) = processes._processes.values()

        def seeds() -> Iterator[int]:
            yield 0
            os.kill(process.pid, signal.SIGKILL)
            yield 1

        with pytest.raises(TrainingError, match="ended with code -9, perhaps for lack of memory"):
            list(processes.train_seeds(seeds(), stop=GracefulStop()))


def test_bad_input_in_a_process_is_its_own_error(folder: SeedsFolder, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(seed_processes, "when_parent_ends", lambda call: None)
    ours, theirs = multiprocessing.Pipe()
    ours.send(3)
    _work(theirs, SeedsFolder(folder.path, folder.config.replace(batch_size=5000), ""), OPTIONS)
    error = ours.recv()
    assert isinstance(error, ConfigError)
    assert "batch_size is 5000" in str(error)


def resource_trackers() -> set[int]:
    """Python's own helper of multiprocessing, which stays until this process ends."""
    return {pid for pid in children() if b"resource_tracker" in Path(f"/proc/{pid}/cmdline").read_bytes()}
