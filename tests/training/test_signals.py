from __future__ import annotations

import os
import signal
from collections.abc import Iterator

import pytest

from fastcifar.errors import StoppedError
from fastcifar.training.signals import SIGNALS, GracefulStop, stop_on_signals


@pytest.fixture(autouse=True)
def _hangup_is_heard() -> Iterator[None]:
    """Also where the tests run under nohup."""
    before = signal.signal(signal.SIGHUP, signal.SIG_DFL)
    yield
    signal.signal(signal.SIGHUP, before)


@pytest.mark.parametrize("number", sorted(SIGNALS))
def test_the_first_signal_asks_and_ctrl_c_after_it_interrupts(number: signal.Signals) -> None:
    before = signal.getsignal(number)
    with stop_on_signals() as request:
        request.check()
        os.kill(os.getpid(), number)
        with pytest.raises(StoppedError) as stopped:
            request.check()
        assert stopped.value.exit_code == 128 + number
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGINT)
    assert signal.getsignal(number) == before


@pytest.mark.parametrize("number", sorted(SIGNALS - {signal.SIGINT}))
def test_signals_that_come_again_leave_time_for_the_checkpoint(number: signal.Signals) -> None:
    with stop_on_signals() as request:
        os.kill(os.getpid(), signal.SIGUSR1)
        for _ in range(3):
            os.kill(os.getpid(), number)
        assert request.signal == signal.SIGUSR1


@pytest.mark.parametrize(("number", "heard"), [(signal.SIGHUP, False), (signal.SIGINT, True)])
def test_a_terminals_end_stays_ignored_where_it_is_and_ctrl_c_does_not(number: signal.Signals, heard: bool) -> None:
    before = signal.signal(number, signal.SIG_IGN)
    try:
        with stop_on_signals() as request:
            os.kill(os.getpid(), number)
            assert request.signal == (number if heard else None)
    finally:
        signal.signal(number, before)


def test_nobody_asks_by_default() -> None:
    GracefulStop().check()
