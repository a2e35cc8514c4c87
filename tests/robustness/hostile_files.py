"""Hostile checkpoints and archives: code to run, paths outside of their folder, false sizes.

Each must be refused. None may run its code or write outside of its folder. The JSON of these outcomes comes from
`python -m tests.robustness.reliability`.
"""

from __future__ import annotations

import collections
import io
import os
import pickle
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch

from fastcifar.data import cifar10
from fastcifar.data.official import open_archive
from fastcifar.runs.checkpoint import FORMAT_VERSION, read_checkpoint
from tests.robustness.results import outcome

MEMBER = "cifar-10-batches-py/data_batch_1"

Writer = Callable[[Path, Path, np.random.Generator], None]
"""Write a hostile file to the first path. If it does harm, that creates a file at the second path, the trap."""


def open_hostile(folder: Path, count: int, seed: int) -> dict[str, Any]:
    """Count the outcomes of reading hostile checkpoints and archives, in an empty folder."""
    inside, trap = folder / "hostile", folder / "trap"
    inside.mkdir(parents=True)
    counts: collections.Counter[str] = collections.Counter()
    kinds: list[tuple[Writer, Callable[[Path], object]]] = [
        *((write, read_checkpoint) for write in CHECKPOINTS),
        *((write, _open_archive) for write in ARCHIVES),
    ]
    for number in range(count):
        write, read = kinds[number % len(kinds)]
        path = inside / "file"
        write(path, trap, np.random.default_rng((seed, number)))
        counts[outcome(lambda: read(path))] += 1  # noqa: B023  called at once
        path.unlink()
    escaped = {entry.name for entry in folder.iterdir()} - {inside.name}
    return {"count": count, "executed": int(trap.exists()), "outside": len(escaped), **counts}


def _open_archive(path: Path) -> object:
    return open_archive(path, (cifar10.PYTHON, cifar10.BINARY))


class Payload:
    """An object that runs code when it is unpickled."""

    def __init__(self, trap: Path, random: np.random.Generator) -> None:
        self._calls = (
            (os.system, (f"touch {trap}",)),
            (Path.touch, (trap,)),
            (exec, (f"open({str(trap)!r}, 'w').close()",)),
        )
        self._choice = int(random.integers(len(self._calls)))

    def __reduce__(self) -> tuple[Any, ...]:
        return self._calls[self._choice]


def write_pickle(path: Path, trap: Path, random: np.random.Generator) -> None:
    """Write a pickle file with a payload."""
    path.write_bytes(pickle.dumps({"format_version": FORMAT_VERSION, "model": Payload(trap, random)}))


def write_checkpoint_with_payload(path: Path, trap: Path, random: np.random.Generator) -> None:
    """Write a file of torch.save with a payload beside the weights."""
    values: dict[str, Any] = {"format_version": FORMAT_VERSION, "model": {"weight": torch.zeros(3)}, "sha256": "0" * 64}
    values[("config", "optimizer", "random")[int(random.integers(3))]] = Payload(trap, random)
    torch.save(values, path)


def write_damaged_checkpoint(path: Path, trap: Path, random: np.random.Generator) -> None:
    """Write a checkpoint with a payload in which some bits are flipped."""
    write_checkpoint_with_payload(path, trap, random)
    data = bytearray(path.read_bytes())
    for _ in range(5):
        data[int(random.integers(len(data)))] ^= 1 << int(random.integers(8))
    path.write_bytes(data)


def write_oversized_tensor(path: Path, trap: Path, random: np.random.Generator) -> None:
    """Write a checkpoint with a tensor that claims to be far larger than its storage."""
    claimed = torch.zeros(1).expand(10 ** int(random.integers(6, 13)))
    torch.save({"format_version": FORMAT_VERSION, "model": claimed}, path)


def write_traversing_archive(path: Path, trap: Path, random: np.random.Generator) -> None:
    """Write an archive whose members have absolute paths, or paths above its folder."""
    with tarfile.open(path, "w:gz") as archive:
        for name in (f"../{trap.name}", str(trap), f"cifar-10-batches-py/../../{trap.name}"):
            member, data = tarfile.TarInfo(name), random.bytes(100)
            member.size = len(data)
            archive.addfile(member, io.BytesIO(data))


def write_archive_with_link(path: Path, trap: Path, random: np.random.Generator) -> None:
    """Write an archive with a symbolic or hard link to a file outside of it."""
    with tarfile.open(path, "w:gz") as archive:
        member = tarfile.TarInfo(MEMBER)
        member.type = tarfile.SYMTYPE if random.integers(2) else tarfile.LNKTYPE
        member.linkname = str(trap)
        archive.addfile(member)


def write_oversized_archive(path: Path, trap: Path, random: np.random.Generator) -> None:
    """Write an archive with a member that is larger than any of CIFAR-10's files."""
    with tarfile.open(path, "w:gz") as archive:
        member = tarfile.TarInfo(MEMBER)
        member.size = 1 << 22
        archive.addfile(member, io.BytesIO(bytes(member.size)))


CHECKPOINTS: tuple[Writer, ...] = (
    write_pickle, write_checkpoint_with_payload, write_damaged_checkpoint, write_oversized_tensor
)  # fmt: skip
ARCHIVES: tuple[Writer, ...] = (write_traversing_archive, write_archive_with_link, write_oversized_archive)
