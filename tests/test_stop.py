from __future__ import annotations

import os
import signal

import pytest

from fastcifar.errors import StoppedError
from fastcifar.training.stop import SIGNALS, StopRequest, stop_on_signals


@pytest.mark.parametrize("number", SIGNALS)
def test_the_first_signal_asks_and_the_second_interrupts(number: signal.Signals) -> None:
    before = signal.getsignal(number)
    with stop_on_signals() as request:
        request.check()
        os.kill(os.getpid(), number)
        with pytest.raises(StoppedError) as stopped:
            request.check()
        assert stopped.value.exit_code == 128 + number
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), number)
    assert signal.getsignal(number) == before


def test_a_signal_that_is_ignored_stays_so() -> None:
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with stop_on_signals() as request:
            os.kill(os.getpid(), signal.SIGHUP)
            request.check()
    finally:
        signal.signal(signal.SIGHUP, before)


def test_nobody_asks_by_default() -> None:
    StopRequest().check()
