"""A fault at each write, fsync, rename and link of a training and of `write_beton`: the old or new file must be whole.

    python -m tests.robustness.faults --out benchmarks/results/faults-cpu.json

Source of the method: SQLite's tests, which let one call after the other fail until the work ends without a fault. A C
library that is loaded first (faults.c, compiled here with cc) makes the call fail, fills the disk from that call on, or
kills the process during it. Afterwards the folder must hold the old or the new files, whole, and the same work without
a fault must succeed and leave no temporary file.
"""

from __future__ import annotations

import collections
import ctypes
import itertools
import multiprocessing
import os
import shutil
import subprocess
import tempfile
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from fastcifar.errors import FastCifarError
from fastcifar.machine import usable_cores
from tests.helpers import write_pair
from tests.robustness.processes import FORK_SERVER, exit_code, temporary_files
from tests.robustness.replacements import Replacement, ResumedEpoch, WriteBeton
from tests.robustness.results import describe_results, run_command, write_results

SOURCE = Path(__file__).with_name("faults.c")
FORK = multiprocessing.get_context("fork")
FAULT_KINDS = ("fails", "fills the disk", "kills")
"""Effects on the chosen call, in the order of faults.c's numbers."""
DONE, FAILED, TOO_FEW_CALLS = 0, 10, 11
"""Exit codes of a process with a fault: it succeeded nevertheless, ended with an error, or made fewer calls."""
OUTCOMES: dict[int | None, str] = {FAILED: "an error", DONE: "no error", -9: "killed", None: "hangs"}


@dataclass(frozen=True, kw_only=True)
class Faults:
    """Inject a fault into each call that writes."""

    every: int = 1
    """Test only every n-th call."""
    out: Path = Path("faults.json")
    """The JSON to write."""


def main(settings: Faults) -> None:
    """Inject all faults, and write the counts of their outcomes. Must run in a process of its own."""
    torch.set_num_threads(1)  # as in the processes with the faults, for the description of the device
    cases = list(itertools.product((ResumedEpoch(), WriteBeton()), range(len(FAULT_KINDS))))
    with tempfile.TemporaryDirectory() as name:
        library = Path(name) / "faults.so"
        subprocess.run(["cc", "-O1", "-shared", "-fPIC", "-o", library, SOURCE, "-ldl"], check=True)
        os.environ["LD_PRELOAD"] = str(library)  # for the fork server, which starts now
        with ProcessPoolExecutor(usable_cores(), FORK_SERVER, torch.set_num_threads, (1,)) as pool:
            runs = list(pool.map(count_outcomes, *zip(*cases, strict=True), itertools.repeat(settings.every)))
        beton = write_pair(Path(name), train=60, test=10) / "train.beton"
        results = describe_results(settings, beton, runs)
    for run in runs:
        print(run)
    write_results(settings.out, results)


def count_outcomes(work: Replacement, kind: int, every: int) -> dict[str, Any]:
    """Count the outcomes of a fault at each of the work's calls."""
    library = ctypes.CDLL(os.environ["LD_PRELOAD"])
    counts: collections.Counter[str] = collections.Counter()
    with tempfile.TemporaryDirectory() as name:
        untouched = Path(name) / "untouched"
        untouched.mkdir()
        exit_code(work.prepare, untouched, context=FORK)
        for number in itertools.count(1, every):
            folder = Path(name) / str(number)
            shutil.copytree(untouched, folder)
            code = exit_code(replace_with_a_fault, work, folder, number, kind, library, context=FORK)
            if code == TOO_FEW_CALLS:
                break
            counts[OUTCOMES.get(code, f"exit code {code}")] += 1
            counts[find_and_repeat(work, folder)] += 1
            shutil.rmtree(folder)
    return {"part": f"{work.name}: a call that {FAULT_KINDS[kind]}", "faults": sum(counts.values()) // 2, **counts}


def replace_with_a_fault(work: Replacement, folder: Path, number: int, kind: int, library: ctypes.CDLL) -> None:
    """Do the work with a fault at its call `number`, and exit with a code that tells the outcome."""
    library.arm(number, kind)
    try:
        work.replace(folder)
        code = DONE
    except (FastCifarError, OSError):
        code = FAILED
    calls = library.counted()
    library.arm(0, 0)
    os._exit(TOO_FEW_CALLS if calls < number else code)


def find_and_repeat(work: Replacement, folder: Path) -> str:
    """Return what a fault left, "old" or "new", or the problem of the same work without a fault after it."""
    found = work.find(folder)
    if exit_code(work.replace, folder, context=FORK) != DONE or work.find(folder) != "new":
        return f"cannot be repeated after {found}"
    return "temporary files were left" if temporary_files(folder) else found


if __name__ == "__main__":
    run_command(main, Faults, __doc__)
