"""For processes that this one starts with `multiprocessing`."""

from __future__ import annotations

import multiprocessing
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager


@contextmanager
def ignored_interrupts() -> Iterator[None]:
    """Let processes that are started in the block ignore Ctrl-C, since the one that starts them ends them."""
    if threading.current_thread() is not threading.main_thread():  # only the main thread may change it
        yield
        return
    handler = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, handler)


def when_parent_ends(call: Callable[[], None]) -> None:
    """Call a function in a thread as soon as the process that started this one has ended, even if it was killed."""
    parent = multiprocessing.parent_process()
    assert parent is not None, "only a process that multiprocessing started has a parent"

    def wait() -> None:
        parent.join()
        call()

    threading.Thread(target=wait, daemon=True).start()
