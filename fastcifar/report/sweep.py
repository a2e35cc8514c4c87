"""A running sweep on the console: a line per run that has ended, a live table of those that run, and the result."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console, Group
from rich.live import Live
from rich.table import Table
from rich.text import Text

from fastcifar.files import write_json
from fastcifar.recipe_files import write_recipe
from fastcifar.report.progress import ProgressDisplay
from fastcifar.report.run_table import show_table, write_table
from fastcifar.report.terminal import can_draw_bars, make_console
from fastcifar.report.units import format_percent
from fastcifar.sweep.folder import SweepFolder, TrialResult
from fastcifar.sweep.plan import Trial
from fastcifar.sweep.table import COLUMNS, best_recipe

SHOWN = ("accuracy", "sd", "ci95", "difference", "difference_ci95")
"""The columns of accuracies; differences are written like them."""
COUNTS = ("finished", "stopped", "failed", "unfinished")
MOST_ROWS = 20
"""Configurations in the table on the console; the files have all of them."""


class SweepConsole:
    """Shows the runs of a sweep. A context manager that removes what is live."""

    def __init__(self, folder: SweepFolder, console: Console | None = None) -> None:
        self._folder, self._console = folder, console if console is not None else make_console()
        self._progress = ProgressDisplay(self._console, bar=False)
        draws = can_draw_bars(self._console)
        self._live = Live(console=self._console, auto_refresh=False, transient=True) if draws else None
        self._running: dict[Trial, str] = {}
        self._ended: set[Trial] = set()
        self._best: TrialResult | None = None

    def header(self, facts: dict[str, str], earlier: Iterable[TrialResult]) -> None:
        """Print the facts about the sweep, and the number of runs of an earlier call."""
        for name, value in facts.items():
            self.say(f"{name:<9}  {value}")
        for result in earlier:
            if result.outcome != "unfinished":
                self._note(result)
        if self._ended:
            self.say(f"resuming   {_count(len(self._ended), 'run')} done so far")
        self._show()

    def say(self, message: str) -> None:
        """Print one line."""
        self._progress.printed()
        self._console.print(message, markup=False, soft_wrap=True, highlight=False)

    def started(self, trial: Trial) -> None:
        """Show a run that starts."""
        self._running[trial] = "starting"
        self._show()

    def epoch(self, trial: Trial, epoch: int, accuracy: float) -> None:
        """Show how far a run is."""
        self._running[trial] = f"epoch {epoch}, {format_percent(accuracy)}"
        self._show()

    def ended(self, result: TrialResult) -> None:
        """Print the line of a run that has ended, unless an earlier call has."""
        self._running.pop(result.trial, None)
        if result.trial not in self._ended:
            self._note(result)
            self.say(f"{result.trial.name}  {self._describe(result)}  {self._values(result.trial)}")
        self._show()

    def _note(self, result: TrialResult) -> None:
        self._ended.add(result.trial)
        best = -1.0 if self._best is None or self._best.accuracy is None else self._best.accuracy
        if result.outcome == "finished" and result.accuracy is not None and result.accuracy > best:
            self._best = result

    def _describe(self, result: TrialResult) -> str:
        if result.error is not None:
            return f"failed: {result.error};"
        assert result.accuracy is not None
        accuracy = f"{format_percent(result.accuracy):>8}"
        if result.outcome == "stopped":
            assert result.last is not None
            return f"{accuracy}  stopped after epoch {result.last.epoch}"
        return accuracy

    def _values(self, trial: Trial) -> str:
        return format_values(self._folder.configurations[trial.configuration])

    def _summary(self) -> str:
        best = self._best
        text = f"{_count(len(self._ended), 'run')} done, {len(self._running)} running"
        if best is None or best.accuracy is None:
            return text
        return f"{text}, best {format_percent(best.accuracy)} ({self._values(best.trial)})"

    def _show(self) -> None:
        self._progress.start(self._summary())
        if self._live is not None:
            self._live.update(self._table(), refresh=True)

    def _table(self) -> Group:
        table = Table(box=None, pad_edge=False, header_style="bold")
        for heading in ("run", "progress", "settings"):
            table.add_column(heading)
        for trial, progress in self._running.items():
            table.add_row(*map(Text, (trial.name, progress, self._values(trial))))
        return Group(table, Text(self._summary()))

    def summary(self, rows: Sequence[dict[str, Any]], errors: Sequence[TrialResult], files: Sequence[Path]) -> None:
        """Remove what is live, and print the table, the errors of runs, and the names of files."""
        self.__exit__()
        settings = [name for name in self._folder.plan.dimensions if len({str(row[name]) for row in rows}) > 1]
        counts = [name for name in COUNTS if name == "finished" or any(row[name] for row in rows)]
        shown = [name for name in SHOWN if any(row[name] is not None for row in rows)]
        self.say(f"Accuracies on the {self._folder.plan.split}, best configuration first:")
        columns = ["configuration", *settings, *counts, *shown]
        show_table(rows[:MOST_ROWS], columns, self._console, formats=dict.fromkeys(SHOWN, "accuracy"))
        if len(rows) > MOST_ROWS:
            self.say(f"… and {_count(len(rows) - MOST_ROWS, 'other configuration')}")
        for result in errors:
            self.say(f"{result.trial.name} failed: {result.error}")
        self.say(f"files      {', '.join(map(str, files))}")

    def __enter__(self) -> SweepConsole:
        if self._live is not None:
            self._live.start()
        else:
            self._progress.__enter__()
        return self

    def __exit__(self, *_: object) -> None:
        self._progress.__exit__()
        if self._live is not None:
            self._live.stop()


def write_results(folder: SweepFolder, rows: Sequence[dict[str, Any]]) -> list[Path]:
    """Write table.csv, table.json and best.toml to the sweep's folder, and return their paths."""
    paths = [folder.path / "table.csv", folder.path / "table.json"]
    searched = tuple(folder.plan.space)
    write_table(paths[0], rows, [*COLUMNS[:2], *searched, *COLUMNS[2:]])
    write_json(paths[1], {"compared_on": folder.plan.split, "configurations": rows}, only_writer=True)
    if (best := best_recipe(folder, rows)) is not None:
        paths.append(folder.path / "best.toml")
        write_recipe(paths[-1], best)
    return paths


def format_values(values: dict[str, Any]) -> str:
    """Return the values of a configuration, such as "speedrun max_lr=0.2"."""
    shown = [f"{name}={value:.4g}" if isinstance(value, float) else f"{name}={value}" for name, value in values.items()]
    return " ".join([values["recipe"], *shown[1:]])


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"
