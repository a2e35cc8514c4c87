"""The files that CIFAR-10 and CIFAR-100 are published as: pickled batches, binary records, and their archives."""

from __future__ import annotations

import hashlib
import io
import pickle
import shutil
import tarfile
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np

from fastcifar.data.images import Images, ImageSet, Labels, Source
from fastcifar.errors import DataError

MD5 = {
    "cifar-10-python.tar.gz": "c58f30108f718f92721af3b95e74349a",
    "cifar-10-binary.tar.gz": "c32a1d4ab5d03f1284b67883e8d87530",
    "cifar-100-python.tar.gz": "eb9058c3a382ffc7106e4002c42a8d85",
    "cifar-100-binary.tar.gz": "03b5dce01913d631647c71ecec9e9cb8",
}
"""The MD5 of each archive, as published at https://www.cs.toronto.edu/~kriz/cifar.html."""
IMAGE_BYTES = 3 * 32 * 32
"""Bytes per image: a red, a green and a blue plane of 32 rows of 32 pixels."""

LabelKind = Literal["fine", "coarse"]
"""CIFAR-100 has a fine label (100 classes) and a coarse label (20 classes) for each image."""


@dataclass(frozen=True, kw_only=True)
class Version:
    """One of the forms that a data set is published in."""

    title: str
    folder: str
    """The name of the folder in the archive."""
    archive: str
    files: tuple[str, ...]
    """The files in the folder."""
    optional: tuple[str, ...] = ()
    """Those of `files` that a source may lack."""
    read: Callable[[Path, LabelKind], Source]
    """Reads a folder that has all files."""

    def is_in(self, names: frozenset[str]) -> bool:
        """Tell whether a folder with files of these names is this version, complete or not.

        One file is not enough: many folders have a file called `test`.
        """
        return len(names.intersection(self.files)) >= 2

    def open_folder(self, folder: Path, labels: LabelKind = "fine") -> Source:
        """Read a folder of this version.

        Raises:
            DataError: a file is missing or damaged.
        """
        if missing := [name for name in self.files if name not in self.optional and not (folder / name).exists()]:
            raise DataError(
                f"{folder}: is {self.title} without {', '.join(missing)}; unpack the official archive again"
            )
        return self.read(folder, labels)


def open_archive(path: Path, versions: Sequence[Version], labels: LabelKind = "fine") -> Source:
    """Read an official archive, of any name, which is recognised by its MD5.

    Raises:
        DataError: it is not an official archive, or is incomplete.
    """
    found = md5_of(path)
    version = next((version for version in versions if MD5[version.archive] == found), None)
    if version is None:
        alike = [one.archive for one in versions if one.archive == path.name] or [one.archive for one in versions]
        published = " or ".join(f"{MD5[name]} ({name})" for name in alike)
        raise DataError(f"{path}: its MD5 is {found}, not {published}; download it again")
    with tempfile.TemporaryDirectory(prefix="fastcifar-") as temporary, tarfile.open(path) as archive:
        # Extracted one by one, by name, so that no member can write elsewhere (filter="data" needs Python 3.11.4)
        for name in version.files:
            member = archive.extractfile(f"{version.folder}/{name}")
            assert member is not None, "the MD5 says that this is a plain file"
            with member, (Path(temporary) / name).open("wb") as file:
                shutil.copyfileobj(member, file)
        return version.open_folder(Path(temporary), labels)


def md5_of(path: Path) -> str:
    """Return the MD5 of a file's bytes, in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, lambda: hashlib.md5(usedforsecurity=False)).hexdigest()


def read_bytes(path: Path) -> bytes:
    """Read a file.

    Raises:
        DataError: it cannot be read.
    """
    try:
        return path.read_bytes()
    except OSError as error:
        raise damaged(path, f"cannot be read ({error.strerror})") from error


def read_lines(path: Path) -> tuple[str, ...]:
    """Read the class names of a binary version, one per line.

    Raises:
        DataError: the file cannot be read, or has no names.
    """
    names = tuple(read_bytes(path).decode("latin1").split())
    if not names:
        raise damaged(path, "it has no names of classes")
    return names


def damaged(path: Path, what: str) -> DataError:
    """Create the error for a file whose content is wrong."""
    return DataError(f"{path}: {what}; unpack the official archive again")


def join_batches(parts: Sequence[tuple[Images, Labels]]) -> ImageSet:
    """Join batches of planar pixels, uint8 [N, 3072], and labels to one set of images [N, 32, 32, 3]."""
    planes = np.concatenate([images for images, _ in parts]).reshape(-1, 3, 32, 32)
    images = np.ascontiguousarray(planes.transpose(0, 2, 3, 1))
    return ImageSet(images, np.concatenate([labels for _, labels in parts]))


def read_names(path: Path, key: str) -> tuple[str, ...]:
    """Read the names of the classes from the pickled dictionary of a python version.

    Raises:
        DataError: the file is missing or damaged, or has no such list.
    """
    try:
        return tuple(name.decode() if isinstance(name, bytes) else str(name) for name in unpickle(path)[key])
    except (KeyError, TypeError, UnicodeDecodeError) as error:
        raise damaged(path, f"it has no list of class names under '{key}'") from error


def read_batch(path: Path, classes: int, key: str = "labels") -> tuple[Images, Labels]:
    """Read a pickled batch: uint8 [N, 3072] and the labels under `key`, int64 [N].

    Raises:
        DataError: the file is missing or damaged.
    """
    batch = unpickle(path)
    try:
        images, labels = np.asarray(batch["data"]), np.asarray(batch[key])
    except (KeyError, ValueError) as error:
        raise damaged(path, f"its 'data' or '{key}' are missing or ragged") from error
    if images.dtype != np.uint8 or images.ndim != 2 or images.shape[1] != IMAGE_BYTES or not len(images):
        raise damaged(path, f"its 'data' is {images.dtype} {list(images.shape)}, not uint8 [N, {IMAGE_BYTES}]")
    if labels.dtype.kind not in "iu" or labels.shape != (len(images),) or labels.min() < 0 or labels.max() >= classes:
        raise damaged(path, f"its '{key}' are not {len(images)} whole numbers from 0 to {classes - 1}")
    return images, labels.astype(np.int64)


class _Unpickler(pickle.Unpickler):
    """An unpickler that creates the arrays in the official files and refuses to call anything else."""

    ALLOWED = (
        ("numpy.core.multiarray", "_reconstruct"),
        ("numpy._core.multiarray", "_reconstruct"),
        ("numpy", "ndarray"),
        ("numpy", "dtype"),
        ("_codecs", "encode"),
    )

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in self.ALLOWED:
            raise pickle.UnpicklingError(f"it uses {module}.{name}, which the official files do not")
        return super().find_class(module, name)


def unpickle(path: Path) -> dict[str, Any]:
    """Read a pickled dictionary, without running any code in it.

    Raises:
        DataError: the file is missing or damaged, or holds something else.
    """
    data = read_bytes(path)
    try:
        values = _Unpickler(io.BytesIO(data), encoding="bytes").load()
    except Exception as error:  # a damaged pickle can raise nearly anything
        raise damaged(path, f"it is not a complete official pickle ({error})") from error
    if not isinstance(values, dict):
        raise damaged(path, f"it holds a {type(values).__name__}, not a dictionary")
    return {key.decode("latin1") if isinstance(key, bytes) else str(key): value for key, value in values.items()}


def read_records(path: Path, classes: int, label_bytes: int = 1, position: int = 0) -> tuple[Images, Labels]:
    """Read binary records of `label_bytes` labels and pixels: uint8 [N, 3072] and the label at `position`, int64 [N].

    Raises:
        DataError: the file is missing or damaged.
    """
    data = np.frombuffer(read_bytes(path), dtype=np.uint8)
    record = label_bytes + IMAGE_BYTES
    if not data.size or data.size % record:
        raise damaged(path, f"its size, {data.size} bytes, is not a multiple of a record's {record}")
    records = data.reshape(-1, record)
    labels = records[:, position].astype(np.int64)
    if labels.max() >= classes:
        raise damaged(path, f"it has the label {labels.max()}; there are {classes} classes")
    return records[:, label_bytes:], labels
