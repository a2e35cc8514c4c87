"""Check that the .betons of a folder hold the source that the user named."""

from __future__ import annotations

import os
from pathlib import Path

from fastcifar.data.formats import FORMATS, find_data_set
from fastcifar.data.images import Source
from fastcifar.data.manifest import Manifest, dataset_sha256
from fastcifar.data.pair import read_pair
from fastcifar.data.sources import ENV_VAR, open_source, read_origin
from fastcifar.data.torchvision_source import is_torchvision, torchvision_origin
from fastcifar.data.vary import vary
from fastcifar.errors import ConfigError, DataError


def check_source(folder: Path, source: str) -> None:
    """Check that train.beton and test.beton in a folder hold the images of `source`: a path or a name.

    Files that were written from the same source, which has not changed since, pass at once. Otherwise the source is
    read and compared.

    Raises:
        DataError: they hold something else, do not belong together, or the source is missing or damaged.
    """
    train, test = read_pair(folder)
    if not _holds(source, train, test):
        written_from = f", written from {train.source}" if train.source else ""
        raise DataError(
            f"{folder}: holds {train.name}{written_from}, and not what the source {source} has now; leave --source out "
            f"to use the files as they are, choose another folder, or write them again with `fastcifar write-beton "
            f"--source {source} --out {folder}`"
        )


def note_unused_source(folder: Path) -> str | None:
    """Return a line if a folder holds synthetic images while FASTCIFAR_DATA names other data; otherwise None."""
    named = os.environ.get(ENV_VAR)
    if not named or named == "synthetic" or read_pair(folder)[0].name != "synthetic":
        return None
    return (
        f"{folder} holds synthetic images, not the data of {ENV_VAR}, {named}; to use that, run `fastcifar write-beton "
        f"--out {folder}`"
    )


def _holds(source: str, train: Manifest, test: Manifest) -> bool:
    """Tell whether two files hold a source, or a variation of it. CIFAR-10 has its name from its content."""
    if source == "download" and train.variations:
        return _have_content(open_source(source), train, test)
    if source == "synthetic" and train.variations:
        return train.source == source
    if source in (names := {"download": "cifar10", "synthetic": "synthetic"}):
        return train.name == test.name == names[source]
    if is_torchvision(source):
        origin, has_pictures = torchvision_origin(source), True
    else:
        found = find_data_set(Path(os.path.expanduser(source)))
        origin, has_pictures = read_origin(found), FORMATS[found.format_name].has_pictures
    if train.source_fingerprint == test.source_fingerprint == origin.fingerprint:
        return True
    height, width, _ = train.image_shape
    resizable = has_pictures and height == width
    opened = open_source(source, resize=height if resizable else None)
    return _have_content(opened, train, test)


def _have_content(source: Source, train: Manifest, test: Manifest) -> bool:
    """Tell whether two files hold a source, or what their variations make of it."""
    done = len(source.variations)
    if train.variations[:done] != source.variations:
        return False
    for variation in train.variations[done:]:
        try:
            source = vary(source, variation)
        except ConfigError:  # it has other classes, or fewer images
            return False
    contents = [dataset_sha256(*split) for split in (source.train, source.test)]
    return contents == [train.content_sha256, test.content_sha256]
