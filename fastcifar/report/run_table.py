"""Tables of runs: on the console, and as CSV and Parquet files."""

from __future__ import annotations

import bisect
import csv
import itertools
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.cells import cell_len
from rich.console import Console
from rich.table import Table
from rich.text import Text

from fastcifar.errors import ConfigError
from fastcifar.files import atomic_write, dump_json
from fastcifar.report.units import format_duration, format_percent

Rows = Sequence[Mapping[str, Any]]


HEADINGS = {"final_accuracy": "accuracy", "best_accuracy": "best", "total_train_seconds": "time"}
"""Short headings, of columns that everybody sees."""


def show_table(
    rows: Rows,
    columns: Sequence[str],
    console: Console,
    *,
    formats: Mapping[str, str] | None = None,
    may_shorten: bool = False,
) -> None:
    """Print rows, with percent for accuracies and minutes for seconds; a dash stands for a missing value.

    Off a terminal, no line is wrapped.

    Args:
        rows: values by column.
        columns: the columns to show.
        console: where to print.
        formats: columns that are written like others, by name.
        may_shorten: leave out the last columns on a terminal that is too narrow for them.
    """
    cells = {
        HEADINGS.get(name, name): [_format(row[name], (formats or {}).get(name, name)) for row in rows]
        for name in columns
    }
    widths = [max(map(cell_len, [heading, *texts])) for heading, texts in cells.items()]
    ends = list(itertools.accumulate(widths, lambda end, width: end + 2 + width))
    if not console.is_terminal:  # a file or a pipe has lines of any length
        console.width = max(console.width, ends[-1])
    shown = bisect.bisect_right(ends, console.width) if may_shorten else len(ends)
    table = Table(box=None, pad_edge=False, header_style="bold")
    for heading, column in itertools.islice(zip(cells, columns, strict=True), max(shown, 1)):
        is_number = all(isinstance(row[column], (int, float, type(None))) for row in rows)
        table.add_column(heading, justify="right" if is_number else "left", no_wrap=is_number, overflow="fold")
    for texts in zip(*itertools.islice(cells.values(), max(shown, 1)), strict=True):
        table.add_row(*map(Text, texts))
    console.print(table)


def _format(value: Any, column: str) -> str:
    if value is None:
        return "–"
    if column.endswith("accuracy") and isinstance(value, (int, float)):
        return format_percent(value)
    if column.endswith("seconds") and isinstance(value, (int, float)):
        return format_duration(value)
    return f"{value:g}" if isinstance(value, float) else _text(value)


def _text(value: Any) -> str:
    """Return a value as text; a list as JSON."""
    return dump_json(value) if isinstance(value, list) else str(value)


def write_table(path: Path, rows: Rows, columns: Sequence[str]) -> None:
    """Write rows as a CSV or a Parquet file, according to the suffix of `path`. Lists are written as JSON.

    Raises:
        ConfigError: the file has another suffix, or pyarrow, which writes Parquet, is not installed.
    """
    write = table_writer(path)
    flat = [
        {column: dump_json(row[column]) if isinstance(row[column], list) else row[column] for column in columns}
        for row in rows
    ]
    with atomic_write(path) as temporary:
        write(temporary, flat, columns)


def table_writer(path: Path) -> Callable[[Path, Rows, Sequence[str]], None]:
    """Return the function that writes a table to `path`. Raises as `write_table` does."""
    if path.suffix == ".csv":
        return _write_csv
    if path.suffix != ".parquet":
        raise ConfigError(f"{path}: a table is written as .csv or .parquet; give the file one of these suffixes")
    from fastcifar.runs.dynamics import require_pyarrow

    pyarrow, parquet = require_pyarrow(str(path))
    return lambda file, rows, columns: parquet.write_table(_arrow_table(pyarrow, rows, columns), file)


def _write_csv(path: Path, rows: Rows, columns: Sequence[str]) -> None:
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, columns)
        writer.writeheader()
        writer.writerows(rows)


def _arrow_table(pyarrow: Any, rows: Rows, columns: Sequence[str]) -> Any:
    """Return an Arrow table; a column whose numbers are not all whole is one of floats."""
    values = {column: [row[column] for row in rows] for column in columns}
    floats = {name for name, column in values.items() if any(isinstance(value, float) for value in column)}
    return pyarrow.table(
        {
            name: pyarrow.array(column, type=pyarrow.float64() if name in floats else None)
            for name, column in values.items()
        }
    )
