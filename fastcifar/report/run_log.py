"""The interface of a log: a program, such as TensorBoard, that shows many runs."""

from __future__ import annotations

from typing import Literal, Protocol

from fastcifar.runs.results import EpochResult

Outcome = Literal["finished", "stopped", "failed"]


class RunLog(Protocol):
    """Writes one run to a program that shows many. It gets the run's settings when it is created."""

    def epoch(self, result: EpochResult) -> None:
        """Write the result of an epoch. A resumed run gives the epochs before it again; none appears twice."""

    def close(self, outcome: Outcome) -> None:
        """End the log, and say how the run ended."""
