"""A run that is asked to stop does so between two batches.

Source: Lightning's SIGTERM handling, which also waits for the batch boundary; a second request is not waited with.
"""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

from fastcifar.errors import StoppedError

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
"""Ctrl-C, the request of a batch system, and a terminal that goes away."""


class StopRequest:
    """Whether a run has been asked to stop, and by which signal."""

    def __init__(self) -> None:
        self.signal: int | None = None

    def check(self) -> None:
        """Call between two batches.

        Raises:
            StoppedError: the run was asked to stop.
        """
        if self.signal is not None:
            raise StoppedError(signal.Signals(self.signal))

    def _receive(self, number: int, frame: FrameType | None) -> None:
        if self.signal is not None:  # the second time, at once
            raise KeyboardInterrupt
        self.signal = number


@contextmanager
def stop_on_signals() -> Iterator[StopRequest]:
    """In the block, the first of the signals only asks for a stop; a second one interrupts at once.

    SIGHUP stays ignored where it is, as nohup has it; the others are sent on purpose, and a shell's background jobs
    begin with Ctrl-C ignored.
    """
    request = StopRequest()
    ignored = {signal.SIGHUP} if signal.getsignal(signal.SIGHUP) == signal.SIG_IGN else set()
    before = {number: signal.signal(number, request._receive) for number in {*SIGNALS} - ignored}
    try:
        yield request
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
