"""The published forms of CIFAR-10 (python version, binary version), and a download that can resume."""

from __future__ import annotations

import contextlib
import io
import urllib.error
import urllib.request
from http.client import HTTPException
from pathlib import Path

from fastcifar.data.images import Source
from fastcifar.data.official import (
    LabelKind,
    Version,
    join_batches,
    md5_of,
    read_batch,
    read_lines,
    read_names,
    read_records,
)
from fastcifar.errors import DataError
from fastcifar.files import lock_folder
from fastcifar.progress import OnProgress, Progress

CLASSES = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
TRAIN_BATCHES, TEST_BATCH = tuple(f"data_batch_{number}" for number in range(1, 6)), "test_batch"
META, BINARY_META = "batches.meta", "batches.meta.txt"


def _read_python(folder: Path, _: LabelKind) -> Source:
    names = read_names(folder / META, "label_names")
    train = [read_batch(folder / name, len(names)) for name in TRAIN_BATCHES]
    test = [read_batch(folder / TEST_BATCH, len(names))]
    return Source(train=join_batches(train), test=join_batches(test), class_names=names, name="cifar-10-python")


def _read_binary(folder: Path, _: LabelKind) -> Source:
    meta = folder / BINARY_META
    names = read_lines(meta) if meta.exists() else CLASSES
    *train, test = (read_records(folder / f"{name}.bin", len(names)) for name in (*TRAIN_BATCHES, TEST_BATCH))
    return Source(train=join_batches(train), test=join_batches([test]), class_names=names, name="cifar-10-binary")


PYTHON = Version(
    title="CIFAR-10's python version",
    folder="cifar-10-batches-py",
    archive="cifar-10-python.tar.gz",
    files=(*TRAIN_BATCHES, TEST_BATCH, META),
    read=_read_python,
)
BINARY = Version(
    title="CIFAR-10's binary version",
    folder="cifar-10-batches-bin",
    archive="cifar-10-binary.tar.gz",
    files=(*(f"{name}.bin" for name in (*TRAIN_BATCHES, TEST_BATCH)), BINARY_META),
    optional=(BINARY_META,),
    read=_read_binary,
)


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
        with lock_folder(cache):  # another process that downloads is waited for
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
