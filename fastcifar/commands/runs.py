"""`fastcifar runs`."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import tyro

from fastcifar.commands.shared import show_notes
from fastcifar.errors import ConfigError
from fastcifar.files import dump_json
from fastcifar.report.terminal import make_console

SHOWN = (
    "name", "recipe", "seed", "epoch", "epochs", "status", "final_accuracy", "best_accuracy", "total_train_seconds",
    "device", "data",
)  # fmt: skip
"""The columns that are shown if none are chosen."""


@dataclass(frozen=True, kw_only=True)
class Runs:
    """List, filter, compare and export the runs in a folder and in the folders in it.

    --where, --sort and --columns take the names of all columns: the settings, such as max_lr, the results of the last
    epoch, as in metrics.jsonl, and facts such as status, device and data. --json shows all of them.
    """

    paths: Annotated[tuple[Path, ...], tyro.conf.Positional, tyro.conf.arg(metavar="[PATH ...]")] = (Path("runs"),)
    """Folders with run folders, or run folders."""
    where: str | None = None
    """Condition that the runs must meet, such as 'recipe == "era" and test_accuracy > 0.9'. A comparison with a value
    that a run does not have is false."""
    sort: str | None = None
    """Column to sort by, largest value last; the newest run is last if not given."""
    columns: tuple[str, ...] = ()
    """Columns to show or write."""
    compare: bool = False
    """Group the finished runs over their seeds: the settings that differ, and the mean, the standard deviation (sd) and
    half the width of the 95 % confidence interval (ci95) of each group."""
    metric: str = "final_accuracy"
    """Column to compare."""
    out: Path | None = None
    """CSV or Parquet file (.csv, .parquet) to write, instead of printing the table. An existing file is replaced."""
    json: bool = False
    """Print a JSON list instead of the table."""

    def run(self) -> int:
        """Read the small files of all run folders, and print or write the table."""
        from fastcifar.runs.listing import COLUMNS, list_runs
        from fastcifar.runs.where import parse_condition

        holds = parse_condition(self.where, COLUMNS) if self.where is not None else lambda row: True
        self._check_options(COLUMNS)
        found, errors = list_runs(self.paths)
        show_notes(f"passed over {error}" for error in errors)
        rows = [row for row in found if holds(row)]
        if self.compare:
            rows = self._group(rows)
        elif self.sort is not None:
            rows = _sort(rows, self.sort)
        self._output(rows, COLUMNS)
        if self.out is None and not self.json and not self.compare:
            print(f"{len(rows)} of {len(found)} runs")
        return 0

    def _check_options(self, known: Sequence[str]) -> None:
        from fastcifar.runs.where import unknown_column

        if self.out is not None:
            from fastcifar.report.run_table import table_writer

            table_writer(self.out)  # an error comes before the work
        if self.compare and (self.columns or self.sort):
            raise ConfigError("--compare has its own columns and order; leave out --columns and --sort")
        for column in (*self.columns, self.sort or "name", self.metric):
            if column not in known:
                raise ConfigError(unknown_column(column, known))

    def _group(self, rows: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
        from fastcifar.runs.groups import group_over_seeds

        finished = [row for row in rows if row["status"] == "finished"]
        if len(finished) < len(rows):
            show_notes([f"left out, since they are not finished: {len(rows) - len(finished)} runs"])
        return group_over_seeds(finished, self.metric)

    def _output(self, rows: Sequence[dict[str, Any]], known: Sequence[str]) -> None:
        from fastcifar.report.run_table import show_table, write_table

        columns = self.columns or tuple(rows[0] if self.compare and rows else known)
        if self.out is not None:
            write_table(self.out, rows, columns)
            print(f"Table: {self.out}")
        elif self.json:
            print(dump_json([{column: row[column] for column in columns} for row in rows]))
        elif self.compare and rows:
            shown = ("recipe", "changes", "runs", "seeds", self.metric, "sd", "ci95")
            show_table(rows, shown, make_console(), formats={"sd": self.metric, "ci95": self.metric})
        elif rows:
            show_table(rows, self.columns or SHOWN, make_console(), may_shorten=not self.columns)


def _sort(rows: Sequence[dict[str, Any]], column: str) -> list[dict[str, Any]]:
    """Return the rows sorted by a column, those without a value first; lists and text are compared as text."""
    numbers = all(isinstance(row[column], (int, float, type(None))) for row in rows)
    return sorted(rows, key=lambda row: (row[column] is not None, row[column] if numbers else str(row[column])))
