"""Files that appear whole or not at all, and folders that one process at a time writes to."""

from __future__ import annotations

import fcntl
import glob
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


class FolderLock:
    """One process's right to write to a folder. The kernel gives it back when the process ends, however it ends."""

    def __init__(self, folder: Path) -> None:
        """Take it, for a folder that exists.

        Raises:
            BlockingIOError: another process has it.
        """
        self._file = os.open(folder, os.O_RDONLY | os.O_CLOEXEC)
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            os.close(self._file)
            raise

    def release(self) -> None:
        """Give it back."""
        os.close(self._file)


@contextmanager
def atomic_write(path: Path) -> Iterator[Path]:
    """Yield a temporary path beside `path`; flush it to the disk and rename it to `path` when the block succeeds.

    When the block fails, the temporary file is removed and `path` is what it was. One that a process left which was
    killed is removed by the next.

    Raises:
        OSError: the file cannot be written; its `filename` is `path`, also where the disk is full.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    _remove_abandoned(path)
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


def _remove_abandoned(path: Path) -> None:
    for other in path.parent.glob(f".{glob.escape(path.name)}.*.tmp"):
        if not Path("/proc", other.name.rsplit(".", 2)[1]).exists():
            other.unlink(missing_ok=True)
