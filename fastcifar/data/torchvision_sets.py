"""Find the image classification data sets of torchvision by their names, open and download them."""

from __future__ import annotations

import contextlib
import inspect
import io
from collections.abc import Callable, Iterator, Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from fastcifar.errors import ConfigError, DataError, closest
from fastcifar.files import lock_folder
from fastcifar.progress import OnProgress, Progress

PREFIX = "torchvision:"
OTHER_TASKS = {"CelebA", "Cityscapes", "Kitti", "LFWPairs", "MovingMNIST", "WIDERFace"}
"""Data sets with a training split whose labels are not one class per image."""
ARGUMENTS: dict[str, dict[str, Any]] = {"EMNIST": {"split": "balanced"}}
"""Arguments that choose a part of a data set: of EMNIST, the 47 balanced classes of digits and letters."""
TESTED_ON_VAL = {"CLEVRClassification", "ImageNet", "Imagenette", "Places365"}
"""Data sets whose test split is missing or without labels: their validation split takes its place."""
PACKAGES = {"Flowers102": "scipy", "ImageNet": "scipy", "PCAM": "h5py", "StanfordCars": "scipy", "SVHN": "scipy"}
"""Packages that torchvision needs for a data set, and does not install."""


def data_set_names() -> tuple[str, ...]:
    """Return the names of torchvision's data sets that can be read: a training and a test split, a class per image."""
    from torchvision import datasets

    return tuple(name for name in datasets.__all__ if _is_readable(name, getattr(datasets, name)))


def find_name(source: str) -> str:
    """Return the name of the class in torchvision.datasets that a source names, in upper or lower case.

    Raises:
        ConfigError: there is no such data set, or it is not for image classification.
        DataError: a package that torchvision needs for it is missing.
    """
    from torchvision import datasets

    wanted, names = source[len(PREFIX) :].lower(), data_set_names()
    for name in names:
        if name.lower() == wanted:
            _require_package(name)
            return name
    for name in datasets.__all__:
        if name.lower() == wanted:
            raise ConfigError(
                f"source is {source}; {name} does not have a training and a test split with one class per image: "
                f"choose one of {', '.join(sorted(names))}"
            )
    spelled = {name.lower(): name for name in names}
    suggestion = spelled[closest(wanted, spelled) or "cifar10"]
    raise ConfigError(f"source is {source}; torchvision has no such data set: did you mean {PREFIX}{suggestion}?")


def _require_package(name: str) -> None:
    if (package := PACKAGES.get(name)) and find_spec(package) is None:
        raise DataError(
            f"{PREFIX}{name}: torchvision needs the package {package} to read it; run `pip install {package}`"
        )


def _is_readable(name: str, data_set: Any) -> bool:
    if not inspect.isclass(data_set) or name in OTHER_TASKS:
        return False
    parameters = _parameters(data_set)
    required = {key for key, one in parameters.items() if one.default is one.empty and one.kind is not one.VAR_KEYWORD}
    return (
        {"root", "transform"} <= set(parameters)
        and required <= {"self", "root", *ARGUMENTS.get(name, ())}
        and ("train" in parameters or "split" in parameters)
    )


def _parameters(data_set: type) -> Mapping[str, inspect.Parameter]:
    """Return the parameters of a class, with those of its base classes that it passes on as keywords."""
    found: dict[str, inspect.Parameter] = {}
    for base in data_set.__mro__[:-1]:
        own = inspect.signature(base.__init__).parameters  # type: ignore[misc]
        found = {**{key: one for key, one in own.items() if one.kind is not one.VAR_KEYWORD}, **found}
        if all(one.kind is not one.VAR_KEYWORD for one in own.values()):
            break
    return found


def open_split(name: str, split: str, root: Path, on_progress: OnProgress | None) -> Any:
    """Open the 'train' or 'test' split of a data set from its files in `root`; if that fails, download them first.

    Raises:
        DataError: the files can neither be read nor downloaded.
    """
    from torchvision import datasets

    data_set = getattr(datasets, name)
    parameters = _parameters(data_set)
    arguments = dict(ARGUMENTS.get(name, {}), **_choose_split(name, split, parameters))

    def create(**more: Any) -> Any:
        with _silent():
            return data_set(root, **arguments, **more)

    try:
        return create()
    except Exception as error:  # damaged files raise nearly anything
        if "download" not in parameters:
            raise DataError(
                f"{PREFIX}{name}: cannot be read from {root} ({one_line(error)}); torchvision does not download it: "
                f"put its files there as the documentation of torchvision.datasets.{name} says"
            ) from error
    return _download(name, root, create, on_progress)


def _choose_split(name: str, split: str, parameters: Mapping[str, inspect.Parameter]) -> dict[str, Any]:
    """Return the argument that chooses 'train' or 'test'."""
    if "train" in parameters:
        return {"train": split == "train"}
    if split == "test":
        return {"split": "val" if name in TESTED_ON_VAL else "test"}
    default = str(parameters["split"].default)
    return {"split": default if default.startswith("train") else "train"}


def _download(name: str, root: Path, create: Callable[..., Any], on_progress: OnProgress | None) -> Any:
    if on_progress:
        on_progress(Progress(task=f"downloading {name} to {root}", done=0, total=None))
    try:
        with lock_folder(root):  # another process that downloads is waited for
            return create(download=True)
    except Exception as error:
        raise DataError(
            f"{PREFIX}{name}: can neither be read from {root} nor downloaded to it ({one_line(error)}); try again, or "
            f"put its files there as torchvision.datasets.{name}({str(root)!r}, download=True) leaves them on another "
            "machine, or set FASTCIFAR_DATA to the folder that has them"
        ) from error


@contextlib.contextmanager
def _silent() -> Iterator[None]:
    """Hide what torchvision prints, and its progress bar, in the block."""
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
        yield


def one_line(error: Exception) -> str:
    """Return the message of an error as one line."""
    return " ".join(str(error).split()) or type(error).__name__
