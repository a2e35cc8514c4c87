"""One run on the console: a header, a live bar, a table row per epoch and a summary; off a terminal, plain lines."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console
from rich.panel import Panel
from rich.text import Text

from fastcifar.report.progress import Pace, ProgressDisplay
from fastcifar.report.terminal import make_console
from fastcifar.report.units import format_duration, format_lr, format_seconds
from fastcifar.runs.results import EpochResult, StepProgress

_NARROWEST_TABLE, _WIDE_TABLE = 75, 100  # columns of the terminal
_STYLES = ("bold", "", "bold", "dim", "", "", "")  # of a row's groups


@dataclass(frozen=True, kw_only=True)
class RunHeader:
    """The facts of a run before its first step, as text such as 'CUDA: NVIDIA H200' and 'bfloat16 (AMP)'."""

    device: str
    precision: str
    model: str
    parameters: int
    recipe: str
    images: str
    epochs: float
    """Passes over the training set; the last one may be partial."""
    batch_size: int


class TrainingConsole:
    """Shows one run. A context manager that removes the live bar, however the run ends.

    `progress` shows what happens between the rows.
    """

    def __init__(self, *, target_accuracy: float | None, console: Console | None = None) -> None:
        """Mark the first epoch whose accuracy is at least `target_accuracy` (0 to 1), or 90 % if it is None.

        All times come from the clock of `console`, its `get_time`.
        """
        self._console = console if console is not None else make_console()
        self._target = 0.90 if target_accuracy is None else target_accuracy
        terminal = self._console.is_terminal and not self._console.is_jupyter
        self._tabular = terminal and self._console.width >= _NARROWEST_TABLE
        self._wide = self._console.width >= _WIDE_TABLE
        self.progress, self._pace = ProgressDisplay(self._console, bar=self._tabular), Pace()
        self._header: RunHeader | None = None
        self._results: list[EpochResult] = []
        self._reached: EpochResult | None = None

    def __enter__(self) -> TrainingConsole:
        self.progress.__enter__()
        return self

    def __exit__(self, *_: object) -> None:
        self.progress.__exit__()

    def header(self, header: RunHeader) -> None:
        """Print the facts of the run. The bar takes the number of epochs and the batch size from here."""
        self._header = header
        facts = {
            "device": header.device,
            "precision": header.precision,
            "model": f"{header.model}, {header.parameters:,} parameters",
            "recipe": f"{header.recipe}, {header.epochs:g} epochs, batches of {header.batch_size}",
            "images": header.images,
        }
        self._facts("fastcifar", facts)

    def say(self, message: str) -> None:
        """Print one line above the bar."""
        self._print(Text(message))

    def step(self, progress: StepProgress) -> None:
        """Show the progress of an epoch, or after its last step that it is evaluated."""
        epoch = _epoch_of(progress, self._header)
        self._pace.observe(epoch, progress.step, self._console.get_time())
        if progress.step == progress.steps:
            self.progress.start(f"{epoch}  evaluating")
            return
        self.progress.update(epoch, progress.step, progress.steps, lambda: self._step_facts(progress))

    def epoch(self, result: EpochResult) -> None:
        """Print an epoch's row. A resumed run passes its earlier epochs first, so that the summary includes them."""
        if self._tabular:
            groups, gap = _groups(result, lr_digits=2 if self._wide else 1), "   " if self._wide else " "
            if not self._results:
                self._print(Text(_heading(groups, gap, result.eval_split), style="bold cyan"))
            row = Text(gap).join(Text(group, style) for group, style in zip(groups, _STYLES, strict=True))
        else:
            row = Text(_plain_line(result))
        if self._reached is None and result.final_accuracy >= self._target:
            self._reached = result
            mark = f" ◀ {100 * self._target:.4g} %"
            too_wide = self._tabular and row.cell_len + len(mark) > self._console.width
            row.append(" ◀" if too_wide else mark, style="bold green")
        self._results.append(result)
        self._print(row)

    def summary(self, run_dir: Path | None) -> None:
        """Remove the bar and print the result of the run."""
        self.__exit__()
        self._facts("result", _summary_facts(self._results, self._reached, f"{100 * self._target:.4g} %"))
        if run_dir is not None:
            self.say(f"Run folder: {run_dir}")

    def _step_facts(self, now: StepProgress) -> str:
        """Return step, images per second, learning rate and time left; speed and time from the second step on."""
        before, after = ("", "") if self.progress.has_bar else ("step ", " in this epoch")  # a bar has little room
        facts = [f"{before}{now.step:>{len(str(now.steps))}}/{now.steps}", f"lr {format_lr(now.lr)}"]
        steps_per_second = self._pace.per_second
        if self._header and steps_per_second:
            facts.insert(1, f"{steps_per_second * self._header.batch_size:.0f} img/s")
            facts.append(f"{format_duration((now.steps - now.step) / steps_per_second)} left{after}")
        return "  ".join(facts)

    def _facts(self, title: str, facts: dict[str, str]) -> None:
        width = max(map(len, facts))
        text = Text("\n".join(f"{label:<{width}}  {value}" for label, value in facts.items()))
        text.highlight_regex(rf"(?m)^.{{{width}}}", "cyan")
        self._print(text, title=title if self._tabular else None)

    def _print(self, text: Text, *, title: str | None = None) -> None:
        """Print lines, in a frame if there is a title."""
        self.progress.printed()
        framed = Panel.fit(text, title=title, title_align="left") if title else text
        self._console.print(framed, soft_wrap=title is None, highlight=False)


def _epoch_of(now: StepProgress, header: RunHeader | None) -> str:
    return f"epoch {now.epoch}/{math.ceil(header.epochs)}" if header else f"epoch {now.epoch}"


def _groups(result: EpochResult, *, lr_digits: int = 1) -> list[str]:
    """Return a row's values in fixed widths: 80 columns have room for them, one space between, and for the mark."""
    width = max(2, len(str(result.epochs)))
    arrow = " → " if lr_digits > 1 else "→"
    return [
        f"{result.epoch:>{width}}",
        f"{_loss(result.train_loss):>5} {100 * result.train_accuracy:>6.2f}",
        f"{_loss(result.test_loss):>5} {100 * result.test_accuracy:>6.2f}",
        arrow.join(f"{format_lr(lr, lr_digits):>{lr_digits + 5}}" for lr in (result.lr_start, result.lr_end)),
        f"{format_seconds(result.train_seconds):>6} {format_seconds(result.eval_seconds):>5}",
        f"{result.images_per_second:>6.0f}",
        f"{100 * result.best_accuracy:>6.2f} {result.best_epoch:>{width}}",
    ]


def _heading(groups: list[str], gap: str, eval_split: str) -> str:
    names = ("", "train", "val" if eval_split == "validation" else "test", "lr", "seconds", "", "best")
    titles = f"ep|loss  acc %|loss  acc %|start→end|train  eval|img/s|acc % {'ep':>{len(groups[0])}}".split("|")
    widths = [len(group) for group in groups]
    spanners = [f" {name} ".center(width, "─" if name else " ") for name, width in zip(names, widths, strict=True)]
    return gap.join(spanners) + "\n" + gap.join(map(str.rjust, titles, widths))


def _plain_line(result: EpochResult) -> str:
    epoch, train, eval_split, lrs, _, speed, _ = _groups(result)
    train_seconds, eval_seconds = format_seconds(result.train_seconds), format_seconds(result.eval_seconds)
    name = "val" if result.eval_split == "validation" else "test"
    return (
        f"epoch {epoch}/{result.epochs}  train {train} %  {name} {eval_split} %  lr {lrs}  "
        f"{train_seconds:>5} s + {eval_seconds:>4} s eval  {speed.strip()} img/s  "
        f"best {100 * result.best_accuracy:.2f} % ({result.best_epoch})"
    )


def _summary_facts(results: list[EpochResult], reached: EpochResult | None, target: str) -> dict[str, str]:
    if not results:
        return {"result": "no epoch was finished"}
    last, skipped = results[-1], sum(result.skipped_steps for result in results)
    facts = {f"{last.eval_split} accuracy": f"{100 * last.test_accuracy:.2f} %, epoch {last.epoch} of {last.epochs}"}
    if last.tta_accuracy is not None and last.tta_seconds is not None:
        tta = f"{100 * last.tta_accuracy:.2f} %, in {format_duration(last.tta_seconds)}"
        facts["with test-time augmentation"] = tta
    if skipped:
        facts["skipped steps"] = f"{skipped} (loss or gradient was not finite)"
    return facts | {
        "best": f"{100 * last.best_accuracy:.2f} %, selected on the {last.eval_split} set, epoch {last.best_epoch}",
        f"time to {target}": (
            f"{format_duration(reached.total_train_seconds)}, epoch {reached.epoch}" if reached else "not reached"
        ),
        "training time": format_duration(last.total_train_seconds),
        "evaluation time": format_duration(sum(result.eval_seconds for result in results)),
        "warm-up": format_duration(last.warmup_seconds),
        "peak memory": f"{last.peak_memory_bytes / 2**30:.2f} GiB",
    }


def _loss(loss: float) -> str:
    """Return a loss in at most five characters, also if training diverges."""
    short = f"{loss:.4g}" if loss < 9999.5 else f"{loss:.0e}"
    return short if loss >= 9.9995 else f"{loss:.3f}"
