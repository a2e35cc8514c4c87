"""The formats of data sets that can be read, and the search for one of them in a folder."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from fastcifar.data import cifar10, cifar100, csv_table, kaggle, npz, parquet
from fastcifar.data.beton_source import read_betons
from fastcifar.data.image_folder import TEST_NAMES, TRAIN_NAMES, named_folders, open_image_folder
from fastcifar.data.images import Source
from fastcifar.data.official import Version, open_archive
from fastcifar.data.picture_files import has_picture_suffix, is_hidden
from fastcifar.data.reading import ReadOptions
from fastcifar.errors import ConfigError, DataError, closest

MAX_DEPTH = 5
"""Levels of folders below the given one that are searched."""
MAX_FOLDERS = 1000
"""Folders that are searched, the nearest ones first."""
ARCHIVE_SUFFIXES = (".tar.gz", ".tgz", "_archive")
"""The ends of the names of archives, the last one in the cache of Keras 3."""


class Listing(NamedTuple):
    """The content of a folder."""

    folder: Path
    files: frozenset[str]
    folders: frozenset[str]


@dataclass(frozen=True, kw_only=True)
class SourceFormat:
    """A format: how it is recognised and read."""

    looks: str
    """The files by which it is recognised, in words."""
    find: Callable[[Listing], list[Path]]
    """The data sets of this format directly in a folder: the folder itself or files in it, the best one first."""
    read: Callable[[Path, ReadOptions], Source]
    """Reads what `find` returned."""
    is_meant: Callable[[Listing], bool] = lambda _: False
    """Tells whether a folder without these files was meant to be of this format, so that the error can name it."""
    has_pictures: bool = False
    """Whether it consists of pictures, which can be resized."""
    interchangeable: bool = False
    """Whether all data sets of this format are the same, so that the best one is taken."""


class Found(NamedTuple):
    """A data set, and the name of its format."""

    format_name: str
    path: Path


def _official(versions: tuple[Version, ...], stem: str) -> SourceFormat:
    """Return the format of a data set with official versions, whose archives' names begin with `stem`."""

    def find(listing: Listing) -> list[Path]:
        if any(version.is_in(listing.files) for version in versions):
            return [listing.folder]
        archives = [name for name in sorted(listing.files) if name.startswith(stem) and name.endswith(ARCHIVE_SUFFIXES)]
        return [listing.folder / name for name in sorted(archives, key=lambda name: "binary" in name)]

    def read(path: Path, options: ReadOptions) -> Source:
        if path.is_file():
            source = open_archive(path, versions, options.labels)
        else:
            files = frozenset(os.listdir(path))
            version = next((one for one in versions if one.is_in(files) or one.folder == path.name), versions[0])
            source = version.open_folder(path, options.labels)
        return options.make_source(source.train, source.test, class_names=source.class_names, name=source.name)

    names = " or ".join(version.folder for version in versions)
    archives = " or ".join(version.archive for version in versions)
    return SourceFormat(
        looks=f"{names}, or {archives}",
        find=find,
        read=read,
        is_meant=lambda listing: listing.folder.name in {version.folder for version in versions},
        interchangeable=True,
    )


def _find_npz(listing: Listing) -> list[Path]:
    return [listing.folder / name for name in sorted(listing.files) if name.endswith(".npz")]


def _find_parquet(listing: Listing) -> list[Path]:
    return [listing.folder] if parquet.is_parquet(listing.files) else []


def _find_kaggle(listing: Listing) -> list[Path]:
    return [listing.folder] if kaggle.LABELS_FILE in listing.files else []


def _find_tables(listing: Listing) -> list[Path]:
    tables = (listing.folder / name for name in sorted(listing.files) if name.lower().endswith(csv_table.SUFFIXES))
    return [table for table in tables if csv_table.is_table(table)]


def _find_betons(listing: Listing) -> list[Path]:
    return [listing.folder] if listing.files.intersection(("train.beton", "test.beton")) else []


def _find_image_folder(listing: Listing) -> list[Path]:
    trains = [_list(listing.folder / name, required=False) for name in named_folders(listing.folders, TRAIN_NAMES)[:1]]
    has_classes = any(not is_hidden(name) for train in trains if train for name in train.folders)
    return [listing.folder] if has_classes and kaggle.LABELS_FILE not in listing.files else []


def _has_class_folders(listing: Listing) -> bool:
    """Tell whether a folder has at least two folders with pictures, which can be classes."""
    folders = [_list(listing.folder / name, required=False) for name in listing.folders if not is_hidden(name)]
    filled = [found for found in folders if found and any(map(has_picture_suffix, found.files))]
    return len(filled) > 1 and not named_folders(listing.folders, TRAIN_NAMES + TEST_NAMES)


FORMATS = {
    "cifar10": _official((cifar10.PYTHON, cifar10.BINARY), "cifar-10-"),
    "cifar100": _official((cifar100.PYTHON, cifar100.BINARY), "cifar-100-"),
    "parquet": SourceFormat(
        looks="train-*.parquet and test-*.parquet of Hugging Face",
        find=_find_parquet,
        read=parquet.read_parquet,
        has_pictures=True,
    ),
    "kaggle": SourceFormat(
        looks="train/1.png, … and trainLabels.csv of Kaggle",
        find=_find_kaggle,
        read=kaggle.read_kaggle,
        has_pictures=True,
    ),
    "npz": SourceFormat(looks="a .npz file with x_train, y_train, x_test, y_test", find=_find_npz, read=npz.read_npz),
    "image-folder": SourceFormat(
        looks="train/<class>/ and test/<class>/ with pictures, or <class>/ alone",
        find=_find_image_folder,
        is_meant=lambda listing: bool(named_folders(listing.folders, TRAIN_NAMES + TEST_NAMES)),
        read=open_image_folder,
        has_pictures=True,
    ),
    "csv": SourceFormat(
        looks="a .csv file with a column for the pictures' paths and one for their labels",
        find=_find_tables,
        read=csv_table.read_table,
        has_pictures=True,
    ),
    "beton": SourceFormat(looks="train.beton and test.beton of a folder", find=_find_betons, read=read_betons),
}
"""The formats by name, as `--source-format` takes them."""


def find_data_set(path: Path, format_name: str | None = None, preferred: str | None = None) -> Found:
    """Find the data set at a path: the file, or the one in the folder or in the subfolders that are nearest to it.

    Args:
        path: a file or a folder.
        format_name: look for this format only, a key of `FORMATS`.
        preferred: the format to take where there are several.

    Raises:
        DataError: there is nothing at the path, no data set, or more than one.
        ConfigError: there is no such format.
    """
    names = tuple(FORMATS) if format_name is None else (_known(format_name),)
    last = ("csv", "beton") if format_name is None else ()  # they may lie beside a data set, so it comes first
    if not path.exists():
        raise DataError(f"{path}: there is no such file or folder; {describe_formats()}")
    if path.is_file():
        return _find_file(path, names)
    searched: list[Listing] = []
    for level in _levels(path):
        searched += level
        first = [name for name in names if name not in last]
        found = [Found(name, place) for name in first for listing in level for place in _choices(name, listing)]
        if found:
            return _choose(path, found, preferred)
    for name in last:
        if found := [Found(name, place) for place in _choices(name, searched[0])]:
            return _choose(path, found, preferred)
    if "image-folder" in names and _has_class_folders(searched[0]):
        return Found("image-folder", path)
    for name in names:
        for listing in searched:
            if FORMATS[name].is_meant(listing):
                return Found(name, listing.folder)  # reading it will say what is missing
    raise DataError(_nothing_found(path, format_name, len(searched)))


def describe_formats() -> str:
    """Return one sentence that lists what can be a source."""
    formats = "; ".join(f"{name} ({one.looks})" for name, one in FORMATS.items())
    return f"a source is 'auto', 'download', 'synthetic', torchvision:NAME, or the path of one of: {formats}"


def _known(name: str) -> str:
    if name not in FORMATS:
        raise ConfigError(f"there is no source format {name!r}: did you mean {closest(name, FORMATS)}?")
    return name


def _find_file(path: Path, names: tuple[str, ...]) -> Found:
    listing = Listing(path.parent, frozenset({path.name}), frozenset())
    for name in names:
        if found := FORMATS[name].find(listing):
            return Found(name, found[0])
    if "csv" in names and path.name.lower().endswith(csv_table.SUFFIXES):
        return Found("csv", path)  # reading it will say what is missing
    if path.name.endswith((*ARCHIVE_SUFFIXES, ".gz", ".tar")):  # an official archive by another name
        return Found(names[0], path)
    raise DataError(f"{path}: this file is of no known format; {describe_formats()}")


def _levels(path: Path) -> Iterator[list[Listing]]:
    """Yield the folder, then its subfolders, then theirs, in sorted order, without hidden ones."""
    level, left = [path], MAX_FOLDERS
    for _ in range(MAX_DEPTH + 1):
        listings = [listing for folder in level[:left] if (listing := _list(folder, required=folder == path))]
        if not listings:
            return
        yield listings
        left -= len(level)
        level = [one.folder / name for one in listings for name in sorted(one.folders) if not is_hidden(name)]
        if left <= 0:
            return


def _list(folder: Path, *, required: bool) -> Listing | None:
    try:
        with os.scandir(folder) as entries:
            kinds = {entry.name: entry.is_dir() for entry in entries}
    except OSError as error:
        if required:
            raise DataError(f"{folder}: cannot be read ({error.strerror})") from error
        return None
    folders = frozenset(name for name, is_folder in kinds.items() if is_folder)
    return Listing(folder, frozenset(kinds) - folders, folders)


def _choices(name: str, listing: Listing) -> list[Path]:
    found = FORMATS[name].find(listing)
    return found[:1] if FORMATS[name].interchangeable else found


def _choose(path: Path, found: list[Found], preferred: str | None) -> Found:
    """Return the only data set, the preferred one, or the first of equal ones."""
    found = [one for one in found if one.format_name == preferred] or found
    if len(found) == 1 or (
        len({one.format_name for one in found}) == 1 and FORMATS[found[0].format_name].interchangeable
    ):
        return found[0]
    listed = ", ".join(f"{one.path} ({one.format_name})" for one in found[:10])
    more = f" and {len(found) - 10} more" if len(found) > 10 else ""
    raise DataError(
        f"{path}: has {len(found)} data sets: {listed}{more}; name one of them, or choose one with "
        "`fastcifar write-beton --source-format`"
    )


def _nothing_found(path: Path, format_name: str | None, folders: int) -> str:
    wanted = "data set" if format_name is None else f"data set of the format {format_name}"
    below = f" or the {folders - 1:,} folders in it" if folders > 1 else ""
    limit = f"; only the nearest {MAX_FOLDERS:,} were searched" if folders >= MAX_FOLDERS else ""
    return f"{path}: there is no {wanted} in this folder{below}{limit}; {describe_formats()}"
