"""Where images come from: the official archives, their folders, an image folder, a download, or made-up images."""

from __future__ import annotations

import contextlib
import hashlib
import io
import os
import pickle
import shutil
import tarfile
import tempfile
import urllib.error
import urllib.request
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from http.client import HTTPException
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image

from fastcifar.data.synthetic import SHAPES, draw_synthetic
from fastcifar.errors import ConfigError, DataError

__all__ = ["ImageSet", "Source", "clamp_workers", "open_source", "usable_cores"]

ENVIRONMENT = "FASTCIFAR_DATA"
PYTHON_FOLDER, PYTHON_ARCHIVE = "cifar-10-batches-py", "cifar-10-python.tar.gz"
BINARY_FOLDER, BINARY_ARCHIVE = "cifar-10-batches-bin", "cifar-10-binary.tar.gz"
TRAIN_BATCHES, TEST_BATCH = tuple(f"data_batch_{number}" for number in range(1, 6)), "test_batch"
PYTHON_FILES = (*TRAIN_BATCHES, TEST_BATCH, "batches.meta")
BINARY_FILES = tuple(f"{name}.bin" for name in (*TRAIN_BATCHES, TEST_BATCH))
BINARY_META = "batches.meta.txt"
MD5 = {
    PYTHON_ARCHIVE: "c58f30108f718f92721af3b95e74349a",
    BINARY_ARCHIVE: "c32a1d4ab5d03f1284b67883e8d87530",
}
"""As published at https://www.cs.toronto.edu/~kriz/cifar.html."""
CLASSES = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
IMAGE_BYTES = 3 * 32 * 32
"""A red, a green and a blue plane of 32 rows of 32."""
PICTURES = {".png", ".jpg", ".jpeg"}
SOCKET_TIMEOUT = 30.0
"""Seconds without a byte after which a download is given up."""
ACCEPTED = (
    f"a source is 'auto', 'download', 'synthetic', {PYTHON_ARCHIVE} or {BINARY_ARCHIVE}, a folder with one of them or "
    f"with {PYTHON_FOLDER} or {BINARY_FOLDER}, or an image folder of train/<class>/*.png|jpg and test/<class>/*.png|jpg"
)

Images = npt.NDArray[np.uint8]
Labels = npt.NDArray[np.int64]


@dataclass(frozen=True, kw_only=True)
class ImageSet:
    """Images and labels of one split."""

    images: Images
    """uint8 [N, H, W, 3], C-contiguous."""
    labels: Labels
    """int64 [N], each an index into the source's class names."""


@dataclass(frozen=True, kw_only=True)
class Source:
    """A data set in memory."""

    train: ImageSet
    test: ImageSet
    class_names: tuple[str, ...]
    name: str
    """'cifar-10-python', 'cifar-10-binary', 'image-folder' or 'synthetic'."""


def open_source(
    source: str | Path = "auto",
    *,
    cache: Path = Path("data/cifar10"),
    resize: int | None = None,
    workers: int | None = None,
    seed: int = 0,
) -> Source:
    """Read a data set, whole and checked, from whatever `source` names.

    Args:
        source: 'auto' (the path in FASTCIFAR_DATA if that is set, else a copy in `cache`, else the download),
            'download', 'synthetic', or the path of an official archive, of a folder that is or holds an official
            version, or of an image folder.
        cache: where the download goes, and where 'auto' looks for an earlier one.
        resize: bring every picture of an image folder to this side in pixels.
        workers: threads that decode an image folder, clamped to the usable cores; all of these if not given.
        seed: of the made-up images.

    Raises:
        DataError: the source is missing, damaged or cannot be fetched.
        ConfigError: `workers` or `resize` is below 1, or `resize` asks for another size of a source that has its own.
    """
    if resize is not None and resize < 1:
        raise ConfigError(f"resize is {resize}; it must be at least 1 pixel")
    workers = clamp_workers(workers)
    match source:
        case "auto":
            opened = _open_auto(cache, resize, workers)
        case "download":
            opened = _open_download(cache)
        case "synthetic":
            opened = _open_synthetic(seed)
        case _:
            opened = _open_path(Path(source).expanduser(), resize, workers)
    if resize is not None and opened.train.images.shape[1:3] != (resize, resize):
        raise ConfigError(f"resize is {resize}; only an image folder is resized: leave it out for {opened.name}")
    return opened


def usable_cores() -> int:
    """The cores that this process may run on, which can be fewer than the machine has."""
    return len(os.sched_getaffinity(0))


def clamp_workers(workers: int | None) -> int:
    """At most the usable cores, and all of them for None.

    Raises:
        ConfigError: `workers` is below 1.
    """
    if workers is not None and workers < 1:
        raise ConfigError(f"workers is {workers}; it must be at least 1")
    return min(workers or usable_cores(), usable_cores())


def _open_auto(cache: Path, resize: int | None, workers: int) -> Source:
    if named := os.environ.get(ENVIRONMENT):
        try:
            return _open_path(Path(named).expanduser(), resize, workers)
        except DataError as error:
            raise DataError(f"the environment variable {ENVIRONMENT} names no usable source: {error}") from error
    try:
        return _open_path(cache, resize, workers)
    except DataError:  # nothing there yet, or a copy that broke off, which the download mends
        return _open_download(cache)


def _open_path(path: Path, resize: int | None, workers: int) -> Source:
    if not path.exists():
        raise DataError(f"{path}: there is no such file or folder; {ACCEPTED}")
    if path.is_file():
        return _open_archive(path)
    for folder in (path, path / PYTHON_FOLDER, path / BINARY_FOLDER):
        if _is_version(folder, PYTHON_FOLDER, PYTHON_FILES):
            return _open_python(folder)
        if _is_version(folder, BINARY_FOLDER, BINARY_FILES):
            return _open_binary(folder)
    for archive in (path / PYTHON_ARCHIVE, path / BINARY_ARCHIVE):
        if archive.is_file():
            return _open_archive(archive)
    if (path / "train").is_dir() or (path / "test").is_dir():
        return _open_image_folder(path, resize, workers)
    raise DataError(f"{path}: a folder without classes, and without CIFAR-10; {ACCEPTED}")


def _is_version(folder: Path, name: str, files: tuple[str, ...]) -> bool:
    """Whether `folder` is meant to be an official version, complete or not."""
    return (folder.name == name and folder.is_dir()) or any((folder / file).exists() for file in files)


def _open_synthetic(seed: int) -> Source:
    train, test = draw_synthetic(seed=seed)
    return Source(
        train=ImageSet(images=train[0], labels=train[1]),
        test=ImageSet(images=test[0], labels=test[1]),
        class_names=tuple(SHAPES),
        name="synthetic",
    )


# The official versions


def _open_archive(path: Path) -> Source:
    found = _md5(path)
    if found == MD5[PYTHON_ARCHIVE]:
        folder, files, open_folder = PYTHON_FOLDER, PYTHON_FILES, _open_python
    elif found == MD5[BINARY_ARCHIVE]:
        folder, files, open_folder = BINARY_FOLDER, (*BINARY_FILES, BINARY_META), _open_binary
    else:
        published = " or ".join(f"{md5} ({name})" for name, md5 in MD5.items())
        raise DataError(f"{path}: its MD5 is {found}, not {published}; it is cut off or not official: fetch it again")
    with tempfile.TemporaryDirectory(prefix="fastcifar-") as temporary, tarfile.open(path) as archive:
        # File by file, by name: nothing lands elsewhere, on Python before 3.11.4 too, which has no filter="data"
        for name in files:
            member = archive.extractfile(f"{folder}/{name}")
            assert member is not None, "the MD5 says that this is a plain file"
            with member, (Path(temporary) / name).open("wb") as file:
                shutil.copyfileobj(member, file)
        return open_folder(Path(temporary))


def _md5(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, lambda: hashlib.md5(usedforsecurity=False)).hexdigest()


def _read_bytes(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except FileNotFoundError:
        raise DataError(
            f"{path}: there is no such file; {path.parent} is incomplete: unpack the archive again"
        ) from None
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror}); check its type and permissions") from error


def _damaged(path: Path, what: str) -> DataError:
    return DataError(f"{path}: {what}; unpack the official archive again")


def _image_set(parts: list[tuple[Images, Labels]]) -> ImageSet:
    """Planar uint8 [N, 3072] and labels, batch after batch, as one set of [N, 32, 32, 3]."""
    planes = np.concatenate([images for images, _ in parts]).reshape(-1, 3, 32, 32)
    images = np.ascontiguousarray(planes.transpose(0, 2, 3, 1))
    return ImageSet(images=images, labels=np.concatenate([labels for _, labels in parts]))


def _open_python(folder: Path) -> Source:
    meta = folder / "batches.meta"
    try:
        names = tuple(
            name.decode() if isinstance(name, bytes) else str(name) for name in _unpickle(meta)["label_names"]
        )
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
        raise _damaged(path, "it has no 'data' and 'labels', or ragged ones") from error
    if images.dtype != np.uint8 or images.ndim != 2 or images.shape[1] != IMAGE_BYTES or not len(images):
        raise _damaged(path, f"its 'data' is {images.dtype} {list(images.shape)}, not uint8 [N, {IMAGE_BYTES}]")
    if labels.dtype.kind not in "iu" or labels.shape != (len(images),) or labels.min() < 0 or labels.max() >= classes:
        raise _damaged(path, f"its 'labels' are not one from 0 to {classes - 1} for each of {len(images)} images")
    return images, labels.astype(np.int64)


class _Unpickler(pickle.Unpickler):
    """Makes the arrays that the official files hold, and runs nothing else that a pickle may name."""

    ALLOWED = frozenset(
        {
            ("numpy.core.multiarray", "_reconstruct"),
            ("numpy._core.multiarray", "_reconstruct"),
            ("numpy", "ndarray"),
            ("numpy", "dtype"),
            ("_codecs", "encode"),
        }
    )

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in self.ALLOWED:
            raise pickle.UnpicklingError(f"it names {module}.{name}, which no official file does")
        return super().find_class(module, name)


def _unpickle(path: Path) -> dict[str, Any]:
    data = _read_bytes(path)
    try:
        values = _Unpickler(io.BytesIO(data), encoding="bytes").load()
    except Exception as error:  # a damaged pickle can raise nearly anything
        raise _damaged(path, f"not a whole official pickle ({error})") from error
    if not isinstance(values, dict):
        raise _damaged(path, f"it holds a {type(values).__name__}, not a dictionary")
    return {key.decode("latin1") if isinstance(key, bytes) else str(key): value for key, value in values.items()}


def _open_binary(folder: Path) -> Source:
    meta = folder / BINARY_META
    names = tuple(_read_bytes(meta).decode("latin1").split()) if meta.exists() else CLASSES
    *train, test = (_read_records(folder / name, len(names)) for name in BINARY_FILES)
    return Source(train=_image_set(train), test=_image_set([test]), class_names=names, name="cifar-10-binary")


def _read_records(path: Path, classes: int) -> tuple[Images, Labels]:
    data = np.frombuffer(_read_bytes(path), dtype=np.uint8)
    if not data.size or data.size % (1 + IMAGE_BYTES):
        raise _damaged(path, f"its {data.size} bytes are not whole records of {1 + IMAGE_BYTES}")
    records = data.reshape(-1, 1 + IMAGE_BYTES)
    labels = records[:, 0].astype(np.int64)
    if labels.max() >= classes:
        raise _damaged(path, f"it has the label {labels.max()}; there are {classes} classes")
    return records[:, 1:], labels


# The image folder


def _open_image_folder(path: Path, resize: int | None, workers: int) -> Source:
    names = _class_names(path / "train")
    if differing := sorted(set(names) ^ set(_class_names(path / "test"))):
        raise DataError(f"{path}: train and test have different classes ({', '.join(differing)}); give both the same")
    files: list[Path] = []
    labels: list[int] = []
    train_count = 0
    for split in ("train", "test"):
        train_count = len(files)
        for label, name in enumerate(names):
            pictures = _pictures(path / split / name)
            files += pictures
            labels += [label] * len(pictures)
    images, numbers = _decode_all(files, resize, workers), np.array(labels, dtype=np.int64)
    return Source(
        train=ImageSet(images=images[:train_count], labels=numbers[:train_count]),
        test=ImageSet(images=images[train_count:], labels=numbers[train_count:]),
        class_names=names,
        name="image-folder",
    )


def _class_names(split: Path) -> tuple[str, ...]:
    if not split.is_dir():
        raise DataError(f"{split}: there is no such folder; an image folder has train/<class>/ and test/<class>/")
    names = sorted(folder.name for folder in split.iterdir() if folder.is_dir() and not folder.name.startswith("."))
    if len(names) < 2:
        raise DataError(f"{split}: it has {len(names)} class folders; give it at least 2, with the pictures in them")
    return tuple(names)


def _pictures(folder: Path) -> list[Path]:
    files = sorted(
        file for file in folder.iterdir() if file.suffix.lower() in PICTURES and not file.name.startswith(".")
    )
    if not files:
        raise DataError(f"{folder}: a class without a .png, .jpg or .jpeg file; add pictures or remove the folder")
    return files


def _decode(file: Path, resize: int | None) -> Images:
    try:
        with Image.open(file) as picture:
            rgb = picture.convert("RGB")
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise DataError(f"{file}: no picture that can be read ({error}); replace or remove it") from error
    if resize is not None:
        rgb = rgb.resize((resize, resize), Image.Resampling.BICUBIC)  # Pillow's has the antialias in it
    return np.array(rgb)


def _decode_all(files: list[Path], resize: int | None, workers: int) -> Images:
    pool = ThreadPoolExecutor(workers)
    try:
        decoded = pool.map(lambda file: _decode(file, resize), files)
        first = next(decoded)
        images = np.empty((len(files), *first.shape), dtype=np.uint8)
        images[0] = first
        for index, image in enumerate(decoded, start=1):
            if image.shape != first.shape:
                sizes = [f"{array.shape[1]}x{array.shape[0]}" for array in (first, image)]
                raise DataError(
                    f"{files[0]} is {sizes[0]} pixels, {files[index]} is {sizes[1]}; pass --resize 32 to make them equal"
                )
            images[index] = image
    finally:
        pool.shutdown(cancel_futures=True)
    return images


# The download


def _open_download(cache: Path) -> Source:
    from torchvision.datasets import CIFAR10
    from torchvision.datasets.utils import check_integrity

    folder, batches = cache / CIFAR10.base_folder, (*CIFAR10.train_list, *CIFAR10.test_list)
    try:
        cache.mkdir(parents=True, exist_ok=True)
        if not all(check_integrity(folder / name, md5) for name, md5 in batches):
            _fetch(CIFAR10.url, cache / CIFAR10.filename, CIFAR10.tgz_md5)
        with contextlib.redirect_stdout(io.StringIO()):  # torchvision checks and unpacks the archive, and talks
            CIFAR10(cache, download=True)
    except (OSError, RuntimeError, HTTPException) as error:
        raise DataError(
            f"CIFAR-10 cannot be fetched from {CIFAR10.url} into {cache} ({error}); try again, which goes on where "
            f"this stopped, or put {CIFAR10.filename} in {cache}, or set {ENVIRONMENT} to a folder that has it, or use "
            "--source synthetic"
        ) from error
    return _open_python(folder)


def _fetch(url: str, archive: Path, md5: str) -> None:
    """Have `archive` whole, with what an earlier, broken download left of it; the MD5 decides whether it is."""
    if archive.is_file() and _md5(archive) == md5:
        return
    part = archive.with_name(archive.name + ".part")
    if archive.is_file() and not part.exists():
        archive.rename(part)  # another program's, cut off
    resumed = part.exists()
    _fetch_rest(url, part)
    if resumed and _md5(part) != md5:  # what was there was not its beginning
        part.unlink()
        _fetch_rest(url, part)
    if (found := _md5(part)) != md5:
        part.unlink()
        raise OSError(f"what came has the MD5 {found}, not {md5}")
    part.replace(archive)


def _fetch_rest(url: str, part: Path) -> None:
    start = part.stat().st_size if part.exists() else 0
    request = urllib.request.Request(url, headers={"Range": f"bytes={start}-"} if start else {})
    try:
        response = urllib.request.urlopen(request, timeout=SOCKET_TIMEOUT)
    except urllib.error.HTTPError as error:
        error.close()
        if error.code == 416:  # nothing lies beyond `start`
            return
        raise
    with response, part.open("ab" if response.status == 206 else "wb") as file:
        shutil.copyfileobj(response, file)
        missing = response.length  # http.client counts it down, and does not complain when a connection ends early
    if missing:
        raise OSError(f"the connection ended {missing} bytes early")
