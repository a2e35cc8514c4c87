"""The errors that bad input raises. Each message says what is wrong, where, and what to do about it.

    FastCifarError
    ├── ConfigError (also a ValueError)    a setting
    ├── DataError                          a data source or a .beton file
    ├── DeviceError                        a device
    ├── CheckpointError                    a run folder or a checkpoint
    ├── ProcessError                       another process of a run that several train together
    ├── TrainingError                      a training that cannot continue
    ├── StoppedError                       a run that was stopped by a signal
    └── ExportError                        an exported file

`except fastcifar.FastCifarError as error` catches all of them. A `FastCifarWarning` is for what goes on nevertheless.
"""

import difflib
import signal
from collections.abc import Iterable
from typing import NamedTuple


def closest(name: str, candidates: Iterable[str], cutoff: float = 0.0) -> str | None:
    """Return the candidate spelled most like `name`; None if no candidate's similarity (0 to 1) reaches `cutoff`."""
    return next(iter(difflib.get_close_matches(name, list(candidates), n=1, cutoff=cutoff)), None)


class FastCifarError(Exception):
    """The base class of all errors that bad input raises."""

    exit_code = 1
    """The exit code of the command line after this error."""


class Problem(NamedTuple):
    """What does not work on this machine, and what to do about it; as text, both."""

    what: str
    remedy: str

    def __str__(self) -> str:
        return f"{self.what}; {self.remedy}"


class FastCifarWarning(UserWarning):
    """Something that was asked for is not done, and the work goes on without it. The command line prints one line."""


class ConfigError(FastCifarError, ValueError):
    """A setting has a value that is not allowed, or that does not fit the machine, the data or another setting."""

    exit_code = 2


class DataError(FastCifarError):
    """A data source, a .beton file or its manifest is missing or damaged, or they do not match."""


class DeviceError(FastCifarError):
    """The requested device is not available."""


class ProcessError(FastCifarError):
    """Another process of a run that several train together has failed, or cannot be reached."""


class CheckpointError(FastCifarError):
    """A run folder or a checkpoint is missing, damaged, or belongs to another run."""


class TrainingError(FastCifarError):
    """A training cannot continue, for example because its loss is no longer finite."""


class StoppedError(FastCifarError):
    """A run was asked to stop by a signal, and stopped between two batches."""

    def __init__(self, number: signal.Signals) -> None:
        super().__init__("stopped")
        self.signal, self.exit_code = number, 128 + number


class ExportError(FastCifarError):
    """The network in an exported file does not compute the same outputs as its checkpoint."""
