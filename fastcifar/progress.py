"""The progress of long work, which its caller can show as a bar or as lines of a log."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class Progress:
    """How much of a task is done."""

    task: str
    """Such as 'reading pictures'."""
    done: float
    total: float | None
    """None if it is not known."""
    unit: str = "images"
    """What `done` and `total` count."""
    detail: str = ""
    """Further facts, such as 'lr 1.0e-3'."""


OnProgress = Callable[[Progress], None]
"""A function that is called whenever a part of a task is done; it returns at once."""
