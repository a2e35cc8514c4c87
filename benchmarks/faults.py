"""A fault at each write, fsync, rename and link of a training and of `write_beton`: the old or new file must be whole.

    python -m benchmarks.faults --out benchmarks/results/faults-cpu.json

Source of the method: SQLite's tests, which let one call after the other fail until the work ends without a fault. A C
library that is loaded first (faults.c, compiled here with cc) makes the call fail, fills the disk from that call on, or
kills the process during it. Afterwards the folder must hold the old or the new files, whole, and the same work without
a fault must succeed and leave no temporary file.
"""

from __future__ import annotations

import collections
import ctypes
import dataclasses
import itertools
import multiprocessing
import os
import shutil
import subprocess
import sys
import tempfile
from abc import ABC, abstractmethod
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch._dynamo  # optimizers import it; imported here once, before the forks

from benchmarks.common import RESULTS, run_command, write_results
from benchmarks.reliability import write_test_betons
from fastcifar import get_recipe
from fastcifar.data.manifest import open_beton
from fastcifar.data.synthetic import SHAPES, draw_synthetic
from fastcifar.data.writer import write_beton
from fastcifar.device import resolve_runtime
from fastcifar.errors import CheckpointError, FastCifarError
from fastcifar.machine import usable_cores
from fastcifar.runs.checkpoint import checkpoint_path, newest_checkpoint, read_checkpoint
from fastcifar.runs.folder import describe_environment, read_config, read_metrics
from fastcifar.settings import RuntimeSettings
from fastcifar.training.loop import fit_epochs
from fastcifar.training.resume import restore
from fastcifar.training.state import create_state

SOURCE = Path(__file__).with_name("faults.c")
FORK = multiprocessing.get_context("fork")
FAULT_KINDS = ("fails", "fills the disk", "kills")
"""Effects on the chosen call, in the order of faults.c's numbers."""
TIMEOUT_SECONDS = 120
"""A process that takes longer counts as hanging."""
DONE, FAILED, TOO_FEW_CALLS = 0, 10, 11
"""Exit codes of a process with a fault: it succeeded nevertheless, ended with an error, or made fewer calls."""


@dataclass(frozen=True, kw_only=True)
class Faults:
    """Inject a fault into each call that writes."""

    every: int = 1
    """Test only every n-th call."""
    out: Path = RESULTS / "faults.json"
    """The JSON to write."""


def main(settings: Faults) -> None:
    if "LD_PRELOAD" in os.environ:
        _inject(settings)
        return
    with tempfile.TemporaryDirectory() as name:
        library = Path(name) / "faults.so"
        subprocess.run(["cc", "-O1", "-shared", "-fPIC", "-o", library, SOURCE, "-ldl"], check=True)
        command = [sys.executable, "-m", "benchmarks.faults", *sys.argv[1:]]
        sys.exit(subprocess.run(command, env={**os.environ, "LD_PRELOAD": str(library)}).returncode)


class Work(ABC):
    """Work that replaces files in a folder."""

    name: str

    @abstractmethod
    def prepare(self, folder: Path) -> None:
        """Write the old files."""

    @abstractmethod
    def run(self, folder: Path) -> None:
        """Replace the files; the fault is injected here."""

    @abstractmethod
    def check(self, folder: Path) -> str:
        """'old' or 'new', or a description of the damage."""


class Writing(Work):
    """`write_beton` over another .beton."""

    name = "write-beton"

    def prepare(self, folder: Path) -> None:
        write_test_betons(folder)

    def run(self, folder: Path) -> None:
        images, labels = draw_synthetic(train=80, test=10, seed=1)[0]
        write_beton(folder / "train.beton", images, labels, class_names=tuple(SHAPES), name="synthetic")

    def check(self, folder: Path) -> str:
        try:
            _, manifest = open_beton(folder / "train.beton")
        except FastCifarError as error:
            return f"refused: {error}"
        return {60: "old", 80: "new"}[manifest.samples]


class Training(Work):
    """The second epoch of a run that is resumed after its first."""

    name = "train"

    def prepare(self, folder: Path) -> None:
        write_test_betons(folder)
        self._train(folder, stop_after=1)

    def run(self, folder: Path) -> None:
        self._train(folder, stop_after=2)

    def _train(self, folder: Path, stop_after: int) -> None:
        run = folder / "run"
        config = get_recipe(
            "dilated-cnn", data_dir=folder, run_dir=run, batch_size=20, epochs=2, device="cpu", workers=1
        )  # fmt: skip
        with create_state(config) as state:
            if checkpoint_path(run, "last").exists():
                restore(run, state)
            for result in fit_epochs(state):
                if result.epoch == stop_after:
                    return

    def check(self, folder: Path) -> str:
        run = folder / "run"
        read_config(run)
        try:
            for checkpoint in ("last", "best"):
                read_checkpoint(checkpoint_path(run, checkpoint))
            _, values, _ = newest_checkpoint(run)
        except CheckpointError as error:
            return f"refused: {error}"
        kept = values["progress"]["epochs_done"]
        if (reported := len(read_metrics(run))) > kept:
            return f"{reported} epochs were reported, {kept} are kept"
        return {1: "old", 2: "new"}[kept]


def _inject(settings: Faults) -> None:
    torch.set_num_threads(1)  # thread pools do not survive a fork
    cases = [(work, kind) for work in (Training(), Writing()) for kind in range(len(FAULT_KINDS))]
    with ProcessPoolExecutor(usable_cores(), mp_context=FORK) as pool:
        runs = list(pool.map(_outcomes, *zip(*cases, strict=True), itertools.repeat(settings.every)))
    with tempfile.TemporaryDirectory() as name:
        _fork(write_test_betons, Path(name))
        _, manifest = open_beton(Path(name) / "train.beton")
    results: dict[str, Any] = {
        "benchmark": "faults",
        **describe_environment(resolve_runtime(RuntimeSettings(device="cpu")), manifest),
        "settings": {name: value for name, value in dataclasses.asdict(settings).items() if name != "out"},
        "runs": runs,
    }
    for run in runs:
        print(run)
    write_results(settings.out, results)


def _outcomes(work: Work, kind: int, every: int) -> dict[str, Any]:
    """Counts of the outcomes of a fault at each of the work's calls."""
    library = ctypes.CDLL(os.environ["LD_PRELOAD"])
    counts: collections.Counter[str] = collections.Counter()
    number = 1
    with tempfile.TemporaryDirectory() as name:
        untouched = Path(name) / "untouched"
        untouched.mkdir()
        _fork(work.prepare, untouched)
        while True:
            folder = Path(name) / str(number)
            shutil.copytree(untouched, folder)
            code = _fork(_run_with_a_fault, work, folder, number, kind, library)
            if code == TOO_FEW_CALLS:
                part = f"{work.name}: a call that {FAULT_KINDS[kind]}"
                return {"part": part, "faults": sum(counts.values()) // 2, **counts}
            counts[{FAILED: "an error", DONE: "no error", -9: "killed"}.get(code, f"exit code {code}")] += 1
            counts[_after(work, folder)] += 1
            shutil.rmtree(folder)
            number += every


def _after(work: Work, folder: Path) -> str:
    """The outcome of a fault, or the problem of the same work without a fault after it."""
    found = work.check(folder)
    if _fork(work.run, folder) != DONE or work.check(folder) != "new":
        return f"cannot be repeated after {found}"
    if any(path.suffix in (".tmp", ".next") for path in folder.rglob("*")):
        return "temporary files were left"
    return found


def _run_with_a_fault(work: Work, folder: Path, number: int, kind: int, library: ctypes.CDLL) -> None:
    library.arm(number, kind)
    try:
        work.run(folder)
        code = DONE
    except (FastCifarError, OSError):
        code = FAILED
    calls = library.counted()
    library.arm(0, 0)
    os._exit(TOO_FEW_CALLS if calls < number else code)


def _fork(work: Any, *arguments: Any) -> int | None:
    """The exit code of a new process that does `work`; None if it hangs."""
    process = FORK.Process(target=work, args=arguments)
    process.start()
    process.join(TIMEOUT_SECONDS)
    if process.is_alive():
        process.kill()
        process.join()
        return None
    return process.exitcode


if __name__ == "__main__":
    run_command(main, Faults, __doc__)
