"""Draw time against accuracy, of our recipes and of other projects, into docs/images.

    python -m scripts.frontier

The points are the means of the trainings in the committed result files, each on a machine that did nothing else.
"""

from __future__ import annotations

import argparse
import io
import itertools
import math
import re
import statistics
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from benchmarks.results import FOLDER, Results
from fastcifar.report.style import Theme, add_legend, use_theme
from scripts.pictures import OUT, variants

FILES = (
    ("time-to-90-gpu", "time-to-94-gpu", "time-to-95-gpu", "time-to-96-gpu", "era-plus-gpu", "era-gpu"),
    ("time-to-90-amx-cpu", "era-amx-cpu"),
    ("frontier-speedrun-cpu", "time-to-90-cpu"),
    ("time-to-90-zen5-cpu", "time-to-94-cpu", "time-to-95-cpu", "time-to-96-cpu", "era-plus-cpu", "era-cpu"),
)
"""The result files of each panel, which are from the same kind of device; those that do not exist are left out."""
PANELS = {"wide": (2, 6.0, 4.2), "narrow": (1, 4.2, 5.0)}
"""Panels side by side, and width and height of each in inches, by the width of the screen."""
ROOM = 8
"""Room for the names at both sides of a panel, as a factor of the seconds."""
OURS, PEERS = "fastcifar", "other projects"


class Point(NamedTuple):
    """The mean of the runs of one training."""

    name: str
    seconds: float
    """Training, and the evaluation that gives the accuracy."""
    accuracy: float
    """Test accuracy, from 0 to 1."""
    is_peer: bool


def read_points(names: tuple[str, ...]) -> tuple[str, list[Point]]:
    """Return the device and the points of result files, the fastest training first."""
    files = [Results.read(path) for name in names if (path := FOLDER / f"{name}.json").exists()]
    points = sorted((point for results in files for point in _points(results)), key=lambda point: point.seconds)
    return files[0].device.partition(": ")[2], points


def _points(results: Results) -> Iterator[Point]:
    groups: dict[str, list[dict[str, Any]]] = {}
    for run in results.runs:
        groups.setdefault(run.get("name") or run["recipe"], []).append(run)
    for name, runs in groups.items():
        yield Point(
            name=_short_name(name),
            seconds=statistics.fmean(run.get("seconds") or run["train_seconds"] + run["eval_seconds"] for run in runs),
            accuracy=statistics.fmean(run.get("final_accuracy") or run["test_accuracy"] for run in runs),
            is_peer=name in results.peers,
        )


def _short_name(name: str) -> str:
    """Return the name of a training, such as "era-fast, 2.4 epochs" for "era-fast:epochs=2.4"."""
    return re.sub(r":epochs=([\d.]+)$", r", \1 epochs", name).replace("94_muon", "")


def best_so_far(points: list[Point]) -> list[Point]:
    """Return the points that are more accurate than all faster ones."""
    best: list[Point] = []
    for point in points:
        if not best or point.accuracy > best[-1].accuracy:
            best.append(point)
    return best


def draw_frontier(size: str, theme: Theme) -> str:
    """Return the figure as an SVG: a panel per device, two side by side on wide screens, and stacked on narrow ones."""
    columns, width, height = PANELS[size]
    rows = math.ceil(len(FILES) / columns)
    settings: dict[Any, Any] = {
        "svg.hashsalt": "frontier",
        "svg.fonttype": "path",
    }  # the same file whenever it is drawn
    with use_theme(theme), matplotlib.rc_context(settings):
        figure = Figure(figsize=(columns * width, rows * height), layout="constrained")
        panels = figure.subplots(rows, columns, sharey=True, squeeze=False).ravel().tolist()
        for axes, names in zip(panels, FILES, strict=True):
            _draw_panel(axes, *read_points(names))
        add_legend(figure, panels[0], columns=2)
        buffer = io.StringIO()
        figure.savefig(buffer, format="svg", metadata={"Date": None})
    return buffer.getvalue()


def _draw_panel(axes: Axes, device: str, points: list[Point]) -> None:
    ours, peers = ([point for point in points if point.is_peer == is_peer] for is_peer in (False, True))
    best = best_so_far(ours)
    axes.plot([point.seconds for point in best], [100 * point.accuracy for point in best], "C0-", linewidth=1)
    for label, shown, style in ((OURS, ours, "C0o"), (PEERS, peers, "C1s")):
        axes.plot([point.seconds for point in shown], [100 * point.accuracy for point in shown], style, label=label)
    above, below = {"ha": "right", "va": "bottom", "xytext": (-2, 3)}, {"va": "top", "xytext": (2, -4)}
    right = {"va": "center", "xytext": (7, 0)}
    close = {after for before, after in itertools.pairwise(best) if _is_close(before, after)}
    for point in points:  # the names of ours above the line or below it, those of other projects at the right
        side: dict[str, Any] = right if point.is_peer else above if point in best and point not in close else below
        place = (point.seconds, 100 * point.accuracy)
        axes.annotate(point.name, place, textcoords="offset points", size=7.5, **side)
    axes.set_title(device, fontsize=9)
    axes.set(xlabel="seconds", ylabel="mean test accuracy in %", xscale="log")
    axes.set_xlim(points[0].seconds / ROOM, points[-1].seconds * ROOM)
    axes.margins(y=0.12)  # room for the names
    axes.xaxis.set_major_formatter("{x:,g}")
    axes.xaxis.set_minor_formatter("")


def _is_close(before: Point, after: Point) -> bool:
    """Whether the names of two points would overlap if both stood above the line."""
    return after.seconds < 1.5 * before.seconds and after.accuracy - before.accuracy < 0.01


def main() -> None:
    """Draw the figure for wide and narrow screens, in light and in dark colors."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=OUT, help="folder to write to")
    arguments = parser.parse_args()
    arguments.out.mkdir(parents=True, exist_ok=True)
    for size, theme in variants():
        (arguments.out / f"frontier-{size}-{theme}.svg").write_text(draw_frontier(size, theme))


if __name__ == "__main__":
    main()
