"""How far a run was logged by another program, so that a resumed run goes on in the same log: logs.json."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fastcifar.files import write_json
from fastcifar.runs.json_files import check_types, read_json

FILE = "logs.json"


@dataclass(frozen=True, kw_only=True)
class LogPosition:
    """A run in a log, and the last epoch that was written there."""

    id: str
    epoch: int = 0


def read_position(run: Path, log: str) -> LogPosition | None:
    """Return the position of a run in a log, by the log's name; None if it was never written there.

    Raises:
        CheckpointError: logs.json cannot be read or is damaged.
    """
    return _read(run).get(log)


def write_position(run: Path, log: str, position: LogPosition) -> None:
    """Save the position of a run in a log. Only the process that trains the run may do this."""
    positions = {**_read(run), log: position}
    write_json(run / FILE, {name: dataclasses.asdict(each) for name, each in positions.items()}, only_writer=True)


def _read(run: Path) -> dict[str, LogPosition]:
    if not (run / FILE).exists():
        return {}

    def convert(saved: dict[str, Any]) -> dict[str, LogPosition]:
        return {name: check_types(values, LogPosition) for name, values in saved.items()}

    return read_json(run, FILE, convert)
