"""Decode pictures in several processes, since small ones hold Python's lock too often for threads to gain much."""

from __future__ import annotations

import io
import multiprocessing
import os
import sys
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import BinaryIO

from fastcifar.child_processes import ignored_interrupts, when_parent_ends
from fastcifar.data.images import Images
from fastcifar.data.pictures import decode_pictures, picture_name
from fastcifar.errors import DataError

CHUNK = 128
"""Pictures that a process decodes at a time."""
MIN_PER_PROCESS = 2_500
"""Pictures that pay for the start of a process, which takes about as long as decoding them if they are small."""


def count_processes(files: Sequence[Path | BinaryIO], workers: int) -> int:
    """Return how many of `workers` processes are worth their start; 0 if the pictures must be decoded in this one."""
    if multiprocessing.current_process().daemon:  # such as a worker of a DataLoader, which may start no processes
        return 0
    can_be_sent = all(isinstance(file, Path | io.BytesIO) for file in files)
    return min(workers, len(files) // MIN_PER_PROCESS) if can_be_sent else 0


def decode_in_processes(
    files: Sequence[Path | BinaryIO], size: tuple[int, int] | None, processes: int
) -> Iterator[list[Images | DataError]]:
    """Decode pictures as `decode_pictures` does, and yield the results in order, `CHUNK` pictures at a time.

    The processes are new ones, which import neither torch nor FFCV, and not forks, which would inherit the locks of
    torch's threads. They do not import the main module of the program either, so that a script may start them without
    `if __name__ == "__main__"`. They end with the iteration, and with the process that started them.

    Raises:
        DataError: one of the processes was killed.
    """
    chunks = [files[start : start + CHUNK] for start in range(0, len(files), CHUNK)]
    others = set(multiprocessing.active_children())
    pool = ProcessPoolExecutor(processes, multiprocessing.get_context("spawn"), _end_with_parent)
    try:
        with ignored_interrupts(), _hidden_main_module():
            results = pool.map(_decode, chunks, [size] * len(chunks))
        yield from results
    except BrokenProcessPool as error:
        raise DataError(
            f"a process that decodes pictures ended unexpectedly, perhaps for lack of memory ({len(files):,} pictures "
            f"from {picture_name(files[0])}); use fewer --workers"
        ) from error
    except BaseException:  # Ctrl-C, or whoever takes the pictures stops: do not wait for the rest
        for process in set(multiprocessing.active_children()) - others:
            process.terminate()
        raise
    finally:
        pool.shutdown(cancel_futures=True)


def _decode(files: Sequence[Path | BinaryIO], size: tuple[int, int] | None) -> list[Images | DataError]:
    return decode_pictures(files, size, workers=1)


def _end_with_parent() -> None:
    when_parent_ends(lambda: os._exit(1))


@contextmanager
def _hidden_main_module() -> Iterator[None]:
    """Let processes that are started in the block not import the main module, which would run a script once more.

    They would import it by the path of its file; the main module of an interactive Python, as this one, has none.
    """
    main = sys.modules["__main__"]
    sys.modules["__main__"] = ModuleType("__main__")
    try:
        yield
    finally:
        sys.modules["__main__"] = main
