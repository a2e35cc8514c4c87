"""The data of a run that is used again, perhaps in another place."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from pathlib import Path

from fastcifar.data.manifest import read_manifest
from fastcifar.data.pair import SPLITS, split_path
from fastcifar.errors import DataError, FastCifarWarning

NAME_FOLDER = "name the folder of its .beton files with --data-dir"


def has_betons(folder: Path, splits: Sequence[str] = SPLITS) -> bool:
    """Return whether a folder has the .beton files of these splits."""
    return all(split_path(folder, split).exists() for split in splits)


def require_betons(run: Path, folder: Path, splits: Sequence[str] = SPLITS, *, otherwise: str = "") -> None:
    """Check that the data of a run, or of its checkpoint, is there: a run folder can be moved without its data.

    `otherwise` is the advice for somebody who has no data.

    Raises:
        DataError: a .beton file is not in the folder.
    """
    if not has_betons(folder, splits):
        names = " or no ".join(split_path(folder, split).name for split in splits if not has_betons(folder, [split]))
        advice = f"{NAME_FOLDER}, or {otherwise}" if otherwise else NAME_FOLDER
        raise DataError(f"{run}: its data is not there: {folder.absolute()} has no {names}; {advice}")


def warn_of_other_data(run: Path, folder: Path, content_sha256: str) -> None:
    """Warn if the training set in a folder is known, and is not that of a run, or of its checkpoint.

    Warns:
        FastCifarWarning: the content's SHA-256 is not `content_sha256`.
    """
    train, test = (split_path(folder, split) for split in SPLITS)
    found = read_manifest(train).content_sha256 if train.exists() else read_manifest(test).other_split_sha256
    if found not in (content_sha256, None):
        text = f"{run}: was trained on other data than that in {folder.absolute()}; {NAME_FOLDER}"
        warnings.warn(text, FastCifarWarning, stacklevel=3)
