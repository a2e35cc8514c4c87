from __future__ import annotations

import io
import os
import pty
import re
import signal
import time

import pytest
from rich.console import Console

from fastcifar import clock
from fastcifar.progress import Progress
from fastcifar.report import progress as progress_module
from fastcifar.report.progress import ProgressDisplay


class Shown:
    """A display with a clock of its own, and its lines."""

    def __init__(self) -> None:
        self.seconds, self.file = 100.0, io.StringIO()
        console = Console(file=self.file, width=40, force_terminal=False, get_time=lambda: self.seconds)
        self.display = ProgressDisplay(console)

    def wait(self, seconds: int) -> list[str]:
        """Let the clock and the timer go on; return the new lines."""
        before = len(self.file.getvalue())
        for _ in range(seconds):
            self.seconds += 1
            self.display.print_if_silent()
        return self.file.getvalue()[before:].splitlines()


def test_a_line_has_count_speed_and_the_time_left() -> None:
    shown = Shown()
    shown.display.show(Progress(task="reading pictures", done=0, total=60_000))
    assert shown.wait(20) == []
    shown.display.show(Progress(task="reading pictures", done=20_000, total=60_000))
    assert shown.wait(5) == ["reading pictures  20,000/60,000 images  1,000 images/s  40.0 s left"]
    shown.display.show(Progress(task="downloading", done=1.6, total=None, unit="MB"))
    assert shown.wait(25) == ["downloading  2 MB  (unchanged for 25.0 s)"]
    shown.display.show(Progress(task="downloading", done=51.6, total=None, unit="MB", detail="slow"))
    assert shown.wait(25) == ["downloading  52 MB  2.0 MB/s  slow  (unchanged for 25.0 s)"]


def test_a_task_that_cannot_be_counted_says_how_long_it_takes() -> None:
    shown = Shown()
    assert shown.wait(25) == ["starting: 25.0 s so far"]
    shown.display.start("compiling [bold]cat[/b]")
    assert shown.wait(60) == ["compiling [bold]cat[/b]: 25.0 s so far", "compiling [bold]cat[/b]: 50.0 s so far"]


def test_what_the_caller_prints_counts() -> None:
    shown = Shown()
    for _ in range(5):
        assert shown.wait(20) == []
        shown.display.printed()


def test_the_timer_prints_during_long_work(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(progress_module, "_SILENCE_SECONDS", 0.05)
    file = io.StringIO()
    with ProgressDisplay(Console(file=file, force_terminal=False)) as display:
        display.start("compiling")
        deadline = time.monotonic() + 20
        while not file.getvalue() and time.monotonic() < deadline:
            time.sleep(0.05)
    assert re.match(r"compiling: \d+\.\d+ s so far\n", file.getvalue())


@pytest.mark.filterwarnings("error::pytest.PytestUnhandledThreadExceptionWarning")
def test_a_reader_that_has_gone_does_not_disturb_the_work(monkeypatch: pytest.MonkeyPatch) -> None:
    class Closed(io.StringIO):
        tries = 0

        def write(self, text: str) -> int:
            Closed.tries += 1
            raise BrokenPipeError

    monkeypatch.setattr(progress_module, "_SILENCE_SECONDS", 0.0)
    with ProgressDisplay(Console(file=Closed(), force_terminal=False)):
        deadline = time.monotonic() + 20
        while not Closed.tries and time.monotonic() < deadline:
            time.sleep(0.05)
    assert Closed.tries == 1


def test_a_suspended_command_gives_the_cursor_back(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setattr(clock, "_suspend", lambda: None)  # a process that stops itself would stop the tests
    terminal, other_end = pty.openpty()
    with (
        open(other_end, "w") as file,
        ProgressDisplay(Console(file=file, force_terminal=True, force_interactive=True)) as display,
    ):
        display.show(Progress(task="evaluating", done=1, total=2))
        signal.raise_signal(signal.SIGTSTP)
        written = b""
        while not written.endswith(b"\x1b[?25h\x1b[?25l"):  # cursor shown, then hidden again
            written += os.read(terminal, 10_000)
    assert b"1/2 images" in written
    os.close(terminal)


def test_a_bar_shows_names_as_they_are(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", "xterm")
    file = io.StringIO()
    console = Console(file=file, width=100, force_terminal=True, force_interactive=True)
    with ProgressDisplay(console) as display:
        assert display.has_bar
        display.show(Progress(task="writing [bold]a[/b].beton", done=1, total=2))
    assert "writing [bold]a[/b].beton" in re.sub(r"\x1b\[[\d;?]*[A-Za-z]", "", file.getvalue())
