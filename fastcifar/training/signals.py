"""Graceful stop: a run that receives a signal stops between two batches.

Source: Lightning's SIGTERM handling, which also waits for the batch boundary. A second Ctrl-C interrupts at once.
"""

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

from fastcifar.errors import StoppedError
from fastcifar.parallel import ALONE, Processes


def _existing(*names: str) -> frozenset[signal.Signals]:
    """Return the signals with these names; Windows has only some of them."""
    return frozenset(getattr(signal, name) for name in names if hasattr(signal, name))


REQUEUE_SIGNALS = _existing("SIGTERM", "SIGUSR1", "SIGUSR2", "SIGXCPU")
"""The signals with which batch systems announce a time limit or a preemption, after which the run should go on."""
SIGNALS = REQUEUE_SIGNALS | _existing("SIGINT", "SIGHUP")
"""All signals that stop a run; these two are Ctrl-C and a terminal that disappears."""


class GracefulStop:
    """The signal that asked a run to stop, if there was one."""

    def __init__(self) -> None:
        self.signal: int | None = None

    def check(self, processes: Processes = ALONE) -> None:
        """Stop here if a stop was requested, of any of the processes, which all call this between two batches.

        Raises:
            StoppedError: a stop was requested.
        """
        self.signal = processes.largest(self.signal)
        if self.signal is not None:
            raise StoppedError(signal.Signals(self.signal))

    def _receive(self, number: int, frame: FrameType | None) -> None:
        if self.signal is None:
            self.signal = number
        elif number == signal.SIGINT:  # somebody does not want to wait
            raise KeyboardInterrupt


@contextmanager
def stop_on_signals() -> Iterator[GracefulStop]:
    """In the block, the first signal only requests a stop. A Ctrl-C after it interrupts at once.

    Other signals may come again without effect: a batch system sends SIGTERM after its warning, and the kernel sends
    SIGXCPU every second. If SIGHUP is ignored (nohup), it stays ignored. SIGINT is handled even if it is ignored:
    shells start background jobs that way, and whoever sends it means it.
    """
    stop = GracefulStop()
    ignored = {number for number in _existing("SIGHUP") if signal.getsignal(number) == signal.SIG_IGN}
    before = {number: signal.signal(number, stop._receive) for number in SIGNALS - ignored}
    try:
        yield stop
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
