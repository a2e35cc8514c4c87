"""Open a data set: a file or folder of a known format, a download, or synthetic images."""

from __future__ import annotations

import dataclasses
import hashlib
import os
from pathlib import Path

from fastcifar.data import cifar10
from fastcifar.data.beton_source import origin_of
from fastcifar.data.formats import FORMATS, Found, find_data_set
from fastcifar.data.images import Origin, Source
from fastcifar.data.official import LabelKind
from fastcifar.data.pair import read_pair
from fastcifar.data.pictures import readable_path
from fastcifar.data.reading import ReadOptions
from fastcifar.data.synthetic import SHAPES, draw_synthetic
from fastcifar.data.torchvision_source import is_torchvision, read_torchvision, torchvision_origin
from fastcifar.errors import ConfigError, DataError
from fastcifar.machine import usable_cores
from fastcifar.progress import OnProgress

ENV_VAR = "FASTCIFAR_DATA"
DEFAULT_CACHE = Path("data/cifar10")
"""The folder for the download."""
TORCHVISION_CACHE = Path("data/torchvision")
"""The folder for the data sets of torchvision, if neither another cache nor FASTCIFAR_DATA is given."""


def open_source(
    source: str | Path = "auto",
    *,
    source_format: str | None = None,
    cache: Path = DEFAULT_CACHE,
    resize: int | None = None,
    labels: LabelKind = "fine",
    test_fraction: float | None = None,
    workers: int | None = None,
    seed: int = 0,
    on_progress: OnProgress | None = None,
) -> Source:
    """Read and check a whole data set.

    Args:
        source: 'auto' (the path in FASTCIFAR_DATA if that is set, else a copy in `cache`, else a download),
            'download', 'synthetic', 'torchvision:' and the name of a data set, or the path of a file or folder that
            is or contains a data set of one of `FORMATS`.
        source_format: the name of the format, where a folder has data sets of several.
        cache: the folder for the download, in which 'auto' also looks for an earlier one.
        resize: resize every picture to this many pixels per side.
        labels: which of CIFAR-100's labels to read.
        test_fraction: the part of each class to hold out as the test split of a source that has none; a fifth if None.
        workers: threads that decode pictures, or processes if there are many; at most the usable cores, and all of
            these if not given.
        seed: the seed of the synthetic images, and of the choice of the test split.
        on_progress: called while a download arrives and while pictures are read.

    Raises:
        DataError: the source is missing, damaged or ambiguous, or cannot be downloaded.
        ConfigError: a number is out of range, or a value does not fit the source.
    """
    options = ReadOptions(
        resize=resize,
        workers=clamp_workers(workers),
        labels=labels,
        test_fraction=test_fraction,
        seed=seed,
        on_progress=on_progress,
    )
    match source:
        case "synthetic":
            train, test = draw_synthetic(seed=seed)
            opened = options.make_source(train, test, class_names=tuple(SHAPES), name="synthetic")
            origin = Origin(path="synthetic", fingerprint=f"synthetic, seed {seed}")
            opened = dataclasses.replace(opened, origin=origin)
        case "download":
            opened = _read(Found("cifar10", cifar10.download(cache, on_progress)), options)
        case "auto":
            opened = _open_auto(cache, source_format, options)
        case str() if is_torchvision(source):
            opened = read_torchvision(source, _torchvision_root(cache), options)
            opened = dataclasses.replace(opened, origin=torchvision_origin(source))
        case _:
            opened = _read(find_data_set(Path(os.path.expanduser(source)), source_format), options)
    if resize is not None and opened.train.images.shape[1:3] != (resize, resize):
        raise ConfigError(f"resize is {resize}; only pictures can be resized: leave it out for {opened.name}")
    if labels == "coarse" and opened.name not in ("cifar-100-python", "cifar-100-binary", "parquet"):
        raise ConfigError(f"labels is 'coarse'; only CIFAR-100 has coarse labels: leave it out for {opened.name}")
    return opened


def clamp_workers(workers: int | None) -> int:
    """Return `workers`, reduced to the number of usable cores; that number for None.

    Raises:
        ConfigError: `workers` is below 1.
    """
    if workers is not None and workers < 1:
        raise ConfigError(f"workers is {workers}; it must be at least 1")
    return min(workers or usable_cores(), usable_cores())


def read_origin(found: Found) -> Origin:
    """Return the origin of a data set, from the names, sizes and times of its files; for .betons, from their content.

    Raises:
        DataError: the .betons do not belong together.
    """
    path = found.path
    if found.format_name == "beton":
        return origin_of(path, *read_pair(path))
    files = [path] if path.is_file() else sorted(file for file in path.rglob("*") if file.is_file())
    digest = hashlib.sha256()
    for file in files:
        status = file.stat()
        line = f"{file.relative_to(path)}\0{status.st_size}\0{status.st_mtime_ns}\n"
        digest.update(line.encode(errors="surrogateescape"))
    return Origin(path=readable_path(Path(os.path.abspath(path))), fingerprint=digest.hexdigest())


def _torchvision_root(cache: Path) -> Path:
    """Return the folder of torchvision's data sets: `cache`, or if that is the default, the one in FASTCIFAR_DATA."""
    if cache != DEFAULT_CACHE:
        return cache
    if not (named := os.environ.get(ENV_VAR)):
        return TORCHVISION_CACHE
    root = Path(os.path.expanduser(named))
    if not root.is_dir():
        raise DataError(
            f"the environment variable {ENV_VAR} is {named}, which is not a folder; torchvision's data sets are read "
            "from a folder: name one, or use `fastcifar write-beton --cache`"
        )
    return root


def _open_auto(cache: Path, source_format: str | None, options: ReadOptions) -> Source:
    if named := os.environ.get(ENV_VAR):
        try:
            found = find_data_set(Path(os.path.expanduser(named)), source_format, preferred="cifar10")
            return _read(found, options)
        except DataError as error:
            raise DataError(f"the environment variable {ENV_VAR} does not name a usable source: {error}") from error
    try:
        return _read(find_data_set(cache, source_format, preferred="cifar10"), options)
    except DataError:  # nothing there yet, or an incomplete copy, which the download completes
        return _read(Found("cifar10", cifar10.download(cache, options.on_progress)), options)


def _read(found: Found, options: ReadOptions) -> Source:
    source = FORMATS[found.format_name].read(found.path, options)
    return dataclasses.replace(source, origin=read_origin(found))
