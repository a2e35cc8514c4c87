"""Find the picture files in a folder, and count the files that are passed over."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from fastcifar.data.pictures import picture_suffixes

SYSTEM_NAMES = {
    "__macosx", "icon\r",  # macOS
    "thumbs.db", "ehthumbs.db", "desktop.ini", "$recycle.bin", "system volume information",  # Windows
    "@eadir", "#recycle", "@recycle",  # network storage
    "lost+found",
}  # fmt: skip
"""Files and folders that systems add to the user's, in lower case. Other ones begin with a dot."""


class PictureFiles(NamedTuple):
    """The picture files of a folder, and the other files that are there, both sorted by path."""

    pictures: list[Path]
    others: list[Path]


def is_hidden(name: str) -> bool:
    """Tell whether a file or folder of this name is hidden, or belongs to the system."""
    return name.startswith(".") or name.lower() in SYSTEM_NAMES


def has_picture_suffix(name: str) -> bool:
    """Tell whether a file of this name has a suffix that is read."""
    return os.path.splitext(name)[1].lower() in picture_suffixes()


def list_pictures(folder: Path) -> PictureFiles:
    """List the files in a folder and its subfolders, without hidden ones and those of the system.

    Raises:
        OSError: a folder cannot be read.
    """
    files: list[Path] = []
    for path, folders, names in os.walk(folder, onerror=_raise):
        folders[:] = [name for name in folders if not is_hidden(name)]
        files += [Path(path, name) for name in names if not is_hidden(name)]
    found = PictureFiles([], [])
    for file in sorted(files):
        (found.pictures if is_picture(file) else found.others).append(file)
    return found


def note_others(others: Sequence[Path]) -> tuple[str, ...]:
    """Return a line that counts files that are not read, and names their suffixes; nothing if there are none."""
    if not others:
        return ()
    kinds = sorted({path.suffix.lower() or "without suffix" for path in others})
    return (f"{len(others):,} {'file' if len(others) == 1 else 'files'} passed over: {', '.join(kinds)}",)


def is_picture(file: Path) -> bool:
    """A link to a missing file counts, so that it is reported; a pipe, whose reading would wait, does not."""
    return has_picture_suffix(file.name) and (file.is_file() or not file.exists())


def _raise(error: OSError) -> None:
    raise error
