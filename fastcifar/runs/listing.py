"""A table of runs: one row per run folder, with its facts, the results of its last epoch and its settings."""

from __future__ import annotations

import dataclasses
import math
import os
from collections.abc import Iterable, Iterator
from datetime import datetime
from pathlib import Path
from typing import Any, Literal

from fastcifar.config import SETTINGS
from fastcifar.errors import CheckpointError
from fastcifar.files import is_locked
from fastcifar.runs.record import RunRecord, read_record
from fastcifar.runs.results import EpochResult

Status = Literal["finished", "running", "stopped"]
Row = dict[str, Any]
"""The values of a run by column; None for a value that it does not have, such as an accuracy before the first epoch."""

FACTS = (
    "name", "path", "recipe", "status", "modified", "device", "precision", "data", "data_sha256", "commit",
    "fastcifar_version", "torch_version",
)  # fmt: skip
RESULTS = ("final_accuracy", *(field.name for field in dataclasses.fields(EpochResult) if field.name not in SETTINGS))
COLUMNS = tuple(dict.fromkeys((*FACTS, *RESULTS, *SETTINGS)))
"""All columns. Where a fact has the name of a setting, such as device, the column is the fact."""


def list_runs(paths: Iterable[Path]) -> tuple[list[Row], list[CheckpointError]]:
    """Return a row per run in these folders and the folders in them, the newest last, and the errors of damaged runs.

    A row has a value for each of `COLUMNS`. `name` is the path in the folder that was given, `modified` the time at
    which the last epoch ended. Checkpoints are not read.

    Raises:
        CheckpointError: a path is not a folder.
    """
    rows, errors = [], []
    for run, name in _find_folders(paths).items():
        try:
            rows.append(_describe(read_record(run, allow_empty=True), name))
        except CheckpointError as error:
            errors.append(error)
    return sorted(rows, key=lambda row: (row["modified"], row["name"])), errors


def _find_folders(paths: Iterable[Path]) -> dict[Path, str]:
    """Return the run folders, each once, and their names."""
    found: dict[Path, str] = {}
    for path in paths:
        if not path.is_dir():
            raise CheckpointError(f"{path}: there is no such folder; name one with run folders")
        for run in _walk(path):
            found.setdefault(run, path.resolve().name if run == path else str(run.relative_to(path)))
    return found


def _walk(path: Path) -> Iterator[Path]:
    for folder, folders, files in os.walk(path):
        if "metrics.jsonl" in files or {"config.json", "environment.json"}.issubset(files):
            folders.clear()  # a run folder holds no others
            yield Path(folder)


def _describe(record: RunRecord, name: str) -> Row:
    environment, metrics = record.environment, record.path / "metrics.jsonl"
    values = record.config.to_json()
    if record.results:
        results = record.last.to_json() | {"final_accuracy": record.last.final_accuracy}
        values |= {column: results[column] for column in RESULTS}
    values |= {
        "name": name,
        "path": str(record.path),
        "recipe": record.config.name,
        "status": _status(record),
        "modified": datetime.fromtimestamp(int(metrics.stat().st_mtime)).isoformat(sep=" "),
        "device": environment["device"],
        "precision": environment["precision"],
        "data": environment["data"]["name"],
        "data_sha256": environment["data"]["content_sha256"],
        "commit": environment["commit"],
        "fastcifar_version": environment["versions"].get("fastcifar"),
        "torch_version": environment["versions"].get("torch"),
    }
    return {column: _known(values.get(column)) for column in COLUMNS}


def _status(record: RunRecord) -> Status:
    if is_locked(record.path):
        return "running"
    return "finished" if record.is_finished else "stopped"


def _known(value: Any) -> Any:
    return None if isinstance(value, float) and math.isnan(value) else value
