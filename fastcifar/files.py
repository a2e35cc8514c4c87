"""Atomic file writes, and a lock that lets only one process at a time write to a folder."""

from __future__ import annotations

import contextlib
import fcntl
import glob
import json
import os
import secrets
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

ABANDONED_SECONDS = 24 * 60 * 60
"""Age at which a temporary file counts as left behind by a killed process. A process id cannot tell whether the writer
still runs: containers that share a volume have separate process ids (PID namespaces)."""


@contextmanager
def lock_folder(folder: Path, held: Exception) -> Iterator[None]:
    """Lock an existing folder during the block; raise `held` if another process holds the lock.

    The kernel releases the lock if the process ends.
    """
    file = os.open(folder, os.O_RDONLY | os.O_CLOEXEC)
    try:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise held from None
        yield
    finally:
        os.close(file)


@contextmanager
def atomic_write(path: Path, *, only_writer: bool = False) -> Iterator[Path]:
    """Yield a temporary path beside `path`; flush it to the disk and rename it to `path` when the block succeeds.

    When the block fails, the temporary file is removed and `path` keeps its old content. The temporary file of a killed
    process is removed by the first call for the same `path` that comes at least a day later. With `only_writer` it is
    removed by the next call; the caller must then hold a lock against other writers of `path`.

    Raises:
        OSError: the file cannot be written; the error's `filename` is `path`, even if the disk is full.
    """
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(8)}.tmp")
    _remove_abandoned(path, 0 if only_writer else ABANDONED_SECONDS)
    try:
        yield temporary
        with temporary.open("rb") as file:
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except OSError as error:
        if error.filename in (None, str(temporary)):
            error.filename = str(path)
        raise
    finally:
        temporary.unlink(missing_ok=True)
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


def write_json(path: Path, values: Mapping[str, Any], *, only_writer: bool = False) -> None:
    """Write values as indented JSON, with `atomic_write`."""
    with atomic_write(path, only_writer=only_writer) as temporary:
        temporary.write_text(json.dumps(values, indent=2) + "\n")


def _remove_abandoned(path: Path, min_age: float) -> None:
    """Remove temporary files for `path` that have not changed for `min_age` seconds."""
    for temporary in path.parent.glob(f".{glob.escape(path.name)}.{'[0-9a-f]' * 16}.tmp"):
        with contextlib.suppress(FileNotFoundError):  # another process may remove it first
            # ctime, not mtime: a new hard link has the modification time of its target, which may be old
            if time.time() - temporary.stat().st_ctime >= min_age:
                temporary.unlink()
