"""The page that compares runs."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from fastcifar.report import html
from fastcifar.report.fonts import show_missing_characters
from fastcifar.report.style import FigureSpec, add_legend, new_axes, shorten
from fastcifar.report.units import format_duration, format_percent
from fastcifar.runs.groups import differences
from fastcifar.runs.record import RunRecord, read_record
from fastcifar.runs.results import EpochResult

LEGEND_NAME_LENGTH = 36
"""Characters of a run's name in a legend; of a longer name, such as a path, the end is shown."""

Records = dict[str, RunRecord]
"""Runs by the names that the page shows."""
Values = Callable[[RunRecord, EpochResult], float]


def write_comparison(runs: Sequence[Path], *, out: Path | None = None) -> Path:
    """Write a page that shows two or more runs side by side, from their folders alone, and return its path.

    The page, report.html, is written to `out`; if not given, to `runs-report` beside the first run's folder.

    Raises:
        CheckpointError: a folder is not a run folder, or its run has no finished epoch.
    """
    records = _by_name(runs)
    out = out or runs[0].resolve().parent / "runs-report"
    out.mkdir(parents=True, exist_ok=True)
    eval_splits = sorted({record.last.eval_split for record in records.values()})
    best = max(records, key=lambda name: records[name].last.test_accuracy) if len(eval_splits) == 1 else None
    html.write_page(
        out / "report.html",
        "comparison.html",
        title=f"Comparison of {len(records)} runs",
        subtitle=_subtitle(records, best),
        records=records,
        best=best,
        eval_splits=eval_splits,
        times_to_target={name: _time_to_target(record) for name, record in records.items()},
        curves=html.embed_figures(comparison_figures(records), out),
        differences=_differences(records),
    )
    show_missing_characters(records)
    return out / "report.html"


def comparison_figures(records: Records) -> list[FigureSpec]:
    """Return the curves of several runs: accuracy, loss, accuracy over time, training loss."""
    minutes = max(record.last.total_train_seconds for record in records.values()) > 300
    unit, seconds = ("minutes", 60) if minutes else ("seconds", 1)
    return [
        _curves(records, "accuracy", "Accuracy", "accuracy (%)", lambda _, result: 100 * result.test_accuracy),
        _curves(records, "loss", "Loss", "cross-entropy (nats)", lambda _, result: result.test_loss),
        _curves(
            records, "accuracy-over-time", "Accuracy over training time", "accuracy (%)",
            lambda _, result: 100 * result.test_accuracy,
            x=lambda _, result: result.total_train_seconds / seconds, x_label=f"training time ({unit})",
        ),
        _curves(records, "train-loss", "Training loss", "cross-entropy (nats)", lambda _, result: result.train_loss),
    ]  # fmt: skip


def _by_name(runs: Sequence[Path]) -> Records:
    """Return the runs by their folders' names, or by their paths where two folders have the same name."""
    records = [read_record(run) for run in runs]
    names = [record.name for record in records]
    shown = [name if names.count(name) == 1 else str(record.path) for name, record in zip(names, records, strict=True)]
    return {
        name if shown.count(name) == 1 else f"{number}: {name}": record
        for number, (name, record) in enumerate(zip(shown, records, strict=True), start=1)
    }


def _curves(
    runs: Records, name: str, title: str, y_label: str, y: Values, x: Values = RunRecord.passes, x_label: str = "epoch"
) -> FigureSpec:
    columns = 2 if max(map(len, runs)) <= 18 else 1

    def draw() -> Figure:
        height = 3 + 0.2 * -(-len(runs) // columns)
        figure, axes = new_axes(height=height, x_label=x_label, y_label=y_label)
        for run, record in runs.items():
            axes.plot(
                [x(record, result) for result in record.results], [y(record, result) for result in record.results],
                marker="o" if len(record.results) == 1 else None, label=_legend_name(run),
            )  # fmt: skip
        if x_label == "epoch":
            axes.xaxis.set_major_locator(MaxNLocator(integer=True, nbins=8))
        add_legend(figure, axes, columns=columns)
        return figure

    ends = "; ".join(
        f"{run} {y(record, record.results[0]):.4g} to {y(record, record.last):.4g}" for run, record in runs.items()
    )
    alt = f"{title}: line chart of {y_label} against {x_label}, one line per run. From first to last epoch: {ends}."
    return FigureSpec(name=name, title=title, alt=alt, draw=draw)


def _legend_name(run: str) -> str:
    return shorten(run if len(run) <= LEGEND_NAME_LENGTH else "…" + run[1 - LEGEND_NAME_LENGTH :], LEGEND_NAME_LENGTH)


def _subtitle(records: Records, best: str | None) -> str:
    if best is None:
        return ""
    return f"highest accuracy after the last epoch: {best}, {format_percent(records[best].last.test_accuracy)}"


def _time_to_target(record: RunRecord) -> str:
    reached = record.first_at(record.target_accuracy)
    if reached is None:
        return "not reached"
    return f"{format_duration(reached.total_train_seconds)} ({100 * record.target_accuracy:.4g} %)"


def _differences(records: Records) -> dict[str, list[str]]:
    """Return the values of each run for every setting or fact that is not the same in all of them."""
    varied = differences([_describe(record) for record in records.values()])
    return {name: ["–" if value is None else value for value in values] for name, values in varied.items()}


def _describe(record: RunRecord) -> dict[str, str]:
    """Return every setting except the run folder, and the device, versions and data that results depend on."""
    values: dict[str, Any] = record.config.to_json() | record.environment
    del values["run_dir"]
    values |= {f"{name} version": version for name, version in values.pop("versions").items()}
    values |= {f"data {name}": value for name, value in values.pop("data").items()}
    return {name: str(value) for name, value in values.items()}
