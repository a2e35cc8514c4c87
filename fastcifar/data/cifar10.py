"""The published files of CIFAR-10 (python version, binary version, their archives), and a download that can resume."""

from __future__ import annotations

import contextlib
import hashlib
import io
import pickle
import shutil
import tarfile
import tempfile
import urllib.error
import urllib.request
from http.client import HTTPException
from pathlib import Path
from typing import Any

import numpy as np

from fastcifar.data.images import Images, ImageSet, Labels, Source
from fastcifar.errors import DataError
from fastcifar.progress import OnProgress, Progress

PYTHON_FOLDER, PYTHON_ARCHIVE = "cifar-10-batches-py", "cifar-10-python.tar.gz"
BINARY_FOLDER, BINARY_ARCHIVE = "cifar-10-batches-bin", "cifar-10-binary.tar.gz"
TRAIN_BATCHES, TEST_BATCH = tuple(f"data_batch_{number}" for number in range(1, 6)), "test_batch"
PYTHON_FILES = (*TRAIN_BATCHES, TEST_BATCH, "batches.meta")
BINARY_FILES = tuple(f"{name}.bin" for name in (*TRAIN_BATCHES, TEST_BATCH))
BINARY_META = "batches.meta.txt"
MD5 = {PYTHON_ARCHIVE: "c58f30108f718f92721af3b95e74349a", BINARY_ARCHIVE: "c32a1d4ab5d03f1284b67883e8d87530"}
"""The MD5 of each archive, as published at https://www.cs.toronto.edu/~kriz/cifar.html."""
CLASSES = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
IMAGE_BYTES = 3 * 32 * 32
"""Bytes per image: a red, a green and a blue plane of 32 rows of 32 pixels."""


def open_archive(path: Path) -> Source:
    """Read an official archive, which is recognised by its MD5.

    Raises:
        DataError: it is not an official archive, or is incomplete.
    """
    found = md5_of(path)
    if found == MD5[PYTHON_ARCHIVE]:
        folder, files, open_folder = PYTHON_FOLDER, PYTHON_FILES, open_python
    elif found == MD5[BINARY_ARCHIVE]:
        folder, files, open_folder = BINARY_FOLDER, (*BINARY_FILES, BINARY_META), open_binary
    else:
        published = " or ".join(f"{md5} ({name})" for name, md5 in MD5.items())
        raise DataError(f"{path}: its MD5 is {found}, not {published}; download it again")
    with tempfile.TemporaryDirectory(prefix="fastcifar-") as temporary, tarfile.open(path) as archive:
        # Extracted one by one, by name, so that no member can write elsewhere (filter="data" needs Python 3.11.4)
        for name in files:
            member = archive.extractfile(f"{folder}/{name}")
            assert member is not None, "the MD5 says that this is a plain file"
            with member, (Path(temporary) / name).open("wb") as file:
                shutil.copyfileobj(member, file)
        return open_folder(Path(temporary))


def md5_of(path: Path) -> str:
    """Return the MD5 of a file's bytes, in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, lambda: hashlib.md5(usedforsecurity=False)).hexdigest()


def _read_bytes(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise _damaged(path, f"cannot be read ({error.strerror})") from error


def _damaged(path: Path, what: str) -> DataError:
    return DataError(f"{path}: {what}; unpack the official archive again")


def _image_set(parts: list[tuple[Images, Labels]]) -> ImageSet:
    """Join batches of planar pixels, uint8 [N, 3072], and labels to one set of images [N, 32, 32, 3]."""
    planes = np.concatenate([images for images, _ in parts]).reshape(-1, 3, 32, 32)
    images = np.ascontiguousarray(planes.transpose(0, 2, 3, 1))
    return ImageSet(images, np.concatenate([labels for _, labels in parts]))


def open_python(folder: Path) -> Source:
    """Read a folder of the python version, which consists of pickled batches.

    Raises:
        DataError: a file is missing or damaged.
    """
    meta = folder / "batches.meta"
    try:
        values = _unpickle(meta)["label_names"]
        names = tuple(name.decode() if isinstance(name, bytes) else str(name) for name in values)
    except (KeyError, TypeError, UnicodeDecodeError) as error:
        raise _damaged(meta, "it has no list of class names under 'label_names'") from error
    train = [_read_python_batch(folder / name, len(names)) for name in TRAIN_BATCHES]
    test = [_read_python_batch(folder / TEST_BATCH, len(names))]
    return Source(train=_image_set(train), test=_image_set(test), class_names=names, name="cifar-10-python")


def _read_python_batch(path: Path, classes: int) -> tuple[Images, Labels]:
    batch = _unpickle(path)
    try:
        images, labels = np.asarray(batch["data"]), np.asarray(batch["labels"])
    except (KeyError, ValueError) as error:
        raise _damaged(path, "its 'data' or 'labels' are missing or ragged") from error
    if images.dtype != np.uint8 or images.ndim != 2 or images.shape[1] != IMAGE_BYTES or not len(images):
        raise _damaged(path, f"its 'data' is {images.dtype} {list(images.shape)}, not uint8 [N, {IMAGE_BYTES}]")
    if labels.dtype.kind not in "iu" or labels.shape != (len(images),) or labels.min() < 0 or labels.max() >= classes:
        raise _damaged(path, f"its 'labels' are not {len(images)} whole numbers from 0 to {classes - 1}")
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


def _unpickle(path: Path) -> dict[str, Any]:
    data = _read_bytes(path)
    try:
        values = _Unpickler(io.BytesIO(data), encoding="bytes").load()
    except Exception as error:  # a damaged pickle can raise nearly anything
        raise _damaged(path, f"it is not a complete official pickle ({error})") from error
    if not isinstance(values, dict):
        raise _damaged(path, f"it holds a {type(values).__name__}, not a dictionary")
    return {key.decode("latin1") if isinstance(key, bytes) else str(key): value for key, value in values.items()}


def open_binary(folder: Path) -> Source:
    """Read a folder of the binary version, which consists of records of a label and pixels.

    Raises:
        DataError: a file is missing or damaged.
    """
    meta = folder / BINARY_META
    names = tuple(_read_bytes(meta).decode("latin1").split()) if meta.exists() else CLASSES
    *train, test = (_read_records(folder / name, len(names)) for name in BINARY_FILES)
    return Source(train=_image_set(train), test=_image_set([test]), class_names=names, name="cifar-10-binary")


def _read_records(path: Path, classes: int) -> tuple[Images, Labels]:
    data = np.frombuffer(_read_bytes(path), dtype=np.uint8)
    if not data.size or data.size % (1 + IMAGE_BYTES):
        raise _damaged(path, f"its size, {data.size} bytes, is not a multiple of a record's {1 + IMAGE_BYTES}")
    records = data.reshape(-1, 1 + IMAGE_BYTES)
    labels = records[:, 0].astype(np.int64)
    if labels.max() >= classes:
        raise _damaged(path, f"it has the label {labels.max()}; there are {classes} classes")
    return records[:, 1:], labels


SOCKET_TIMEOUT = 30.0
"""Seconds to wait for the next byte of a download."""
CHUNK_BYTES = 256 * 1024


def download(cache: Path, on_progress: OnProgress | None = None) -> Path:
    """Download the python version of CIFAR-10 to `cache`, or the part that is missing there, and return its folder.

    `on_progress` is called while the archive arrives.

    Raises:
        DataError: it cannot be downloaded.
    """
    from torchvision.datasets import CIFAR10
    from torchvision.datasets.utils import check_integrity

    folder, batches = cache / str(CIFAR10.base_folder), (*CIFAR10.train_list, *CIFAR10.test_list)
    try:
        cache.mkdir(parents=True, exist_ok=True)
        if not all(check_integrity(folder / name, md5) for name, md5 in batches):
            fetch(CIFAR10.url, cache / CIFAR10.filename, CIFAR10.tgz_md5, on_progress)
        with contextlib.redirect_stdout(io.StringIO()):  # torchvision checks and unpacks the archive, and prints
            CIFAR10(cache, download=True)
    except (OSError, RuntimeError, HTTPException) as error:
        raise DataError(
            f"CIFAR-10 cannot be downloaded from {CIFAR10.url} to {cache} ({error}); try again, which resumes the "
            f"download, or put {CIFAR10.filename} in {cache}, or set FASTCIFAR_DATA to a folder that contains it, "
            "or use --source synthetic"
        ) from error
    return folder


def fetch(url: str, archive: Path, md5: str, on_progress: OnProgress | None = None) -> None:
    """Download `archive` unless it is complete, continuing an earlier download that was interrupted.

    Raises:
        OSError: the connection failed, or the downloaded file has another MD5.
    """
    if archive.is_file() and md5_of(archive) == md5:
        return
    part = archive.with_name(archive.name + ".part")
    if archive.is_file() and not part.exists():
        archive.rename(part)  # the incomplete file of another program
    resumed = part.exists()
    _fetch_rest(url, part, on_progress)
    if resumed and md5_of(part) != md5:  # the bytes that were there are not the archive's first ones
        part.unlink()
        _fetch_rest(url, part, on_progress)
    if (found := md5_of(part)) != md5:
        part.unlink()
        raise OSError(f"the downloaded file has the MD5 {found}, not {md5}")
    part.replace(archive)


def _fetch_rest(url: str, part: Path, on_progress: OnProgress | None) -> None:
    start = part.stat().st_size if part.exists() else 0
    request = urllib.request.Request(url, headers={"Range": f"bytes={start}-"} if start else {})
    try:
        response = urllib.request.urlopen(request, timeout=SOCKET_TIMEOUT)
    except urllib.error.HTTPError as error:
        error.close()
        if error.code == 416:  # the server has no bytes after `start`
            return
        raise
    with response, part.open("ab" if response.status == 206 else "wb") as file:
        done, total = file.tell(), None if response.length is None else file.tell() + response.length
        while chunk := response.read(CHUNK_BYTES):
            done += file.write(chunk)
            if on_progress:
                on_progress(Progress(task="downloading", done=done / 1e6, total=total and total / 1e6, unit="MB"))
        missing = response.length  # http.client counts it down, and raises no error if the connection ends early
    if missing:
        raise OSError(f"the connection ended {missing} bytes early")
