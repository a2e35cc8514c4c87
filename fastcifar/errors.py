"""The errors that bad input raises. Each message says what is wrong, where, and what to do about it."""

import difflib
import signal
from collections.abc import Iterable


def closest(name: str, candidates: Iterable[str], cutoff: float = 0.0) -> str | None:
    """Return the candidate spelled most like `name`; None if no candidate's similarity (0 to 1) reaches `cutoff`."""
    return next(iter(difflib.get_close_matches(name, list(candidates), n=1, cutoff=cutoff)), None)


class FastCifarError(Exception):
    """The parent of every error that bad input raises; `exit_code` is what the command line ends with."""

    exit_code = 1


class ConfigError(FastCifarError, ValueError):
    """A setting, alone or against the machine and the data it meets, that cannot work."""

    exit_code = 2


class DataError(FastCifarError):
    """A source, a .beton or its manifest that is missing, damaged or not what it says."""


class DeviceError(FastCifarError):
    """A device that was asked for and is not there."""


class CheckpointError(FastCifarError):
    """A run folder or a checkpoint that is missing, damaged or of another run."""


class TrainingError(FastCifarError):
    """A training that cannot go on, such as one whose loss is no longer finite."""


class StoppedError(FastCifarError):
    """A run that was asked to stop by a signal, and did so after a batch."""

    def __init__(self, number: signal.Signals) -> None:
        super().__init__("stopped")
        self.exit_code = 128 + number


class ExportError(FastCifarError):
    """An exported file that does not compute what its checkpoint does."""
