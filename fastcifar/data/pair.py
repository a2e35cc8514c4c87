"""Check that train.beton and test.beton of a folder belong together."""

from __future__ import annotations

from pathlib import Path

from fastcifar.data.manifest import WRITE_AGAIN, Manifest, read_manifest
from fastcifar.errors import DataError
from fastcifar.names import list_names

SPLITS = ("train", "test")


def split_path(folder: Path, split: str) -> Path:
    """Return the path of a split's .beton in a folder."""
    return folder / f"{split}.beton"


def has_pair(folder: Path) -> bool:
    """Return whether both files are in the folder."""
    return all(split_path(folder, split).exists() for split in SPLITS)


def read_pair(folder: Path) -> tuple[Manifest, Manifest]:
    """Read the manifests of train.beton and test.beton, and check that they have the same classes and image size.

    Raises:
        DataError: a file or its manifest is missing or damaged, or the two do not belong together.
    """
    train_path, test_path = (split_path(folder, split) for split in SPLITS)
    train, test = read_manifest(train_path), read_manifest(test_path)
    if difference := _difference(train, test):
        raise DataError(f"{train_path} and {test_path} do not belong together: {difference}; {WRITE_AGAIN}")
    return train, test


def _difference(train: Manifest, test: Manifest) -> str | None:
    """Describe the first difference that makes two files useless together; None if there is none."""
    if train.image_shape != test.image_shape:
        sizes = [f"{height} × {width}" for height, width, _ in (train.image_shape, test.image_shape)]
        return f"their images are {sizes[0]} and {sizes[1]} pixels"
    if train.class_names != test.class_names:
        return _different_classes(train.class_names, test.class_names)
    if _written_apart(train, test) and _written_apart(test, train):
        return "each was written with another file, so a writer was stopped between them, or one was copied here"
    return None


def _different_classes(train: tuple[str, ...], test: tuple[str, ...]) -> str:
    if set(train) == set(test):
        return f"they have the same classes in another order ({list_names(train)}; {list_names(test)})"
    only = [[name for name in names if name not in others] for names, others in ((train, test), (test, train))]
    splits = [f"only {split} has {list_names(names)}" for split, names in zip(SPLITS, only, strict=True) if names]
    return f"they have {len(train)} and {len(test)} classes ({'; '.join(splits)})"


def _written_apart(one: Manifest, other: Manifest) -> bool:
    """Return whether `one` was written together with a file of other content than `other`."""
    return one.other_split_sha256 is not None and one.other_split_sha256 != other.content_sha256
