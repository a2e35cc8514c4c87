"""Atomic file writes, and a lock that lets only one process at a time write to a folder.

Not every file system can do everything: Google Drive in Colab, exFAT, and some FUSE and SMB mounts have no hard links,
do not flush folders, or have no locks. Files are copied there, and flushing and locking are left out.
"""

from __future__ import annotations

import contextlib
import errno
import glob
import json
import math
import os
import secrets
import shutil
import time
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from fastcifar.errors import FastCifarWarning

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]

UNSUPPORTED = {errno.ENOSYS, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOLCK, errno.EINVAL, errno.EBADF, errno.EISDIR}
"""Errors of a file system that does not have an operation."""
ABANDONED_SECONDS = 24 * 60 * 60
"""Age at which a temporary file counts as left behind by a killed process. A process id cannot tell whether the writer
still runs: containers that share a volume have separate process ids (PID namespaces)."""


@contextmanager
def lock_folder(
    folder: Path, held: Exception | None = None, *, on_wait: Callable[[], None] = lambda: None, name: str = ".lock"
) -> Iterator[bool]:
    """Lock a folder during the block; if another process holds the lock, raise `held` or wait for the lock.

    The lock is a file in the folder, which is removed at the end, so that it also holds between the hosts that share a
    network file system. The kernel releases it if the process ends. Yields whether there is a lock: on a file system
    without locks there is a warning instead.

    Args:
        folder: the folder to lock, which is created if it is missing.
        held: the error to raise if another process holds the lock; if None, call `on_wait` and wait.
        on_wait: called before waiting.
        name: the name of the lock file. Locks with different names do not affect each other.
    """
    path = folder / name
    file, locked = _open_locked(path, held, on_wait)
    try:
        if not locked:
            text = "its file system has no locks, so two processes that write to it at once do not notice each other"
            warnings.warn(f"{folder}: {text}", FastCifarWarning, stacklevel=2)
        yield locked
    finally:
        with contextlib.suppress(OSError):
            path.unlink()
        os.close(file)


def _open_locked(path: Path, held: Exception | None, on_wait: Callable[[], None]) -> tuple[int, bool]:
    """Open and lock the file at `path`; also return whether its file system has locks."""
    while True:
        path.parent.mkdir(parents=True, exist_ok=True)
        file = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
        try:
            locked = _lock(file, held, on_wait)
            if not locked or _is_open_file(path, file):
                return file, locked
        except BaseException:
            os.close(file)
            raise
        os.close(file)  # its last holder has removed it from the folder


def _lock(file: int, held: Exception | None, on_wait: Callable[[], None]) -> bool:
    """Lock an open file. Return False if its file system has no locks."""
    if fcntl is None:
        return False
    try:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if held is not None:
                raise held from None
            on_wait()
            fcntl.flock(file, fcntl.LOCK_EX)
    except OSError as error:
        if error is held or error.errno not in UNSUPPORTED:
            raise
        return False
    return True


def is_locked(folder: Path, *, name: str = ".lock") -> bool:
    """Return whether a process holds the lock of a folder, without waiting. Nothing is created."""
    if fcntl is None:
        return False
    try:
        file = os.open(folder / name, os.O_RDONLY)
    except OSError:  # its holder removes it at the end
        return False
    try:
        fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except OSError as error:
        return isinstance(error, BlockingIOError)
    finally:
        os.close(file)
    return False


def _is_open_file(path: Path, file: int) -> bool:
    """Return whether an open file is still the one at `path`."""
    try:
        return os.path.samestat(path.stat(), os.fstat(file))
    except FileNotFoundError:
        return False


@contextmanager
def atomic_write(path: Path, *, only_writer: bool = False) -> Iterator[Path]:
    """Yield a temporary path beside `path`; flush it to the disk and rename it to `path` when the block succeeds.

    When the block fails, the temporary file is removed and `path` keeps its old content. The temporary file of a killed
    process is removed by the first call for the same `path` that comes at least a day later. With `only_writer` it is
    removed by the next call; the caller must then hold a lock against other writers of `path`.

    Raises:
        OSError: the file cannot be written; the error's `filename` is `path`, even if the disk is full.
    """
    temporary = path.parent / f".{path.name}.{secrets.token_hex(8)}.tmp"
    _remove_abandoned(path, 0 if only_writer else ABANDONED_SECONDS)
    try:
        yield temporary
        with temporary.open("r+b") as file:  # Windows flushes only files that are open for writing
            flush(file.fileno())
        os.replace(temporary, path)
    except OSError as error:
        if error.filename in (None, str(temporary)):
            error.filename = str(path)
        raise
    finally:
        with contextlib.suppress(OSError):  # on a read-only file system, its error would hide the first one
            temporary.unlink()
    _flush_folder(path.parent)


def describe_os_error(error: OSError) -> str:
    """Return one line: the path, what the system says of it, and what to do about a path of the wrong kind."""
    if error.filename is None:
        return f"a file: {error.strerror or error}"
    path = Path(os.fsdecode(error.filename))
    if isinstance(error, (FileExistsError, NotADirectoryError)):  # where a folder was to be made
        file = next((each for each in (path, *path.parents) if each.is_file()), path)
        return f"{file}: is a file, and a folder is needed; choose another name"
    if isinstance(error, IsADirectoryError):
        return f"{path}: is a folder, and a file is needed; choose another name"
    if isinstance(error, FileNotFoundError) and not path.parent.exists():
        return f"{path}: there is no folder {path.parent}; make it first, or check the path"
    return f"{path}: {error.strerror or error}"


def link_or_copy(source: Path, path: Path) -> None:
    """Make `path` a hard link to `source`, or a copy of it where the file system has no hard links."""
    try:
        os.link(source, path)
    except OSError:  # whatever the reason is: if it also prevents the copy, the copy names it
        shutil.copyfile(source, path)


def flush(file: int) -> None:
    """Wait until an open file or folder is on the disk, unless its file system cannot tell."""
    try:
        os.fsync(file)
    except OSError as error:
        if error.errno not in UNSUPPORTED:
            raise


def _flush_folder(folder: Path) -> None:
    """Wait until the names of a folder's files are on the disk, if the folder can be opened."""
    try:
        file = os.open(folder, os.O_RDONLY)
    except PermissionError:  # a folder without permission to read; any folder on Windows
        return
    try:
        flush(file)
    except PermissionError:
        return
    finally:
        os.close(file)


def dump_json(values: Any, *, indent: int | None = None) -> str:
    """Return values as JSON, in which a number that is not finite is null."""
    return json.dumps(_finite(values), indent=indent, allow_nan=False)


def _finite(values: Any) -> Any:
    """Replace each infinity and NaN in nested dictionaries, lists and tuples by None."""
    if isinstance(values, Mapping):
        return {name: _finite(value) for name, value in values.items()}
    if isinstance(values, (list, tuple)):
        return [_finite(value) for value in values]
    return None if isinstance(values, float) and not math.isfinite(values) else values


def write_json(path: Path, values: Mapping[str, Any], *, only_writer: bool = False) -> None:
    """Write values as indented JSON, with `atomic_write`."""
    with atomic_write(path, only_writer=only_writer) as temporary:
        temporary.write_text(dump_json(values, indent=2) + "\n")


def _remove_abandoned(path: Path, min_age: float) -> None:
    """Remove temporary files for `path` that have not changed for `min_age` seconds."""
    for temporary in path.parent.glob(f".{glob.escape(path.name)}.{'[0-9a-f]' * 16}.tmp"):
        with contextlib.suppress(FileNotFoundError):  # another process may remove it first
            # ctime, not mtime: a new hard link has the modification time of its target, which may be old
            if time.time() - temporary.stat().st_ctime >= min_age:
                temporary.unlink()
