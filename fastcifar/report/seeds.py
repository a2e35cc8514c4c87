"""The runs of many seeds: a line per finished run on the console, and a figure of all their accuracies."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
from rich.console import Console

from fastcifar.files import atomic_write
from fastcifar.intervals import MeanInterval
from fastcifar.progress import Progress
from fastcifar.report.progress import ProgressDisplay
from fastcifar.report.terminal import make_console
from fastcifar.report.units import format_duration, format_percent
from fastcifar.runs.results import StepProgress
from fastcifar.runs.seeds import SeedOptions, SeedRun

FIGURE = "accuracies.png"


class SeedsConsole:
    """Shows the runs as they finish. A context manager that removes the live bar."""

    def __init__(self, options: SeedOptions, console: Console | None = None) -> None:
        self._console = console if console is not None else make_console()
        self._options, self._progress = options, ProgressDisplay(self._console)
        self._started_at, self._finished = self._console.get_time(), 0

    def header(self, facts: dict[str, str], notes: Iterable[str], earlier: MeanInterval | None) -> None:
        """Print the facts about all runs, notes, and the mean of the runs of an earlier call, if there are any."""
        for name, value in facts.items():
            self.say(f"{name:<9}  {value}")
        for note in notes:
            self.say(note)
        if earlier is not None:
            self.say(f"resuming   {format_interval(earlier)} so far")
        self._progress.start("starting")

    def say(self, message: str) -> None:
        """Print one line."""
        self._progress.printed()
        self._console.print(message, markup=False, soft_wrap=True, highlight=False)

    def step(self, seed: int, now: StepProgress) -> None:
        """Show the progress of the running seed."""
        task = f"seed {seed}, epoch {now.epoch}"
        if now.step == now.steps:
            self._progress.start(f"{task}, evaluating")
        else:
            self._progress.show(Progress(task=task, done=now.step, total=now.steps, unit="steps"))

    def finished(self, run: SeedRun, interval: MeanInterval) -> None:
        """Print a run's line, with the mean of all runs so far and the time that is left."""
        self._finished += 1
        seconds = format_duration(run.train_seconds + run.eval_seconds)
        facts = [
            f"seed {run.seed:<4}",
            f"{format_percent(run.accuracy):>8}",
            f"{seconds:>9}",
            f"mean {format_interval(interval)}",
        ]
        if left := self._time_left(interval):
            facts.append(left)
        self.say("  ".join(facts))
        self._progress.start(f"{interval.count} of {self._options.runs_needed(interval)} runs done")

    def summary(self, interval: MeanInterval, files: Sequence[Path]) -> None:
        """Remove the bar, and print the distribution of the accuracies."""
        self.__exit__()
        spread = "" if interval.deviation is None else f", standard deviation {100 * interval.deviation:.2f} points"
        self.say(f"accuracy   {format_interval(interval)}{spread}")
        low, middle, high = map(format_percent, (interval.min, interval.median, interval.max))
        self.say(f"range      {low} to {high}, median {middle}")
        if self._finished:
            self.say(f"speed      {self._per_minute:.1f} runs per minute")
        self.say(f"files      {', '.join(map(str, files))}")

    def _time_left(self, interval: MeanInterval) -> str:
        left = self._options.runs_needed(interval) - interval.count
        return f"about {format_duration(60 * left / self._per_minute)} left" if left > 0 else ""

    @property
    def _per_minute(self) -> float:
        return 60 * self._finished / (self._console.get_time() - self._started_at)

    def __enter__(self) -> SeedsConsole:
        self._progress.__enter__()
        return self

    def __exit__(self, *_: object) -> None:
        self._progress.__exit__()


def format_interval(interval: MeanInterval) -> str:
    """Return a mean and its interval, such as 93.12 ± 0.08 % (20 runs)."""
    half_width = "" if interval.half_width is None else f" ± {100 * interval.half_width:.2f}"
    runs = "1 run" if interval.count == 1 else f"{interval.count} runs"
    return f"{100 * interval.mean:.2f}{half_width} % ({runs})"


def draw_accuracies(runs: Sequence[SeedRun], interval: MeanInterval, path: Path, title: str) -> None:
    """Draw the accuracy of each run as a dot, equal ones stacked, with the mean and its interval, as a PNG."""
    from matplotlib import rcParams
    from matplotlib.ticker import MaxNLocator

    from fastcifar.report.style import add_legend, new_axes, use_theme

    points = 100 * np.sort([run.accuracy for run in runs])
    positions, heights = stack_dots(points)
    with use_theme("light"), atomic_write(path) as temporary:
        figure, axes = new_axes(height=2.4 + 0.08 * min(heights.max(), 25), x_label="accuracy (%)", y_label="runs")
        axes.plot(positions, heights, "o", markersize=4, clip_on=False, label="one run")
        if interval.half_width is not None:
            low, high = (100 * (interval.mean + sign * interval.half_width) for sign in (-1, 1))
            axes.axvspan(low, high, alpha=0.25, label=f"{interval.confidence:.0%} interval of the mean")
        axes.axvline(100 * interval.mean, color=rcParams["text.color"], linewidth=1.2, label="mean")
        axes.set_ylim(0, max(heights.max() + 1, 4))
        axes.yaxis.set_major_locator(MaxNLocator(integer=True))
        axes.set_title(f"{title}: {format_interval(interval)}")
        add_legend(figure, axes, columns=3)
        figure.savefig(temporary, format="png")


def stack_dots(points: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the positions and heights, from 1, of a dot per value: values in the same sixtieth of the range stack."""
    width = np.ptp(points) / 60 or 1.0
    bins = np.round((points - points[0]) / width)
    heights = np.arange(1, len(points) + 1) - np.searchsorted(bins, bins)
    return points[0] + bins * width, heights
