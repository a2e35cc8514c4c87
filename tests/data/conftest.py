"""Fixtures of the data tests: small .beton files, and servers to download from."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from threading import Thread
from typing import Any

import numpy as np
import pytest

from fastcifar.data.official import MD5
from fastcifar.data.writer import write_beton
from tests.data.cifar_files import BATCHES, Server, write_archive, write_python

NAMES = ("left", "right")
collect_ignore = [] if find_spec("ffcv") else ["test_ffcv_compat.py"]


@pytest.fixture
def labels() -> np.ndarray:
    """int64 [64], for the images of `pictures`."""
    return np.arange(64, dtype=np.int64) % 2


@pytest.fixture
def file(tmp_path: Path, pictures: np.ndarray, labels: np.ndarray) -> Path:
    """A .beton of 64 images, the only one in its folder."""
    path = tmp_path / "train.beton"
    write_beton(path, pictures, labels, class_names=NAMES, name="noise")
    return path


@pytest.fixture
def no_source_variable(monkeypatch: pytest.MonkeyPatch) -> None:
    """Remove FASTCIFAR_DATA from the environment."""
    monkeypatch.delenv("FASTCIFAR_DATA", raising=False)


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    """A running server."""
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    with Server() as running:
        thread = Thread(target=running.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield running
        running.shutdown()
        thread.join()


@pytest.fixture
def published(tmp_path: Path, server: Server, monkeypatch: pytest.MonkeyPatch) -> Server:
    """A running server of a small archive that torchvision accepts as the official one."""
    from torchvision.datasets import CIFAR10

    folder = write_python(tmp_path / "published" / "cifar-10-batches-py")
    md5 = write_archive(tmp_path / "published" / "a.tar.gz", folder)
    server.body = (tmp_path / "published" / "a.tar.gz").read_bytes()
    sums = {path.name: hashlib.md5(path.read_bytes()).hexdigest() for path in folder.iterdir()}
    monkeypatch.setattr(CIFAR10, "url", server.url)
    monkeypatch.setattr(CIFAR10, "tgz_md5", md5)
    monkeypatch.setattr(CIFAR10, "train_list", [[name, sums[name]] for name in BATCHES[:5]])
    monkeypatch.setattr(CIFAR10, "test_list", [["test_batch", sums["test_batch"]]])
    # torchvision reads its keys as str, which the official Python 2 pickles give it
    monkeypatch.setattr(CIFAR10, "__init__", _download_only)
    monkeypatch.setitem(MD5, "cifar-10-python.tar.gz", md5)
    return server


def _download_only(self: Any, root: Path, download: bool) -> None:
    assert download
    self.root = root
    self.download()
    assert self._check_integrity()
