"""The page that compares runs."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from fastcifar.report import html
from fastcifar.report.style import DASHES, FigureSpec, Theme, add_legend, name_axes, new_axes, renderable
from fastcifar.report.units import format_duration
from fastcifar.runs.record import RunRecord, read_record
from fastcifar.runs.results import EpochResult

LONGEST_NAME = 36
"""Characters of a run's name in a legend; of a longer one, such as a path, the end."""

Values = Callable[[RunRecord, EpochResult], float]


def write_comparison(runs: Sequence[Path], *, out: Path | None = None) -> Path:
    """Make a page that shows runs side by side, from their folders alone.

    Args:
        runs: their folders, two or more.
        out: where to write; `runs-report` beside the first run's folder if not given.

    Returns:
        The path of report.html.

    Raises:
        CheckpointError: a folder is no run's, or has no finished epoch.
    """
    records = _named(runs)
    out = out or runs[0].resolve().parent / "runs-report"
    out.mkdir(parents=True, exist_ok=True)
    comparable = len({record.last.eval_split for record in records.values()}) == 1
    best = max(records, key=lambda name: records[name].last.test_accuracy) if comparable else None
    sections = [
        html.section("Results", html.card(_results(records, best))),
        html.section("Curves", html.cards(*html.save_figures(_pictures(records), out)), text=_measured_on(records)),
        html.section("What differs", html.card(_differences(records))),
    ]
    subtitle = f"highest last-epoch accuracy: {best}, {100 * records[best].last.test_accuracy:.2f} %" if best else ""
    html.write_page(out / "report.html", f"{len(records)} runs compared", subtitle, sections)
    return out / "report.html"


def _named(runs: Sequence[Path]) -> dict[str, RunRecord]:
    """The runs by their folders' names, or by their paths where two folders have one name."""
    records = [read_record(run) for run in runs]
    names = [record.name for record in records]
    shown = [name if names.count(name) == 1 else str(record.path) for name, record in zip(names, records, strict=True)]
    return {
        name if shown.count(name) == 1 else f"{number}: {name}": record
        for number, (name, record) in enumerate(zip(shown, records, strict=True), start=1)
    }


def _pictures(records: dict[str, RunRecord]) -> list[FigureSpec]:
    minutes = max(record.last.total_train_seconds for record in records.values()) > 300
    unit, seconds = ("minutes", 60) if minutes else ("seconds", 1)
    return [
        _curves(records, "accuracy", "Accuracy", "accuracy (%)", lambda _, result: 100 * result.test_accuracy),
        _curves(records, "loss", "Loss", "cross-entropy (nats)", lambda _, result: result.test_loss),
        _curves(
            records, "accuracy-by-time", "Accuracy by training time", "accuracy (%)",
            lambda _, result: 100 * result.test_accuracy,
            x=lambda _, result: result.total_train_seconds / seconds, x_label=f"training time ({unit})",
        ),
        _curves(records, "train-loss", "Training loss", "cross-entropy (nats)", lambda _, result: result.train_loss),
    ]  # fmt: skip


def _curves(
    records: dict[str, RunRecord],
    name: str,
    title: str,
    y_label: str,
    y: Values,
    *,
    x: Values = RunRecord.passes,
    x_label: str = "epoch",
) -> FigureSpec:
    columns = 2 if max(map(len, records)) <= 18 else 1

    def draw(theme: Theme) -> Figure:
        figure, axes = new_axes(theme, height=3 + 0.2 * -(-len(records) // columns))
        for number, (run, record) in enumerate(records.items()):
            axes.plot(
                [x(record, result) for result in record.results], [y(record, result) for result in record.results],
                color=theme.lines[number % len(theme.lines)], linestyle=DASHES[number % len(DASHES)], linewidth=2,
                marker="o" if len(record.results) == 1 else None, label=_legend_name(run),
            )  # fmt: skip
        if x_label == "epoch":
            axes.xaxis.set_major_locator(MaxNLocator(integer=True, nbins=8))
        name_axes(axes, theme, x_label, y_label)
        add_legend(figure, axes, theme, columns=columns)
        return figure

    ends = "; ".join(
        f"{run} {y(record, record.results[0]):.4g} to {y(record, record.last):.4g}" for run, record in records.items()
    )
    return FigureSpec(
        name=name,
        title=title,
        alt=f"{title}: line chart of {y_label} against {x_label}, a line a run. From first to last epoch: {ends}.",
        draw=draw,
    )


def _legend_name(run: str) -> str:
    return renderable(run if len(run) <= LONGEST_NAME else "…" + run[1 - LONGEST_NAME :], LONGEST_NAME)


def _results(records: dict[str, RunRecord], best: str | None) -> str:
    heading = ["run", "recipe", "measured on", "epochs", "last %", "best %"]
    heading += ["training time", "time to goal", "evaluation time"]
    rows = []
    for name, record in records.items():
        last, met = record.last, record.first_at(record.goal)
        rows.append(
            (
                name,
                record.config.name,
                last.eval_split,
                f"{last.epoch} of {last.epochs}",
                f"{100 * last.test_accuracy:.2f}",
                f"{100 * last.best_accuracy:.2f} (epoch {last.best_epoch})",
                format_duration(last.total_train_seconds),
                f"{format_duration(met.total_train_seconds)} ({100 * record.goal:.4g} %)" if met else "not reached",
                format_duration(sum(result.eval_seconds for result in record.results)),
            )
        )
    return html.table(heading, rows, marked=list(records).index(best) if best else None)


def _differences(records: dict[str, RunRecord]) -> str:
    described = [_describe(record) for record in records.values()]
    names = list(dict.fromkeys(name for values in described for name in values))
    rows = [(name, *(values.get(name, "–") for values in described)) for name in names]
    differing = [row for row in rows if len(set(row[1:])) > 1]
    if not differing:
        return "<p>Nothing: settings, device and versions are the same.</p>"
    return html.table(("", *records), differing, words=True)


def _describe(record: RunRecord) -> dict[str, str]:
    """Every setting but the folder's own path, and what else the figures depend on."""
    settings: dict[str, Any] = record.config.to_json()
    settings.pop("run_dir")
    environment = dict(record.environment)
    versions, data = environment.pop("versions", {}), environment.pop("data", {})
    values = settings | environment | {f"{name} version": version for name, version in versions.items()}
    values |= {f"data {name}": value for name, value in data.items()}
    return {name: str(value) for name, value in values.items()}


def _measured_on(records: dict[str, RunRecord]) -> str:
    kinds = sorted({record.last.eval_split for record in records.values()})
    if len(kinds) == 1:
        return f"Accuracy and loss are those of the {kinds[0]} set."
    return "Accuracy and loss are those of the images that each run was measured on, which are not the same: see above."
