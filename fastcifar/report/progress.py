"""The progress of a command: a live bar on a terminal; elsewhere a line whenever nothing was printed for 25 s."""

from __future__ import annotations

import os
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from typing import TYPE_CHECKING, Self

from fastcifar import clock
from fastcifar.progress import Progress
from fastcifar.report.terminal import can_draw_bars, make_console
from fastcifar.report.units import format_duration

if TYPE_CHECKING:
    from rich.console import Console

_REFRESH_SECONDS = 0.1
_SILENCE_SECONDS = 25.0  # longest time without a line: less than the half minute that is promised
_SHOW_CURSOR, _HIDE_CURSOR = b"\r\x1b[2K\x1b[?25h", b"\x1b[?25l"

Facts = Callable[[], str]


class Pace:
    """The speed of a task, measured from the first part of it that was reported."""

    def __init__(self) -> None:
        self._task, self._first, self._last = "", (0.0, 0.0), (0.0, 0.0)  # pairs of a count and a time

    def observe(self, task: str, done: float, seconds: float) -> None:
        """Remember how much of a task is done; `seconds` is the clock's time."""
        self._last = (done, seconds)
        if task != self._task:
            self._task, self._first = task, self._last

    @property
    def per_second(self) -> float | None:
        """What was done per second; None before the second report."""
        done, seconds = self._last[0] - self._first[0], self._last[1] - self._first[1]
        return done / seconds if done > 0 and seconds > 0 else None


class ProgressDisplay:
    """Shows how far the tasks of a command are. A context manager that removes the bar, however the command ends.

    Where there is no bar, the lines come from a timer thread, so that they also come while one step takes minutes.
    """

    def __init__(self, console: Console | None = None, *, bar: bool = True) -> None:
        """Show progress on a console, or on stderr; with `bar` off, as lines only."""
        self.console = console or make_console(stderr=True)
        self._bar = _Bar(self.console) if bar and can_draw_bars(self.console) else None
        self._pace, self._stack, self._ended = Pace(), ExitStack(), threading.Event()
        self._task, self._facts = "starting", _no_facts  # of the line
        self._changed_at = self._printed_at = self.console.get_time()

    @property
    def has_bar(self) -> bool:
        """Whether there is a bar, and not lines."""
        return self._bar is not None

    def show(self, progress: Progress) -> None:
        """Show a task with what is done of it, its speed and the time left, as an `OnProgress`."""
        self._pace.observe(progress.task, progress.done, self.console.get_time())
        self.update(progress.task, progress.done, progress.total, lambda: _facts(progress, self._pace.per_second))

    def start(self, task: str) -> None:
        """Show a task whose parts cannot be counted, such as 'compiling'."""
        self.update(task, 0, None, _no_facts)

    def update(self, task: str, done: float, total: float | None, facts: Facts) -> None:
        """Show a task, whose `facts` are called when something is drawn or printed."""
        seconds = self.console.get_time()
        self._task, self._facts, self._changed_at = task, facts, seconds
        if self._bar is not None:
            self._bar.move(task, done, total, facts, seconds)

    def printed(self) -> None:
        """Count the silence from now on, since the caller has printed something."""
        self._printed_at = self.console.get_time()

    def print_if_silent(self) -> None:
        """Print a line if there was none for 25 s. The timer calls this once per second."""
        seconds = self.console.get_time()
        if seconds - self._printed_at >= _SILENCE_SECONDS:
            self._printed_at = seconds
            # not by Rich, which would end a thread with SystemExit if nobody reads the output any more
            self.console.file.write(self._line(seconds - self._changed_at) + "\n")
            self.console.file.flush()

    def _line(self, age: float) -> str:
        if not (facts := self._facts()):
            return f"{self._task}: {format_duration(age)} so far"
        unchanged = f"  (unchanged for {format_duration(age)})" if age >= _SILENCE_SECONDS else ""
        return f"{self._task}  {facts}{unchanged}"

    def __enter__(self) -> Self:
        self.printed()
        self._ended.clear()
        if self._bar is not None:
            self._stack.enter_context(self._bar.shown())
        else:
            timer = threading.Thread(target=self._run_timer, name="progress lines", daemon=True)
            timer.start()
            self._stack.callback(timer.join)
            self._stack.callback(self._ended.set)
            self._stack.enter_context(clock.suspendable(lambda: None, lambda: None))
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def _run_timer(self) -> None:
        with suppress(OSError, ValueError):  # nobody reads it any more: the command's own next line fails
            while not self._ended.wait(1.0):
                self.print_if_silent()


class _Bar:
    """The bar of the running task, drawn at most ten times per second and never by a thread of its own."""

    def __init__(self, console: Console) -> None:
        from rich.progress import BarColumn, TextColumn
        from rich.progress import Progress as RichProgress

        task, facts = (TextColumn(text, markup=False) for text in ("{task.description}", "{task.fields[facts]}"))
        columns = (task, BarColumn(bar_width=20), facts)
        # Rich would send the lines of a file to the bar's terminal
        redirected = {f"redirect_{name}": getattr(sys, name).isatty() for name in ("stdout", "stderr")}
        self._progress = RichProgress(*columns, console=console, auto_refresh=False, transient=True, **redirected)
        self._row = self._progress.add_task("", visible=False, facts="")
        self._task, self._drawn_at = "", float("-inf")

    def move(self, task: str, done: float, total: float | None, facts: Facts, seconds: float) -> None:
        if task == self._task and seconds - self._drawn_at < _REFRESH_SECONDS:
            return
        self._task, self._drawn_at = task, seconds
        self._progress.update(
            self._row, description=task, completed=done, total=total or 1, facts=facts(), visible=True
        )
        self._progress.refresh()

    @contextmanager
    def shown(self) -> Iterator[None]:
        """Show the bar in the block; while the process is suspended, the terminal has its cursor back."""
        with clock.suspendable(lambda: self._write(_SHOW_CURSOR), lambda: self._write(_HIDE_CURSOR)):
            self._progress.start()
            try:
                yield
            finally:
                with suppress(OSError):  # the terminal may be gone
                    self._progress.stop()

    def _write(self, codes: bytes) -> None:
        with suppress(OSError, ValueError):
            os.write(self._progress.console.file.fileno(), codes)  # Rich may be in the middle of a line


def _no_facts() -> str:
    return ""


def _facts(progress: Progress, per_second: float | None) -> str:
    """Return count, speed, detail and time left; speed and time from the second report on."""
    total = "" if progress.total is None else f"/{progress.total:,.0f}"
    facts = [f"{progress.done:,.0f}{total} {progress.unit}"]
    if per_second is not None:
        facts.append(f"{per_second:,.{0 if per_second >= 10 else 1}f} {progress.unit}/s")
    if progress.detail:
        facts.append(progress.detail)
    if per_second is not None and progress.total is not None:
        facts.append(f"{format_duration((progress.total - progress.done) / per_second)} left")
    return "  ".join(facts)
