"""Result files: one type for all benchmarks, checks of the committed ones, and a comparison with today's recipes."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Self

import msgspec

from fastcifar.errors import DataError
from fastcifar.files import atomic_write, dump_json

FOLDER = Path(__file__).parent / "results"


class Results(msgspec.Struct, kw_only=True, forbid_unknown_fields=True, omit_defaults=True):
    """The results of one benchmark on one machine. Times are in seconds, accuracies from 0 to 1."""

    benchmark: str
    device: str
    precision: str
    platform: str = ""
    versions: dict[str, str | None]
    commit: str | None
    data: dict[str, Any]
    settings: dict[str, Any] = {}
    peers: dict[str, Any] = {}
    note: str = ""
    figures: dict[str, Any] = {}
    runs: list[dict[str, Any]]
    extra: dict[str, Any] = {}

    @classmethod
    def read(cls, path: Path) -> Self:
        """Read a result file.

        Raises:
            DataError: the file cannot be read, or a field is missing, unknown or of another type.
        """
        try:
            return msgspec.json.decode(path.read_bytes(), type=cls)
        except (OSError, msgspec.DecodeError) as error:
            raise DataError(f"{path}: is not a result file of a benchmark ({error})") from None

    def write(self, path: Path) -> None:
        """Write a result file, completely or not at all."""
        path.parent.mkdir(parents=True, exist_ok=True)
        with atomic_write(path) as temporary:
            temporary.write_text(dump_json(msgspec.to_builtins(self), indent=2) + "\n")

    def grouped(self, key: str = "name") -> dict[Any, list[dict[str, Any]]]:
        """Return the runs by the value of one of their fields, in their order."""
        groups: dict[Any, list[dict[str, Any]]] = {}
        for run in self.runs:
            groups.setdefault(run[key], []).append(run)
        return groups
