"""The download of CIFAR-10, which goes on where it stopped."""

from __future__ import annotations

import contextlib
import io
import shutil
import urllib.error
import urllib.request
from http.client import HTTPException
from pathlib import Path

from fastcifar.data.official import md5_of
from fastcifar.errors import DataError

SOCKET_TIMEOUT = 30.0
"""Seconds without a byte after which a download is given up."""


def download(cache: Path) -> Path:
    """Have CIFAR-10's python version in `cache`, with what an earlier download left there; the folder of its files.

    Raises:
        DataError: it cannot be fetched.
    """
    from torchvision.datasets import CIFAR10
    from torchvision.datasets.utils import check_integrity

    folder, batches = cache / str(CIFAR10.base_folder), (*CIFAR10.train_list, *CIFAR10.test_list)
    try:
        cache.mkdir(parents=True, exist_ok=True)
        if not all(check_integrity(folder / name, md5) for name, md5 in batches):
            fetch(CIFAR10.url, cache / CIFAR10.filename, CIFAR10.tgz_md5)
        with contextlib.redirect_stdout(io.StringIO()):  # torchvision checks and unpacks the archive, and talks
            CIFAR10(cache, download=True)
    except (OSError, RuntimeError, HTTPException) as error:
        raise DataError(
            f"CIFAR-10 cannot be fetched from {CIFAR10.url} into {cache} ({error}); try again, which goes on where "
            f"this stopped, or put {CIFAR10.filename} in {cache}, or set FASTCIFAR_DATA to a folder that has it, "
            "or use --source synthetic"
        ) from error
    return folder


def fetch(url: str, archive: Path, md5: str) -> None:
    """Have `archive` whole, with what an earlier, broken download left of it; the MD5 decides whether it is."""
    if archive.is_file() and md5_of(archive) == md5:
        return
    part = archive.with_name(archive.name + ".part")
    if archive.is_file() and not part.exists():
        archive.rename(part)  # another program's, cut off
    resumed = part.exists()
    _fetch_rest(url, part)
    if resumed and md5_of(part) != md5:  # what was there was not its beginning
        part.unlink()
        _fetch_rest(url, part)
    if (found := md5_of(part)) != md5:
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
