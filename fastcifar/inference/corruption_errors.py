"""The errors of a checkpoint on corrupted test images, and their file in the run folder."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from pathlib import Path

from fastcifar.corruptions.kinds import KINDS, SEVERITIES
from fastcifar.files import write_json
from fastcifar.runs.json_files import check_types, read_json

EXTRA_KINDS = ("speckle_noise", "gaussian_blur", "spatter", "saturate")
"""Further files of CIFAR-10-C, which its authors keep for choosing settings. They do not count in the mean."""
MADE_FILE, PUBLISHED_FILE = "corruptions.json", "corruptions-published.json"
"""Files of a run folder: the errors on images that were corrupted here, and on CIFAR-10-C's published ones."""


@dataclass(frozen=True, kw_only=True)
class CorruptionErrors:
    """The errors of a checkpoint on corrupted test images. An error is 1 − accuracy, from 0 to 1."""

    checkpoint: str
    """The path of the checkpoint file."""
    epoch: int
    samples: int
    """Images per kind and severity."""
    seed: int | None
    """The seed of the corruptions; None for published images."""
    folder: str | None
    """The folder of published images; None for images that were corrupted here."""
    severities: tuple[int, ...]
    clean_error: float | None
    """Without corruption; None if the test set is not there."""
    errors: dict[str, tuple[float, ...]]
    """By kind, for each severity."""
    extra_errors: dict[str, tuple[float, ...]]
    """The same for `EXTRA_KINDS`."""
    mean_errors: dict[str, float]
    """By kind, also the extra ones: the mean over the severities."""
    mean_corruption_error: float | None
    """The mean of `mean_errors` without the extra kinds, not divided by another network's; None if there are none."""
    seconds: float
    """Time of all evaluations, with reading and corrupting the images."""
    device: str
    precision: str
    notes: tuple[str, ...] = ()
    """Remarks about the device and the precision, from `Runtime.notes`."""

    to_json = dataclasses.asdict
    """Return the fields by name, as plain JSON values."""

    @property
    def is_complete(self) -> bool:
        """Whether all 15 kinds and five severities are there."""
        return self.errors.keys() == KINDS.keys() and self.severities == SEVERITIES


def save_corruption_errors(run: Path, errors: CorruptionErrors) -> Path | None:
    """Save the errors of all kinds and severities in the run folder, and return the path.

    Errors of a part of them are not saved: they would replace those of all.
    """
    if not errors.is_complete:
        return None
    path = run / (MADE_FILE if errors.folder is None else PUBLISHED_FILE)
    write_json(path, errors.to_json())
    return path


def read_corruption_errors(run: Path, file: str = MADE_FILE) -> CorruptionErrors | None:
    """Read the errors that `save_corruption_errors` saved in the run folder; None if there are none.

    Raises:
        CheckpointError: the file is damaged.
    """
    if not (run / file).exists():
        return None
    return read_json(run, file, lambda values: check_types(values, CorruptionErrors))
