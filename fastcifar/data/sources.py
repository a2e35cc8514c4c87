"""Open a data set: an official archive or folder of CIFAR-10, an image folder, a download, or synthetic images."""

from __future__ import annotations

import os
from pathlib import Path

from fastcifar.data import cifar10
from fastcifar.data.image_folder import open_image_folder
from fastcifar.data.images import Source
from fastcifar.data.synthetic import SHAPES, draw_synthetic
from fastcifar.errors import ConfigError, DataError
from fastcifar.machine import usable_cores
from fastcifar.progress import OnProgress

ENV_VAR = "FASTCIFAR_DATA"
SOURCE_HELP = (
    f"a source is 'auto', 'download', 'synthetic', {cifar10.PYTHON_ARCHIVE} or {cifar10.BINARY_ARCHIVE}, a folder with "
    f"one of them or with {cifar10.PYTHON_FOLDER} or {cifar10.BINARY_FOLDER}, or an image folder of "
    "train/<class>/*.png|jpg and test/<class>/*.png|jpg"
)


def open_source(
    source: str | Path = "auto",
    *,
    cache: Path = Path("data/cifar10"),
    resize: int | None = None,
    workers: int | None = None,
    seed: int = 0,
    on_progress: OnProgress | None = None,
) -> Source:
    """Read and check a whole data set.

    Args:
        source: 'auto' (the path in FASTCIFAR_DATA if that is set, else a copy in `cache`, else a download),
            'download', 'synthetic', or the path of an official archive, of a folder that is or contains an official
            version, or of an image folder.
        cache: the folder for the download, in which 'auto' also looks for an earlier one.
        resize: resize every picture of an image folder to this many pixels per side.
        workers: threads that decode an image folder, at most the usable cores; all of these if not given.
        seed: the seed of the synthetic images.
        on_progress: called while a download arrives and while the pictures of an image folder are read.

    Raises:
        DataError: the source is missing or damaged, or cannot be downloaded.
        ConfigError: `workers` or `resize` is below 1, or `resize` differs from the size of a source that has its own.
    """
    if resize is not None and resize < 1:
        raise ConfigError(f"resize is {resize}; it must be at least 1 pixel")
    workers = clamp_workers(workers)
    match source:
        case "auto":
            opened = _open_auto(cache, resize, workers, on_progress)
        case "download":
            opened = cifar10.open_python(cifar10.download(cache, on_progress))
        case "synthetic":
            train, test = draw_synthetic(seed=seed)
            opened = Source(train=train, test=test, class_names=tuple(SHAPES), name="synthetic")
        case _:
            opened = _open_path(Path(source).expanduser(), resize, workers, on_progress)
    if resize is not None and opened.train.images.shape[1:3] != (resize, resize):
        raise ConfigError(f"resize is {resize}; only image folders can be resized: leave it out for {opened.name}")
    return opened


def clamp_workers(workers: int | None) -> int:
    """Return `workers`, reduced to the number of usable cores; that number for None.

    Raises:
        ConfigError: `workers` is below 1.
    """
    if workers is not None and workers < 1:
        raise ConfigError(f"workers is {workers}; it must be at least 1")
    return min(workers or usable_cores(), usable_cores())


def _open_auto(cache: Path, resize: int | None, workers: int, on_progress: OnProgress | None) -> Source:
    if named := os.environ.get(ENV_VAR):
        try:
            return _open_path(Path(named).expanduser(), resize, workers, on_progress)
        except DataError as error:
            raise DataError(f"the environment variable {ENV_VAR} does not name a usable source: {error}") from error
    try:
        return _open_path(cache, resize, workers, on_progress)
    except DataError:  # nothing there yet, or an incomplete copy, which the download completes
        return cifar10.open_python(cifar10.download(cache, on_progress))


def _open_path(path: Path, resize: int | None, workers: int, on_progress: OnProgress | None) -> Source:
    if not path.exists():
        raise DataError(f"{path}: there is no such file or folder; {SOURCE_HELP}")
    if path.is_file():
        return cifar10.open_archive(path)
    for folder in (path, path / cifar10.PYTHON_FOLDER, path / cifar10.BINARY_FOLDER):
        if _is_version(folder, cifar10.PYTHON_FOLDER, cifar10.PYTHON_FILES):
            return cifar10.open_python(folder)
        if _is_version(folder, cifar10.BINARY_FOLDER, cifar10.BINARY_FILES):
            return cifar10.open_binary(folder)
    for archive in (path / cifar10.PYTHON_ARCHIVE, path / cifar10.BINARY_ARCHIVE):
        if archive.is_file():
            return cifar10.open_archive(archive)
    if (path / "train").is_dir() or (path / "test").is_dir():
        return open_image_folder(path, resize, workers, on_progress)
    raise DataError(f"{path}: this folder has neither class folders nor CIFAR-10; {SOURCE_HELP}")


def _is_version(folder: Path, name: str, files: tuple[str, ...]) -> bool:
    """Tell whether `folder` is an official version of CIFAR-10, complete or not."""
    return (folder.name == name and folder.is_dir()) or any((folder / file).exists() for file in files)
