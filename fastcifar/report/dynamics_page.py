"""The page of a run's training dynamics, and the table of its training images in order of suspicion."""

from __future__ import annotations

import csv
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fastcifar.analysis.suspicious import DynamicsAnalysis, analyze_dynamics
from fastcifar.errors import ConfigError
from fastcifar.files import atomic_write
from fastcifar.report import dynamics_figures, html
from fastcifar.report.fonts import show_missing_characters
from fastcifar.report.units import format_percent

MAX_SHOWN = 200
"""A figure with more images would be too tall for browsers and drawing libraries."""


@dataclass(frozen=True, kw_only=True)
class DynamicsReport:
    """The files that `write_dynamics` wrote, and their content."""

    analysis: DynamicsAnalysis
    page: Path
    table: Path

    def to_json(self) -> dict[str, Any]:
        """Return the counts, the most suspicious images and the paths as plain JSON values."""
        return {**self.analysis.to_json(), "page": str(self.page), "table": str(self.table)}

    def key_numbers(self) -> dict[str, str]:
        """Return the counts as text, by name."""
        return _key_numbers(self.analysis)


def write_dynamics(
    run: Path, *, out: Path | None = None, top: int = 40, data_dir: Path | None = None
) -> DynamicsReport:
    """Write dynamics.html with its figures, and suspicious.csv with all training images in order of suspicion.

    Args:
        run: the folder of a run that was trained with `dynamics`.
        out: folder to write into; `report` in the run folder if not given.
        top: number of the most suspicious images to show, from 1 to 200.
        data_dir: folder with train.beton, if not the one that the configuration names.

    Raises:
        CheckpointError: the folder is not a run folder, or has no records or damaged ones.
        ConfigError: `top` is out of range, or pyarrow is not installed.
        DataError: train.beton is missing or damaged, or is not what the run was trained on.
    """
    if not 1 <= top <= MAX_SHOWN:
        raise ConfigError(f"top is {top}; it must be from 1 to {MAX_SHOWN}")
    analysis, out = analyze_dynamics(run, top=top, data_dir=data_dir), out or run / "report"
    out.mkdir(parents=True, exist_ok=True)
    report = DynamicsReport(analysis=analysis, page=out / "dynamics.html", table=out / "suspicious.csv")
    _write_table(report)
    dynamics = analysis.dynamics
    images = [dynamics_figures.suspicious_labels(analysis)]
    html.write_page(
        report.page,
        "dynamics.html",
        title=f"Training dynamics of {run.resolve().name}",
        subtitle=f"{len(dynamics.index):,} training images · {dynamics.epochs} epochs",
        key_numbers=report.key_numbers(),
        map_figures=html.embed_figures(
            [dynamics_figures.data_map(dynamics), dynamics_figures.forgetting_events(dynamics)], out
        ),
        found={f"{fraction:.0%}": format_percent(value) for fraction, value in analysis.found.items()},
        image_figures=html.embed_figures(images, out),
        table=report.table.name,
    )
    show_missing_characters(analysis.class_names)
    return report


def _key_numbers(analysis: DynamicsAnalysis) -> dict[str, str]:
    dynamics = analysis.dynamics
    forgotten = (dynamics.forgotten > 0).mean()
    numbers = {
        "mean confidence": f"{dynamics.confidence.mean():.3f}",
        "never predicted correctly": format_percent(float(dynamics.never_learned.mean())),
        "forgotten at least once": format_percent(float(forgotten)),
        "learned and never forgotten": format_percent(float(dynamics.unforgettable.mean())),
    }
    if (wrong := analysis.wrong) is not None:
        found = format_percent(analysis.found[0.15])
        numbers[f"of {wrong.sum():,} known wrong labels in the most suspicious 15 %"] = found
    return numbers


def _write_table(report: DynamicsReport) -> None:
    """Write a row per training image, the most suspicious first."""
    analysis = report.analysis
    with atomic_write(report.table) as temporary, temporary.open("w", newline="", encoding="utf-8") as file:
        rows = (analysis.describe(row) for row in analysis.dynamics.ranking.tolist())
        first = next(rows)
        writer = csv.DictWriter(file, ["rank", *first])
        writer.writeheader()
        writer.writerow({"rank": 1, **first})
        writer.writerows({"rank": rank, **values} for rank, values in enumerate(rows, start=2))
