"""Damaged and hostile files, and killed processes: a robustness test of the code that reads and writes files.

    python -m benchmarks.reliability --out benchmarks/results/reliability-cpu.json

Mutants of a .beton (flipped bits, truncated or extended files, changed lengths and offsets, headers of other files) are
given to the checker in forked processes, with the manifest and without. Some mutants that pass without it are loaded,
each in a new process with a time limit. Hostile checkpoints and archives contain code to run, paths outside of their
folder, or false sizes. Processes that write .betons or train are killed at random moments, and their work is resumed.
Nothing may crash, hang, run code, write outside of its folder, train on other images than those that the manifest
names, or lose an epoch that was reported.
"""

from __future__ import annotations

import collections
import concurrent.futures
import dataclasses
import io
import multiprocessing
import os
import pickle
import shutil
import subprocess
import sys
import tarfile
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.common import RESULTS, run_command, write_results
from fastcifar import fit, get_recipe
from fastcifar.data.beton_format import ALLOCATION, FIELD, HEADER, SAMPLE, read_index
from fastcifar.data.cifar10 import open_archive
from fastcifar.data.manifest import manifest_path, open_beton
from fastcifar.data.synthetic import SHAPES, draw_synthetic
from fastcifar.data.writer import write_beton
from fastcifar.device import resolve_runtime
from fastcifar.errors import CheckpointError, FastCifarError
from fastcifar.machine import usable_cores
from fastcifar.runs.checkpoint import FORMAT_VERSION, checkpoint_path, newest_checkpoint, read_checkpoint
from fastcifar.runs.folder import describe_environment, read_metrics
from fastcifar.settings import RuntimeSettings
from fastcifar.training.resume import restore
from fastcifar.training.state import create_state

TIMEOUT_SECONDS = 60
"""A process that takes longer counts as hanging."""

Mutation = Callable[[np.random.Generator, bytearray], None]


@dataclass(frozen=True, kw_only=True)
class Reliability:
    """Read damaged and hostile .betons, checkpoints and archives, and kill processes that write."""

    mutants: int = 10_000
    """Damaged .betons."""
    loaded: int = 200
    """Number of mutants to load that the checker passes without the manifest."""
    hostile: int = 1_000
    """Hostile checkpoints and archives."""
    kills: int = 100
    """Processes that are killed while they write .betons or train."""
    seed: int = 0
    """Seed of the damage and of the moments of the kills."""
    out: Path = RESULTS / "reliability.json"
    """The JSON to write."""


def main(settings: Reliability) -> None:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        beton = write_test_betons(folder)
        betons, passed = check_mutants(beton, settings.mutants, settings.seed)
        loaded = load_mutants(beton, passed[: settings.loaded], settings.seed)
        hostile = open_hostile(folder, settings.hostile, settings.seed)
        written = kill_writers(folder / "written", settings.kills // 2, settings.seed)
        trained = kill_trainings(folder, settings.kills - settings.kills // 2, settings.seed)
        _, manifest = open_beton(beton)
        results: dict[str, Any] = {
            "benchmark": "reliability",
            **describe_environment(resolve_runtime(RuntimeSettings(device="cpu")), manifest),
            "settings": {k: v for k, v in dataclasses.asdict(settings).items() if k != "out"},
            "runs": [
                {"part": "mutants through the checker", **betons},
                {"part": "mutants through the loader", **loaded},
                {"part": "hostile checkpoints and archives", **hostile},
                {"part": "killed while writing .betons", **written},
                {"part": "killed while training", **trained},
            ],
        }
    for run in results["runs"]:
        print(run)
    write_results(settings.out, results)


def write_test_betons(folder: Path, train: int = 60, test: int = 10) -> Path:
    """Write small .betons of synthetic images, with manifests, and return the path of the training images."""
    for split, (images, labels) in zip(("train", "test"), draw_synthetic(train=train, test=test, seed=0), strict=True):
        write_beton(folder / f"{split}.beton", images, labels, class_names=tuple(SHAPES), name="synthetic")
    return folder / "train.beton"


def mutate(number: int, seed: int, content: bytes) -> bytes:
    """Damaged copy number `number`; equal seeds give equal copies."""
    random = np.random.default_rng((seed, number))
    data = bytearray(content)
    for _ in range(int(random.integers(1, 4))):
        MUTATIONS[int(random.integers(len(MUTATIONS)))](random, data)
    return bytes(data)


def _flip_bit(random: np.random.Generator, data: bytearray) -> None:
    if data:
        data[int(random.integers(len(data)))] ^= 1 << int(random.integers(8))


def _flip_bit_of_a_table(random: np.random.Generator, data: bytearray) -> None:
    """Most of a file is pixels, but damage to the header and the tables is more dangerous."""
    ends = HEADER.itemsize + 2 * FIELD.itemsize + 60 * SAMPLE.itemsize, 60 * ALLOCATION.itemsize
    at = int(random.integers(sum(ends)))
    at = at if at < ends[0] else len(data) - (at - ends[0]) - 1
    if 0 <= at < len(data):
        data[at] ^= 1 << int(random.integers(8))


def _cut(random: np.random.Generator, data: bytearray) -> None:
    del data[int(random.integers(len(data) + 1)) :]


def _append(random: np.random.Generator, data: bytearray) -> None:
    data += random.bytes(int(random.integers(1, 100)))


def _set_number(random: np.random.Generator, data: bytearray) -> None:
    """Change a length or an offset in the header, a sample or the allocation table."""
    starts = (0, 2, 4, 8, 16, HEADER.itemsize + 2 * FIELD.itemsize, len(data) - 60 * ALLOCATION.itemsize)
    at = starts[int(random.integers(len(starts)))] + 8 * int(random.integers(3))
    size = int(random.choice([1, 2, 4, 8]))
    values = (0, 1, 255, 2**15, 2**31, 2**62, len(data), len(data) - 1)
    if 0 <= at <= len(data) - size:
        value = int(values[int(random.integers(len(values)))]) % 2 ** (8 * size)
        data[at : at + size] = value.to_bytes(size, "little")


def _swap_header(random: np.random.Generator, data: bytearray) -> None:
    """Use the header of a file with more or fewer samples."""
    header = np.zeros(1, dtype=HEADER)
    header[["version", "num_fields"]] = (2, 2)
    header["page_size"] = 1 << int(random.integers(10, 31))
    header["num_samples"] = int(random.integers(1, 200))
    header["alloc_table_ptr"] = int(random.integers(1, 2 * len(data) + 2))
    data[: HEADER.itemsize] = header.tobytes()


MUTATIONS: tuple[Mutation, ...] = (_flip_bit, _flip_bit_of_a_table, _cut, _append, _set_number, _swap_header)


def check_mutants(beton: Path, count: int, seed: int) -> tuple[dict[str, Any], list[int]]:
    """Counts of the checker's outcomes, with the manifest and without, and the mutants that pass without it."""
    context = multiprocessing.get_context("fork")
    counts: collections.Counter[str] = collections.Counter()
    passed = []
    with concurrent.futures.ProcessPoolExecutor(usable_cores(), mp_context=context) as pool:
        futures = [
            pool.submit(_check, beton, range(start, min(start + 100, count)), seed) for start in range(0, count, 100)
        ]
        for future in futures:
            try:
                for number, without, manifested in future.result(timeout=TIMEOUT_SECONDS):
                    counts[f"without manifest: {without}"] += 1
                    counts[f"with manifest: {manifested}"] += 1
                    passed += [number] if without == "passed" else []
            except concurrent.futures.process.BrokenProcessPool:
                counts["crashes"] += 1
            except TimeoutError:
                counts["hangs"] += 1
    return {"count": count, "crashes": 0, "hangs": 0, **counts}, passed


def _check(beton: Path, numbers: range, seed: int) -> list[tuple[int, str, str]]:
    content = beton.read_bytes()
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "train.beton"
        manifest_path(path).write_bytes(manifest_path(beton).read_bytes())
        outcomes = []
        for number in numbers:
            mutant = mutate(number, seed, content)
            path.write_bytes(mutant)
            with_manifest = _outcome(lambda: open_beton(path))
            if with_manifest == "passed":
                with_manifest = "unchanged" if mutant == content else "passed on other bytes"
            outcomes.append((number, _outcome(lambda: read_index(path)), with_manifest))
        return outcomes


def _outcome(work: Callable[[], object]) -> str:
    try:
        work()
    except FastCifarError:
        return "refused"
    except Exception as error:
        return f"raised {type(error).__name__}"
    return "passed"


def load_mutants(beton: Path, numbers: list[int], seed: int) -> dict[str, Any]:
    """Counts of the outcomes of loading an epoch of each mutant, each in a new process, without a manifest."""
    content = beton.read_bytes()
    with concurrent.futures.ThreadPoolExecutor(usable_cores()) as pool:
        outcomes = pool.map(lambda number: _load(mutate(number, seed, content)), numbers)
        return {"count": len(numbers), "crashes": 0, "hangs": 0, **collections.Counter(outcomes)}


def _load(mutant: bytes) -> str:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "train.beton"
        path.write_bytes(mutant)
        try:
            done = subprocess.run([sys.executable, "-c", LOAD, str(path)], capture_output=True, timeout=TIMEOUT_SECONDS)
        except subprocess.TimeoutExpired:
            return "hangs"
        return {0: "loaded", 1: "refused"}.get(done.returncode, "crashes")


LOAD = """
import sys
from pathlib import Path
from fastcifar.data.loader import decode_all
from fastcifar.errors import FastCifarError
try:
    images, labels = decode_all(Path(sys.argv[1]))
    int(images.sum())
except FastCifarError as error:
    sys.exit(1)
"""


def open_hostile(folder: Path, count: int, seed: int) -> dict[str, Any]:
    """Counts of the outcomes of reading hostile checkpoints and archives."""
    trap = folder / "trap"
    counts: collections.Counter[str] = collections.Counter()
    inside = folder / "hostile"
    inside.mkdir()
    for number in range(count):
        random = np.random.default_rng((seed, number))
        path = inside / "file"
        kind = number % len(HOSTILE)
        HOSTILE[kind](path, trap, random)
        read: Callable[[Path], object] = read_checkpoint if kind < CHECKPOINTS else open_archive
        counts[_outcome(lambda: read(path))] += 1  # noqa: B023  called at once
        path.unlink()
    before = {inside.name, *(f"{split}.beton{end}" for split in ("train", "test") for end in ("", ".json"))}
    escaped = {entry.name for entry in folder.iterdir()} - before
    return {"count": count, "executed": int(trap.exists()), "outside": len(escaped), **counts}


class _Payload:
    """An object that runs code when it is unpickled."""

    def __init__(self, trap: Path, random: np.random.Generator) -> None:
        self._calls = ((os.system, (f"touch {trap}",)), (Path.touch, (trap,)), (exec, (f"open({str(trap)!r}, 'w')",)))
        self._choice = int(random.integers(len(self._calls)))

    def __reduce__(self) -> tuple[Any, ...]:
        return self._calls[self._choice]


def _pickled(path: Path, trap: Path, random: np.random.Generator) -> None:
    path.write_bytes(pickle.dumps({"format_version": FORMAT_VERSION, "model": _Payload(trap, random)}))


def _saved(path: Path, trap: Path, random: np.random.Generator) -> None:
    values: dict[str, Any] = {"format_version": FORMAT_VERSION, "model": {"weight": torch.zeros(3)}, "sha256": "0" * 64}
    values[("config", "optimizer", "random")[int(random.integers(3))]] = _Payload(trap, random)
    torch.save(values, path)


def _damaged(path: Path, trap: Path, random: np.random.Generator) -> None:
    _saved(path, trap, random)
    data = bytearray(path.read_bytes())
    for _ in range(5):
        _flip_bit(random, data)
    path.write_bytes(data)


def _bomb(path: Path, trap: Path, random: np.random.Generator) -> None:
    """Save a tensor that claims to be far larger than its storage."""
    torch.save(
        {"format_version": FORMAT_VERSION, "model": torch.zeros(1).expand(10 ** int(random.integers(6, 13)))}, path
    )


def _traversing(path: Path, trap: Path, random: np.random.Generator) -> None:
    with tarfile.open(path, "w:gz") as archive:
        for name in (f"../{trap.name}", str(trap), f"cifar-10-batches-py/../../{trap.name}"):
            member = tarfile.TarInfo(name)
            data = random.bytes(100)
            member.size = len(data)
            archive.addfile(member, io.BytesIO(data))


def _linked(path: Path, trap: Path, random: np.random.Generator) -> None:
    with tarfile.open(path, "w:gz") as archive:
        member = tarfile.TarInfo("cifar-10-batches-py/data_batch_1")
        member.type = tarfile.SYMTYPE if random.integers(2) else tarfile.LNKTYPE
        member.linkname = str(trap)
        archive.addfile(member)


def _oversized_member(path: Path, trap: Path, random: np.random.Generator) -> None:
    with tarfile.open(path, "w:gz") as archive:
        member = tarfile.TarInfo("cifar-10-batches-py/data_batch_1")
        member.size = 1 << 22
        archive.addfile(member, io.BytesIO(bytes(member.size)))


HOSTILE = (_pickled, _saved, _damaged, _bomb, _traversing, _linked, _oversized_member)
CHECKPOINTS = 4
"""The number of kinds at the start of HOSTILE that are checkpoints; the others are archives."""


def kill_writers(folder: Path, count: int, seed: int) -> dict[str, Any]:
    """Kill `write_beton` at random moments while it replaces a file, then write again; count the outcomes."""
    counts: collections.Counter[str] = collections.Counter({"temporary files left": 0})
    folder.mkdir()
    beton = write_test_betons(folder)

    def is_writing() -> bool:
        return any(folder.glob(".*.tmp"))

    duration = _measure(write_test_betons, (folder,), is_writing)
    for number in range(count):
        delay = np.random.default_rng((seed, number)).uniform(0, duration)
        _kill_after(delay, write_test_betons, (folder,), is_writing)
        outcome = _outcome(lambda: open_beton(beton))
        counts["old or new file, whole" if outcome == "passed" else f"file {outcome}"] += 1
        write_test_betons(folder)
        open_beton(beton)
        counts["temporary files left"] += sum(entry.suffix in (".tmp", ".next") for entry in folder.iterdir())
    return {"count": count, **counts}


def kill_trainings(folder: Path, count: int, seed: int) -> dict[str, Any]:
    """Kill a training at random moments, then resume it, or start again, and train to the end; count the outcomes."""
    counts: collections.Counter[str] = collections.Counter({"damaged files": 0})
    run = folder / "run"

    def is_writing() -> bool:
        return (run / "config.json").exists()

    duration = _measure(_train_or_resume, (folder, run), is_writing)
    shutil.rmtree(run)
    for number in range(count):
        delay = np.random.default_rng((seed, number)).uniform(0, duration)
        _kill_after(delay, _train_or_resume, (folder, run), is_writing)
        reported = len(read_metrics(run)) if (run / "metrics.jsonl").exists() else 0
        try:
            path, values, damage = newest_checkpoint(run)
        except CheckpointError:
            counts["before the first checkpoint"] += 1
            kept = 0
        else:
            counts[f"resumed from {path.stem}"] += 1
            counts["damaged files"] += damage is not None
            kept = values["progress"]["epochs_done"]
        counts["reported epochs that were lost"] += max(0, reported - kept)
        process = FORKS.Process(target=_train_or_resume, args=(folder, run))
        process.start()
        process.join(TIMEOUT_SECONDS)
        ended = process.exitcode == 0 and len(read_metrics(run)) == KILLED_EPOCHS
        counts["ended well afterwards" if ended else "did not end well afterwards"] += 1
        shutil.rmtree(run)
    return {"count": count, **counts}


FORKS = multiprocessing.get_context("forkserver")
ForkedProcess = multiprocessing.context.ForkServerProcess
"""A process in which everything is imported and nothing was used yet."""
FORKS.set_forkserver_preload(["benchmarks.common", "fastcifar.data.cifar10", "fastcifar.training.loop", "tyro"])
KILLED_EPOCHS = 8


def _train_or_resume(folder: Path, run: Path) -> None:
    """Train a small network briefly, from the start or from the checkpoint in `run`."""
    torch.set_num_threads(1)
    config = get_recipe(
        "dilated-cnn", data_dir=folder, run_dir=run, batch_size=10, epochs=KILLED_EPOCHS, device="cpu", workers=1,
        checkpoint_every=2,
    )  # fmt: skip
    with create_state(config) as state:
        if checkpoint_path(run, "last").exists():
            restore(run, state)
        fit(state)


def _start(work: Callable[..., object], arguments: tuple[Path, ...], is_writing: Callable[[], bool]) -> ForkedProcess:
    """Start a process that does the work, and return when it has begun to write."""
    process = FORKS.Process(target=work, args=arguments)
    process.start()
    while process.is_alive() and not is_writing():
        time.sleep(0.001)
    return process


def _measure(work: Callable[..., object], arguments: tuple[Path, ...], is_writing: Callable[[], bool]) -> float:
    """Seconds that the work takes from its first write to its end."""
    process = _start(work, arguments, is_writing)
    start = time.perf_counter()
    process.join()
    return time.perf_counter() - start


def _kill_after(
    seconds: float, work: Callable[..., object], arguments: tuple[Path, ...], is_writing: Callable[[], bool]
) -> None:
    """Do the work in a new process, and kill it so many seconds after its first write."""
    process = _start(work, arguments, is_writing)
    process.join(seconds)
    process.kill()
    process.join()


if __name__ == "__main__":
    run_command(main, Reliability, __doc__)
