"""Graceful stop: a run that receives a signal stops between two batches.

Source: Lightning's SIGTERM handling, which also waits for the batch boundary. A second signal interrupts at once.
"""

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

from fastcifar.errors import StoppedError

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
"""Ctrl-C, the request of a batch system, and a terminal that disappears."""


class GracefulStop:
    """The signal that asked a run to stop, if there was one."""

    def __init__(self) -> None:
        self.signal: int | None = None

    def check(self) -> None:
        """Stop here if a stop was requested. Call this between two batches.

        Raises:
            StoppedError: a stop was requested.
        """
        if self.signal is not None:
            raise StoppedError(signal.Signals(self.signal))

    def _receive(self, number: int, frame: FrameType | None) -> None:
        if self.signal is not None:  # the second signal
            raise KeyboardInterrupt
        self.signal = number


@contextmanager
def stop_on_signals() -> Iterator[GracefulStop]:
    """In the block, the first signal only requests a stop; a second one interrupts at once.

    If SIGHUP is ignored (nohup), it stays ignored. SIGINT is handled even if it is ignored: shells start background
    jobs that way, and whoever sends it means it.
    """
    stop = GracefulStop()
    ignored = {signal.SIGHUP} if signal.getsignal(signal.SIGHUP) == signal.SIG_IGN else set()
    before = {number: signal.signal(number, stop._receive) for number in {*SIGNALS} - ignored}
    try:
        yield stop
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
