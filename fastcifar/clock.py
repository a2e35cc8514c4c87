"""The clock of training times. It leaves out the time in which the process was suspended, by Ctrl-Z or a batch system.

Python's own clocks go on while a process is suspended.
"""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType

_suspended_seconds = 0.0


def now() -> float:
    """Return the seconds since an arbitrary moment, as `time.perf_counter` does, without those of suspensions."""
    return time.perf_counter() - _suspended_seconds


@contextmanager
def suspendable(before: Callable[[], None], after: Callable[[], None]) -> Iterator[None]:
    """In the block, call `before` when the process is going to be suspended (SIGTSTP), and `after` when it goes on.

    Only the main thread can do this; in another thread, where SIGTSTP is ignored, and on Windows, which has no such
    signal, suspensions are as usual. A SIGSTOP cannot be noticed.
    """
    possible = hasattr(signal, "SIGTSTP") and signal.getsignal(signal.SIGTSTP) != signal.SIG_IGN
    if not possible or threading.current_thread() is not threading.main_thread():
        yield
        return

    def suspend(number: int, frame: FrameType | None) -> None:
        before()
        _suspend()
        after()

    handler = signal.signal(signal.SIGTSTP, suspend)
    try:
        yield
    finally:
        signal.signal(signal.SIGTSTP, handler)


def _suspend() -> None:
    """Suspend the process until it receives SIGCONT."""
    global _suspended_seconds  # noqa: PLW0603  # a process has one history of suspensions
    start = time.perf_counter()
    handler = signal.signal(signal.SIGTSTP, signal.SIG_DFL)
    signal.raise_signal(signal.SIGTSTP)
    signal.signal(signal.SIGTSTP, handler)
    _suspended_seconds += time.perf_counter() - start
