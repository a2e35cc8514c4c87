from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time

import pytest

from fastcifar import clock

SUSPENDED_SECONDS = 1.0
PROGRAM = """
import time
from fastcifar import clock
events = []
with clock.suspendable(lambda: events.append("before"), lambda: events.append("after")):
    start, start_of_clock = time.monotonic(), clock.now()
    print("started", flush=True)
    while not events:
        time.sleep(0.01)
    print(time.monotonic() - start, clock.now() - start_of_clock, *events)
"""


def _wait_for_state(process: subprocess.Popen[str], state: str) -> None:
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        with open(f"/proc/{process.pid}/stat") as file:
            if file.read().rpartition(")")[2].split()[0] == state:
                return
        time.sleep(0.01)
    pytest.fail(f"the process is not in state {state}")


def test_a_suspension_is_announced_and_not_counted() -> None:
    command = [sys.executable, "-c", PROGRAM]
    # in a group of its own: where no shell controls jobs, as in a container, the kernel does not suspend this one
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, process_group=0) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "started\n"
        os.kill(process.pid, signal.SIGTSTP)
        _wait_for_state(process, "T")
        time.sleep(SUSPENDED_SECONDS)
        os.kill(process.pid, signal.SIGCONT)
        elapsed, counted, *events = process.stdout.readline().split()
    assert float(elapsed) - float(counted) >= SUSPENDED_SECONDS
    assert events == ["before", "after"]


def test_what_to_do_before_and_after_is_called_in_this_order(monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[str] = []
    monkeypatch.setattr(signal, "raise_signal", lambda number: calls.append(f"signal {number:d}"))
    with clock.suspendable(lambda: calls.append("before"), lambda: calls.append("after")):
        os.kill(os.getpid(), signal.SIGTSTP)
    assert calls == ["before", f"signal {signal.SIGTSTP:d}", "after"]


def test_the_handler_is_restored() -> None:
    before = signal.getsignal(signal.SIGTSTP)
    with clock.suspendable(lambda: None, lambda: None):
        assert signal.getsignal(signal.SIGTSTP) != before
    assert signal.getsignal(signal.SIGTSTP) == before


def test_where_the_signal_is_ignored_it_stays_so() -> None:
    before = signal.signal(signal.SIGTSTP, signal.SIG_IGN)
    try:
        with clock.suspendable(lambda: None, lambda: None):
            assert signal.getsignal(signal.SIGTSTP) == signal.SIG_IGN
    finally:
        signal.signal(signal.SIGTSTP, before)


def test_another_thread_can_use_it() -> None:
    errors: list[BaseException] = []

    def use() -> None:
        try:
            with clock.suspendable(lambda: None, lambda: None):
                pass
        except BaseException as error:
            errors.append(error)

    thread = threading.Thread(target=use)
    thread.start()
    thread.join()
    assert not errors
