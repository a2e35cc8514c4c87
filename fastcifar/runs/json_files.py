"""Read the JSON files of a run folder, and check the type of every value in them."""

from __future__ import annotations

import functools
import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar, get_type_hints

import msgspec

from fastcifar.errors import CheckpointError
from fastcifar.version import __version__

T = TypeVar("T")


def parse_object(text: str) -> dict[str, Any]:
    """Parse a JSON object.

    Raises:
        ValueError: the text is not JSON, or not an object.
    """
    try:
        values = json.loads(text)
    except RecursionError:
        raise ValueError("it is nested too deeply") from None
    if not isinstance(values, dict):
        raise ValueError("it is not a JSON object")
    return values


def read_json(folder: Path, file: str, convert: Callable[[dict[str, Any]], T], kind: str = "a run folder") -> T:
    """Read a file with a JSON object, and convert it; `kind` says what a folder with such a file is.

    Raises:
        CheckpointError: the file is missing, has no JSON object, or `convert` misses a value or refuses one.
    """
    try:
        return convert(parse_object((folder / file).read_text()))
    except (AttributeError, LookupError, TypeError) as error:
        reason = ValueError(f"a value is missing or has another type ({error})")
        raise unreadable(folder, file, reason) from error
    except (OSError, ValueError) as error:
        raise unreadable(folder, file, error, kind=kind) from error


def check_types(values: dict[str, Any], kind: type[T]) -> T:
    """Convert a JSON object to `kind`, a dataclass or a TypedDict. A null that should be a float becomes NaN.

    Raises:
        ValueError: a key is missing or unknown, or a value has the wrong type; the message names the key.
    """
    hints = _hints(kind)  # type: ignore[arg-type]  # a class is hashable
    if unknown := sorted(values.keys() - hints.keys()):
        raise ValueError(f"unknown key {', '.join(unknown)}")
    numbers = {name: math.nan for name, value in values.items() if value is None and hints[name] is float}
    return msgspec.convert({**values, **numbers}, kind)


@functools.cache
def _hints(kind: type[object]) -> dict[str, Any]:
    """Return the types of a class's keys. Computed once: reading the annotations takes longer than the conversion."""
    return get_type_hints(kind)


def unreadable(
    run: Path, file: str, error: OSError | ValueError, line: int | None = None, kind: str = "a run folder"
) -> CheckpointError:
    """Create the error for a file of a run folder that cannot be read or has wrong content (in `line`, from 1)."""
    if isinstance(error, (FileNotFoundError, NotADirectoryError)):
        return CheckpointError(f"{run}: is not {kind}, since it has no {file}")
    if isinstance(error, OSError):
        return CheckpointError(f"{run / file}: cannot be read ({error.strerror})")
    place = f"{run / file}" if line is None else f"{run / file}, line {line}"
    return CheckpointError(f"{place}: {error}; it is damaged, or of another version of fastcifar{_versions(run)}")


def _versions(run: Path) -> str:
    """The versions that wrote and that read the run, in parentheses; nothing if the run does not tell its version."""
    try:
        wrote = parse_object((run / "environment.json").read_text())["versions"]["fastcifar"]
    except (OSError, ValueError, LookupError, TypeError):
        return ""
    return f" (written by {wrote}, read by {__version__})"
